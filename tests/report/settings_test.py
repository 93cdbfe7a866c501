import pytest

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.report.records import read_runs
from electra_cli.report.settings import Difference, between_runs, closest_preset, describe_model, differences
from tests.config.resolution_test import preset
from tests.report.common import write_workdir


def test_the_closest_preset_and_what_differs():
    config = preset("tiny")
    config.data.dir, config.train.num_steps, config.eval.num_examples = "somewhere", 77, 99
    expected = [Difference("eval.num_examples", ("512", "99")), Difference("train.num_steps", ("1200", "77"))]
    assert closest_preset(resolve(config, 100).to_dict()) == ("tiny", expected)
    assert closest_preset(preset("base").to_dict()) == ("base", [])


def test_a_key_that_is_newer_than_the_run_had_its_default():
    config = preset("tiny").to_dict()
    del config["eval"]["num_samples"]
    assert closest_preset(config) == ("tiny", [])


def test_tuples_and_lists_are_the_same():
    first, second = default_config().to_dict(), default_config().to_dict()
    first["phases"]["num_steps"], second["phases"]["num_steps"] = (1, 2), [1, 2]
    second["old_section"] = {"old_key": 1}
    assert differences([first, second]) == [Difference("old_section.old_key", ("unset", "1"))]


def test_between_runs(tmp_path):
    paths = [
        write_workdir(tmp_path / "a"),
        write_workdir(tmp_path / "b", overrides={"objective.name": "mlm"}),
        write_workdir(tmp_path / "c"),
    ]
    (paths[2] / "config.json").unlink()
    runs = read_runs([str(path) for path in paths])
    assert between_runs(runs) == [Difference("objective.name", ('"electra"', '"mlm"', "?"))]
    assert between_runs(runs[:1]) == []


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({}, "discriminator 12 layers of 256, generator 12 of 64"),
        ({"objective.name": "mlm"}, "masked language modeling, 12 layers of 256"),
        ({"objective.tied_generator": True}, "one network for both, 12 layers of 256"),
        ({"objective.uniform_generator": True}, "discriminator 12 layers of 256, no generator"),
    ],
)
def test_the_model_in_a_line(overrides, text):
    config = default_config()
    config.update_from_flattened_dict({"data.dir": "data", **overrides})
    assert describe_model(resolve(config, 100).to_dict()) == text
