import importlib.util

import pytest

from electra_cli.config.finetuning import FINETUNING
from electra_cli.config.presets import PRETRAINING
from electra_cli.config.reference import Entry, entries
from electra_cli.config.resolution import flatten


def module_of(tmp_path, body):
    """A module of the shape that is read, whose section `train` is made by `body`."""
    path = tmp_path / "defaults.py"
    path.write_text(
        "import ml_collections\nfrom ml_collections import config_dict\n\ndef default_config():\n"
        "    return ml_collections.ConfigDict({\n        # A value in no section.\n        'task': 'x',\n"
        "        'train': _train_section()})\n\n"
        f"def _train_section():\n    train = ml_collections.ConfigDict()\n{body}\n    return train\n"
    )
    spec = importlib.util.spec_from_file_location(f"defaults_{tmp_path.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("presets", [PRETRAINING, FINETUNING], ids=["pretraining", "finetuning"])
def test_every_key_is_described(presets):
    found = entries(presets.module)
    values = flatten(presets.default_config())
    assert len(found) == len({entry.path for entry in found}) == len(values)
    for entry in found:
        value = values[entry.path]
        assert entry.default == ("unset" if value is None else repr(value)), entry
        assert value is None or entry.type == type(value).__name__, entry
        assert len(entry.description) > 20 and "#" not in entry.description.replace('"##"', ""), entry


def test_some_keys():
    by_path = {entry.path: entry for entry in entries()}
    assert by_path["train.num_steps"] == Entry(
        "train", "num_steps", "int", "1000000",
        "Optimizer updates in the whole run; the learning rate reaches 0 there.",
    )  # fmt: skip
    assert (by_path["model.vocab_size"].type, by_path["model.vocab_size"].default) == ("int", "unset")
    assert by_path["phases.data_dir"].description == by_path["phases.learning_rate"].description


def test_another_module(tmp_path):
    body = """
    # Steps, of
    # two lines.
    train.num_steps = 5
    train.rate = config_dict.placeholder(float)  # not its description
    # A name.
    train.name = "a # b"
"""
    assert entries(module_of(tmp_path, body)) == [
        Entry("", "task", "str", "'x'", "A value in no section."),
        Entry("train", "num_steps", "int", "5", "Steps, of two lines."),
        Entry("train", "rate", "float", "unset", "Steps, of two lines."),
        Entry("train", "name", "str", "'a # b'", "A name."),
    ]


@pytest.mark.parametrize(
    "body",
    ["    train.num_steps = 5", "    # Two.\n    for key in ('a', 'b'):\n        train[key] = 1"],
    ids=["without a comment", "not an assignment"],
)
def test_keys_that_cannot_be_read_are_named(tmp_path, body):
    with pytest.raises(ValueError, match=r"not declared as the reference reads them: \['train\.(num_steps|a)"):
        entries(module_of(tmp_path, body))
