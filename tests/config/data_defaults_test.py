import pytest

from electra_cli.config import finetuning
from electra_cli.config.finetuning import check, kind_of
from electra_cli.errors import UserError
from electra_cli.finetuning.tasks import build_task
from tests.finetuning.common import config_of


def config_with(**changes):
    config = config_of("classification", train="train.tsv")
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def test_defaults_need_a_training_file_only():
    check(config_with())
    with pytest.raises(UserError, match=r"config\.data\.train='': give the file of training examples"):
        check(config_of("classification"))


def test_scores_are_those_of_the_tasks():
    for kind, names in finetuning.SCORES.items():
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
