import json

import ml_collections
import pytest

from electra_cli.config.fields import POSITIVE, Field, Schema, flatten
from electra_cli.config.finetuning import FINETUNING
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.errors import UserError

SCHEMA = Schema(
    {
        "task": Field("x", "A value in no section.", choices=("x", "yes")),
        "train.num_steps": Field(5, "Steps, of the run.", POSITIVE),
        "train.rate": Field(None, "Rate.", POSITIVE, value_type=float, changeable=True),
        "train.metric": Field("", "A name.", choices=("loss",)),
        "train.parts": Field((), "Several."),
    },
    "module.default_config",
)


@pytest.mark.parametrize("schema", [PRETRAINING, FINETUNING], ids=["pretraining", "finetuning"])
def test_every_key_is_described(schema):
    values = flatten(schema.default_config())
    assert schema.fields.keys() == values.keys()
    for key, field in schema.fields.items():
        value = values[key]
        assert field.default_text == ("unset" if value is None else repr(value)), key
        assert value is None or field.type_name == type(value).__name__, key
        assert field.find_mistake(value) is None, key
        assert len(field.description) > 20 and "#" not in field.description.replace('"##"', ""), key


def test_some_keys():
    field = PRETRAINING.fields["train.num_steps"]
    assert (field.type_name, field.default_text) == ("int", "1000000")
    assert field.description == "Optimizer updates in the whole run; the learning rate reaches 0 there."
    field = PRETRAINING.fields["model.vocab_size"]
    assert (field.type_name, field.default_text) == ("int", "unset")
    assert PRETRAINING.fields["phases.data_dir"].description == PRETRAINING.fields["phases.learning_rate"].description


def test_the_default_config():
    config = SCHEMA.default_config()
    assert config.to_dict() == {"task": "x", "train": {"num_steps": 5, "rate": None, "metric": "", "parts": ()}}
    config.train.rate = 0.5
    with pytest.raises(TypeError):
        config.train.rate = "fast"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task", "yess", "config.task='yess': must be one of x, yes; did you mean yes?"),
        ("task", "", "config.task='': must be one of x, yes"),
        ("train.metric", "z", "config.train.metric='z': must be empty or one of loss"),
        ("train.num_steps", 0, "config.train.num_steps=0: must be greater than 0"),
        ("train.rate", -1.0, "config.train.rate=-1.0: must be greater than 0"),
    ],
)
def test_values_that_cannot_be(key, value, message):
    config = SCHEMA.default_config()
    SCHEMA.check_values(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as error:
        SCHEMA.check_values(config)
    assert str(error.value) == message


def test_a_config_comes_back_from_json():
    config = SCHEMA.default_config()
    config.train.parts, config.train.rate = (1, 2), 0.5
    recorded = json.loads(json.dumps({**config.to_dict(), "derived": {"size": 3}}))
    restored = SCHEMA.restore(recorded, "file")
    assert restored == config and isinstance(restored, ml_collections.ConfigDict)
    assert SCHEMA.differences(recorded, restored.to_dict()) == ([], [])
    with pytest.raises(UserError, match="file was written by another version of this program"):
        SCHEMA.restore({**recorded, "new": 1}, "file")


def test_differences():
    old = SCHEMA.default_config()
    new = SCHEMA.default_config()
    new.task, new.train.rate = "yes", 0.5
    assert SCHEMA.differences(old, new) == (['task: "x" -> "yes"'], ["train.rate: null -> 0.5"])


@pytest.mark.parametrize("schema", [PRETRAINING, FINETUNING], ids=["pretraining", "finetuning"])
def test_whole_numbers_end_where_those_of_tensorflow_do(schema):
    for key, field in schema.fields.items():
        if field.type_name == "int" and field.rule is not None:
            assert field.find_mistake(10**20) is not None, key
            assert field.rule.limit < 2**31, key
    for field in (Field(5, "Steps, of the run.", POSITIVE.up_to(10)), Field(5, "No rule, no limit, as of seeds.")):
        assert field.find_mistake(10) is None
    assert Field(5, "Steps, of the run.", POSITIVE.up_to(10)).find_mistake(11) == "must be 10 at most"
    assert POSITIVE.limit == 2**31 - 1
    assert Field(0.5, "A rate.", POSITIVE).find_mistake(1e20) is None
