import os

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.data.input_pipeline import evaluation_dataset
from electra_cli.data.source import read_run
from electra_cli.errors import UserError
from electra_cli.loggers.lines import Lines
from electra_cli.loggers.logger import Logger
from electra_cli.report import report
from electra_cli.report.report import take_samples
from electra_cli.training import loop
from electra_cli.training.initialization import restore_model
from tests.conftest import prepare_small, small_config
from tests.graphs import without_graphs
from tests.report.common import write_workdir


def test_the_page_lies_in_the_first_workdir(tmp_path):
    paths = [str(write_workdir(tmp_path / name)) for name in ("a", "b")]
    assert report.write_report(paths, num_samples=0) == f"Written: {paths[0]}/report.html (0.3 MB)"
    assert "</html>" in (tmp_path / "a" / "report.html").read_text()
    assert sorted(os.listdir(paths[1])) == ["config.json", "events.jsonl", "metrics.jsonl"]


def test_links_are_replaced_and_not_followed(tmp_path):
    path = write_workdir(tmp_path / "run")
    (tmp_path / "precious").write_text("precious")
    for name in ("report.html", "report.html.tmp"):
        (path / name).symlink_to(tmp_path / "precious")
    report.write_report([str(path)], num_samples=0)
    assert (tmp_path / "precious").read_text() == "precious"
    assert "</html>" in (path / "report.html").read_text() and not (path / "report.html").is_symlink()


def test_text_is_returned_or_written(tmp_path):
    path = str(write_workdir(tmp_path / "run"))
    text = report.write_report([path], output_format="text", num_samples=0)
    assert text.startswith("run: complete")
    said = report.write_report([path], str(tmp_path / "run.txt"), output_format="text", num_samples=0)
    assert said == f"Written: {tmp_path}/run.txt ({os.path.getsize(tmp_path / 'run.txt') / 1000:.1f} KB)"
    assert (tmp_path / "run.txt").read_text().rstrip() == text


def test_notes_are_said(tmp_path):
    path = write_workdir(tmp_path / "run")
    with open(path / "metrics.jsonl", "a") as stream:
        stream.write("{\n")
    said = []
    report.write_report([str(path)], num_samples=0, logger=Lines(said.append))
    assert said[0] == f"{path}: 1 line is damaged in metrics.jsonl and left out, the first is line 9."


def test_a_report_replaces_a_report_and_no_other_file(tmp_path):
    path, output = str(write_workdir(tmp_path / "run")), tmp_path / "output"
    output.touch()
    for output_format in ("html", "text", "text", "html", "html"):
        report.write_report([path], str(output), output_format=output_format, num_samples=0)
    names = [str(write_workdir(tmp_path / (name * 40))) for name in ("a", "b")]  # which leave the table little room
    for _ in range(2):
        report.write_report(names, str(output), output_format="text", num_samples=0)
    for content in ("<!DOCTYPE html><title>Mine</title>", "metric: value\n", "{}"):
        output.write_text(content)
        with pytest.raises(UserError, match=f"^--output={output} was not written by this command: remove it, or give"):
            report.write_report([path], str(output), num_samples=0)
        assert output.read_text() == content


def test_outputs_that_cannot_be_written(tmp_path, monkeypatch):
    path = str(write_workdir(tmp_path / "run"))
    for output, message in (
        (str(tmp_path), "is a directory: give a file in it"),
        (str(tmp_path / "no" / "report.html"), "there is no directory .*; make it, or choose another"),
        ("/proc/report.html", "cannot be written"),
        ("/dev/null", "is no regular file: give another name"),
    ):
        with pytest.raises(UserError, match=f"^--output={output}.*{message}"):
            report.write_report([path], output, num_samples=0)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"report\.html cannot be written: No space left on device; choose another"):
        report.write_report([path], num_samples=0)
    assert "report.html" not in " ".join(os.listdir(path))


def test_a_page_without_the_samples_that_cannot_be_made(tmp_path):
    path = str(write_workdir(tmp_path / "run", overrides={"data.dir": str(tmp_path / "gone")}))
    said = []
    report.write_report([path], num_samples=2, logger=Lines(said.append))
    assert said[0].startswith(f"{path}: no samples: config.data.dir={tmp_path}/gone: no such directory")
    assert "no such directory" in (tmp_path / "run" / "report.html").read_text()


NUM_SAMPLES = 3


def train(config, workdir):
    config.train.num_steps = config.train.checkpoint_interval = 2
    with without_graphs():
        loop.train(config, str(workdir), with_evaluation=False, logger=Logger())
    return str(workdir)


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    config = small_config(data_dir)
    config.objective.sampling_temperature, config.model.initializer_range = 1.5, 0.3
    workdir = train(config, tmp_path_factory.mktemp("samples") / "run")
    return config, workdir, take_samples(workdir, NUM_SAMPLES)


def evaluated(config, workdir):
    """What the model itself makes of the examples, and of their batch in an evaluation."""
    run_config = read_run(config)
    (phase,) = run_config.phases
    dataset = evaluation_dataset(
        phase.source.validation, phase.masking, pad_id=phase.source.vocabulary.pad_id, max_seq_length=32,
        global_batch_size=8, num_examples=config.eval.num_examples,
    )  # fmt: skip
    batch = {name: value[:NUM_SAMPLES] for name, value in next(iter(dataset)).items()}
    model, *_ = restore_model(run_config.resolved, f"{workdir}/checkpoints", lambda _: None)
    outputs = model(batch, training=False)
    return {name: value.numpy() for name, value in {**batch, **outputs}.items()}, phase.source.vocabulary.tokens


def test_samples_are_what_evaluation_sees(run):
    config, workdir, (step, samples) = run
    values, vocabulary = evaluated(config, workdir)
    assert step == 2 and len(samples) == NUM_SAMPLES
    probabilities = tf.nn.softmax(values["lm_outputs"]).numpy()
    for index, sample in enumerate(samples):
        length = values["input_mask"][index].sum()
        assert len(sample.tokens) == length
        labels = [int(token.is_replaced) for token in sample.tokens]
        assert labels == values["disc_label"][index][:length].tolist() and sum(labels) > 0
        expected = tf.sigmoid(values["disc_logits"][index][:length]).numpy()
        np.testing.assert_allclose([token.replaced_probability for token in sample.tokens], expected, rtol=1e-4)
        num_masked = int(values["masked_lm_weights"][index].sum())
        assert sum(token.choice is not None for token in sample.tokens) == num_masked
        for slot in range(num_masked):
            token = sample.tokens[values["masked_lm_positions"][index, slot]]
            original = values["masked_lm_ids"][index, slot]
            assert token.text == vocabulary[original].removeprefix("##")
            assert token.original_probability == pytest.approx(probabilities[index, slot, original], rel=1e-4)
            # Pieces that are shown alike may stand for one choice.
            alike = [place for place, piece in enumerate(vocabulary) if piece.removeprefix("##") == token.choice]
            found = probabilities[index, slot, alike]
            assert any(probability == pytest.approx(token.choice_probability, rel=1e-4) for probability in found)
    assert sample.tokens[0].text == "[CLS]" and sample.tokens[0].choice is None


def test_masked_language_models_show_their_best_guess(data_dir, tmp_path):
    config = small_config(data_dir)
    config.objective.name = "mlm"
    workdir = train(config, tmp_path / "run")
    values, vocabulary = evaluated(config, workdir)
    _, samples = take_samples(workdir, NUM_SAMPLES)
    for index, sample in enumerate(samples):
        position = values["masked_lm_positions"][index, 0]
        token = sample.tokens[position]
        assert token.choice == vocabulary[values["lm_outputs"][index, 0].argmax()].removeprefix("##")
        assert token.verdict in ("right", "wrong") and token.replaced_probability is None


def test_what_is_missing_is_named(corpus_file, tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        take_samples(str(tmp_path), 1)
    data = prepare_small(corpus_file, tmp_path / "data", validation_fraction=0.0)[0]
    config = small_config(data)
    with pytest.raises(UserError, match="has no validation examples"):
        take_samples(train(config, tmp_path / "run"), 1)
    (data / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"vocab\.txt cannot be read"):
        take_samples(str(tmp_path / "run"), 1)
