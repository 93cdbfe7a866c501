import json
import subprocess
import sys

import pytest

from electra_cli.config.finetuning import FINETUNING, SCORES, check, default_config, fill_in, kind_of
from electra_cli.errors import UserError
from electra_cli.finetuning.tasks import build_task
from tests.finetuning.common import config_of


def config_with(**changes):
    config = default_config()
    config.data.train = "train.tsv"
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


@pytest.mark.parametrize(
    ("hidden_size", "rate", "decay"),
    [(128, 3e-4, 0.8), (256, 3e-4, 0.8), (768, 1e-4, 0.8), (1024, 5e-5, 0.9), (1536, 5e-5, 0.9)],
)
def test_rates_are_the_papers_by_width(hidden_size, rate, decay):
    """Clark et al. (ICLR 2020), Table 7: Small 3e-4, Base 1e-4, Large 5e-5; decay 0.8, 0.8, 0.9."""
    filled = fill_in(config_with(), "classification", hidden_size).optimizer
    assert (filled.learning_rate, filled.layerwise_lr_decay) == (rate, decay)
    assert (filled.warmup_fraction, filled.weight_decay_rate, filled.epsilon) == (0.1, 0.0, 1e-6)


@pytest.mark.parametrize(
    ("task", "kind", "epochs"),
    [
        ("rte", "classification", 10),
        ("stsb", "regression", 10),
        ("mnli", "classification", 3),
        ("classification", "classification", 3),
        ("regression", "regression", 3),
        ("tagging", "tagging", 3),
        ("question_answering", "question_answering", 2),
    ],
)
def test_epochs_are_the_papers_by_task(task, kind, epochs):
    """Table 7: 10 for RTE and STS, 2 for SQuAD, 3 for other GLUE tasks; batches of 32."""
    train = fill_in(config_with(task=task), kind, 256).train
    assert (train.num_epochs, train.global_batch_size) == (epochs, 32)


def test_given_values_stay():
    config = config_with(optimizer__learning_rate=1.0, optimizer__layerwise_lr_decay=0.5, train__num_epochs=7)
    filled = fill_in(config, "question_answering", 1024)
    assert (filled.optimizer.learning_rate, filled.optimizer.layerwise_lr_decay) == (1.0, 0.5)
    assert filled.train.num_epochs == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__network": "both"}, "config.model.network='both': must be one of discriminator, generator"),
        ({"model__head_dropout": 1.0}, "config.model.head_dropout=1.0: must be a fraction"),
        ({"optimizer__learning_rate": 0.0}, "config.optimizer.learning_rate=0.0: must be greater than 0"),
        ({"optimizer__layerwise_lr_decay": 1.5}, "config.optimizer.layerwise_lr_decay=1.5: is a factor"),
        ({"optimizer__schedule": "step"}, "config.optimizer.schedule='step': must be one of linear, cosine"),
        ({"optimizer__weight_decay_rate": -0.1}, "config.optimizer.weight_decay_rate=-0.1: must not be negative"),
        ({"train__num_epochs": 0}, "config.train.num_epochs=0: must be greater"),
        ({"train__seeds": ()}, "config.train.seeds=(): give one or more whole numbers"),
        ({"train__seeds": (0, -1)}, "config.train.seeds=(0, -1): give one or more"),
        ({"train__seeds": (1, 1)}, "config.train.seeds=(1, 1): a seed is there twice"),
        (
            {"runtime__strategy": "multi_worker_mirrored"},
            "config.runtime.strategy='multi_worker_mirrored': must be one of auto, one_dev",
        ),
        ({"runtime__logical_cpus": -1}, "config.runtime.logical_cpus=-1: must not be negative"),
        ({"task": "classify"}, "config.task='classify'"),
    ],
)
def test_values_that_cannot_be_trained_with(changes, message):
    check(config_with())
    with pytest.raises(UserError) as error:
        check(config_with(**changes))
    assert str(error.value).startswith(message)


def test_differences_are_told_as_json_has_them():
    def recorded(config):
        return json.loads(json.dumps(fill_in(config, "classification", 256).to_dict()))

    def differences(old, config):
        return FINETUNING.differences(old, config.to_dict())[0]

    old = recorded(config_with())
    assert differences(old, fill_in(config_with(), "classification", 256)) == []
    later = config_with(train__seeds=(0, 1), data__test="t.tsv", runtime__jit_compile="true", runtime__logical_cpus=2)
    assert differences(old, fill_in(later, "classification", 256)) == []
    other = fill_in(config_with(optimizer__learning_rate=1e-3, data__train="b.tsv"), "classification", 256)
    assert differences(old, other) == ["optimizer.learning_rate: 0.0003 -> 0.001"]
    # What Table 7 says of another encoder is a difference, too.
    changed = [key.split(":")[0] for key in differences(old, fill_in(config_with(), "classification", 1024))]
    assert changed == ["optimizer.layerwise_lr_decay", "optimizer.learning_rate"]
    del old["optimizer"]["clip_norm"]  # a key that came later
    assert differences(old, fill_in(config_with(), "classification", 256)) == []


def test_presets_can_be_trained_with():
    assert FINETUNING.names() == ["classification", "glue", "question_answering", "regression", "tagging"]


def test_tensorflow_is_not_imported():
    code = "import sys, electra_cli.config.finetuning; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_defaults_need_a_training_file_only():
    check(config_with())
    with pytest.raises(UserError, match=r"config\.data\.train='': give the file of training examples"):
        check(default_config())


def test_scores_are_those_of_the_tasks():
    for kind, names in SCORES.items():
        task = build_task(config_of(kind))
        assert task.score_names == names


def test_glue_decides_about_the_kind():
    assert kind_of("stsb") == "regression"
    assert kind_of("tagging") == "tagging"
    check(config_with(task="stsb", data__dir="glue", data__train=""))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "rtte"}, "config.task='rtte': must be one of classification"),
        ({"task": "rtte"}, "; did you mean rte?"),
        ({"task": ""}, "config.task='': must be one of classification, regression, tagging"),
        ({"task": "ner"}, "config.task='ner': must be one of classification, regression, tagging"),
        ({"primary_score": "spearman"}, "must be empty or a score of classification: accuracy, f1, mcc"),
        ({"task": "stsb", "data__dir": "d", "primary_score": "f1"}, "a score of regression: spearman"),
        ({"answers__doc_stride": 0}, "config.answers.doc_stride=0: must be greater than 0"),
        ({"answers__max_answer_length": -1}, "config.answers.max_answer_length=-1: must be greater"),
        ({"answers__num_best": 0}, "config.answers.num_best=0: must be greater"),
        ({"data__format": "xml"}, "config.data.format='xml': must be empty or one of tsv, csv, jsonl"),
        ({"data__validation_fraction": 1.0}, "config.data.validation_fraction=1.0: must be a fraction"),
        ({"data__second_text": "b"}, "config.data.second_text='b': is the second of two: give the first"),
        ({"task": "rte"}, "config.data.dir='': give the folder of GLUE's download"),
        ({"task": "rte", "data__dir": "d", "data__label": "x"}, "config.data.label='x': config.task=rte"),
        ({"data__validation": "train.tsv"}, "config.data.validation='train.tsv': is the training file"),
        ({"data__test": "train.tsv"}, "config.data.test='train.tsv': is the training file"),
        ({"task": "question_answering", "data__text": "q"}, "config.data.text='q': files of SQuAD have no"),
        ({"task": "tagging", "data__text": "a", "data__second_text": "b"}, "tagging has one text only"),
    ],
)
def test_values_that_cannot_be_meant(changes, message):
    with pytest.raises(UserError) as error:
        check(config_with(**changes))
    assert message in str(error.value)
