"""What runs write for TensorBoard, as its own reader has it."""

import json

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from electra_cli.loggers.tensorboard import TensorBoard
from tests.training.loop_test import assert_same_run, finished, small_config, train  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def shown(data_dir, tmp_path_factory):
    config = small_config(data_dir)
    config.eval.num_samples, config.train.histograms = 2, True
    workdir = tmp_path_factory.mktemp("shown")
    train(config, workdir)
    return workdir


def read(workdir, name):
    accumulator = EventAccumulator(str(workdir / "tensorboard" / name), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator


def test_what_is_shown_changes_nothing_that_is_learned(shown, finished):  # noqa: F811
    assert_same_run(finished[0], shown)


def test_names_and_values_are_those_of_the_metrics(shown):
    lines = [json.loads(line) for line in (shown / "metrics.jsonl").read_text().splitlines()]
    for split in ("train", "validation"):
        board = read(shown, split)
        found = {}
        for name in board.Tags()["tensors"]:
            if name != "samples":
                for event in board.Tensors(name):
                    found.setdefault(event.step, {})[name] = float(make_ndarray(event.tensor_proto))
        expected = {
            line["step"]: {name: value for name, value in line.items() if name not in ("step", "split")}
            for line in lines
            if line["split"] == split
        }
        assert found.keys() == expected.keys()
        for step, values in expected.items():
            assert found[step] == pytest.approx(values, rel=1e-6)


def test_samples_at_each_evaluation(shown):
    events = read(shown, "validation").Tensors("samples")
    assert [event.step for event in events] == [6, 12]
    first, second, legend = (text.decode() for text in make_ndarray(events[0].tensor_proto))
    assert first.startswith(r"\[CLS\]") and first != second and "~~" in first
    assert "replaced, and" in legend
    later = make_ndarray(events[1].tensor_proto)[0].decode()
    assert later != first and later.split("~~")[1] == first.split("~~")[1]  # the same masks, another model


def test_histograms_of_weights_at_each_checkpoint(shown):
    board = read(shown, "weights")
    names = board.Tags()["tensors"]
    assert len(names) > 20
    assert {tuple(event.step for event in board.Tensors(name)) for name in names} == {(4, 8, 12)}
    # Rows of (begin, end, number of weights).
    bins = make_ndarray(board.Tensors("word_embeddings")[-1].tensor_proto)
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(shown / "checkpoints")))
    (table,) = [
        reader.get_tensor(name)
        for name, shape in reader.get_variable_to_shape_map().items()
        if shape == [160, 8] and "optimizer" not in name.lower()
    ]
    assert bins[:, 2].sum() == table.size
    assert (bins[0, 0], bins[-1, 1]) == (pytest.approx(table.min()), pytest.approx(table.max()))


def test_variables_of_one_name_have_histograms_of_their_own(tmp_path):
    with TensorBoard(str(tmp_path)) as board:
        board.histograms(3, [tf.Variable([float(number)], name="kernel") for number in range(3)])
    assert read(tmp_path, "weights").Tags()["tensors"] == ["kernel", "kernel_1", "kernel_2"]


def test_hparams_are_the_config(shown):
    metadata = read(shown, "").SummaryMetadata("_hparams_/session_start_info")
    content = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
    found = content.session_start_info.hparams
    assert found["train.num_steps"].number_value == 12 and found["objective.name"].string_value == "electra"
    assert found["train.histograms"].bool_value is True and found["phases.num_steps"].string_value == "()"
    assert not any(name.startswith("derived.") for name in found)


def test_nothing_of_it_by_default(finished):  # noqa: F811
    assert not (finished[0] / "tensorboard" / "weights").exists()
    assert "samples" not in read(finished[0], "validation").Tags()["tensors"]
