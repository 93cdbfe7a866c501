import pytest

from electra_cli.errors import UserError
from electra_cli.finetuning import data_defaults
from electra_cli.finetuning.data_defaults import data_section, kind_of, task_section, validate
from electra_cli.finetuning.tasks import build_task


def sections(**changes):
    task, data = task_section(), data_section()
    data.train = "train.tsv"
    for key, value in changes.items():
        section, name = key.split("__")
        (task if section == "task" else data)[name] = value
    return task, data


def test_defaults_need_a_training_file_only():
    validate(*sections())
    with pytest.raises(UserError, match=r"config\.data\.train='': give the file of training examples"):
        validate(task_section(), data_section())


def test_scores_are_those_of_the_tasks():
    for kind, names in data_defaults.SCORES.items():
        task = build_task(sections(task__kind=kind)[0])
        assert task.score_names == names


def test_glue_decides_about_the_kind():
    assert kind_of(sections(task__glue="stsb")[0]) == "regression"
    assert kind_of(sections(task__kind="tagging")[0]) == "tagging"
    validate(*sections(task__glue="stsb", data__dir="glue", data__train=""))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task__glue": "RTE"}, "config.task.glue='RTE': is empty or one of cola, sst2"),
        ({"task__kind": "ner"}, "config.task.kind='ner': is one of classification, regression, tagging"),
        ({"task__primary_score": "spearman"}, "is empty or a score of classification: accuracy, f1, mcc"),
        ({"task__glue": "stsb", "data__dir": "d", "task__primary_score": "f1"}, "a score of regression: spearman"),
        ({"task__doc_stride": 0}, "config.task.doc_stride=0: must be greater than 0"),
        ({"task__max_answer_length": -1}, "config.task.max_answer_length=-1: must be greater"),
        ({"task__num_best": 0}, "config.task.num_best=0: must be greater"),
        ({"data__format": "xml"}, "config.data.format='xml': is empty or one of tsv, csv, jsonl"),
        ({"data__validation_fraction": 1.0}, "config.data.validation_fraction=1.0: is a fraction"),
        ({"data__second_text": "b"}, "config.data.second_text='b': is the second of two: give the first"),
        ({"task__glue": "rte"}, "config.data.dir='': give the folder of GLUE's download"),
        ({"task__glue": "rte", "data__dir": "d", "data__label": "x"}, "config.data.label='x': config.task.glue=rte"),
        ({"data__validation": "train.tsv"}, "config.data.validation='train.tsv': is the training file"),
        ({"data__test": "train.tsv"}, "config.data.test='train.tsv': is the training file"),
        ({"task__kind": "question_answering", "data__text": "q"}, "config.data.text='q': files of SQuAD have no"),
        ({"task__kind": "tagging", "data__text": "a", "data__second_text": "b"}, "tagging has one text only"),
    ],
)
def test_values_that_cannot_be_meant(changes, message):
    with pytest.raises(UserError) as error:
        validate(*sections(**changes))
    assert message in str(error.value)
