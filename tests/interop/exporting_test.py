"""Exports of fine-tuned models: loaded by their own libraries, and what is refused."""

import functools
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from electra_cli import api
from electra_cli.commands import export_checkpoint
from electra_cli.errors import UserError
from electra_cli.finetuning.model import load_fine_tuned
from electra_cli.interop import exporting, huggingface_export, saved_model
from electra_cli.interop.runs import largest_difference
from electra_cli.loggers.logger import Logger
from tests.finetuning import synthetic
from tests.finetuning.synthetic import predict
from tests.graphs import without_graphs
from tests.interop.commands_test import run, tree

KINDS = (*synthetic.MAKERS, "pairs")
SERVED = ("classification", "regression", "pairs")
# Imports TensorFlow and tensorflow-text alone, from a directory without this package.
SERVE = """
import json, sys
import tensorflow as tf
import tensorflow_text

outputs = {}
for directory, texts in json.loads(sys.argv[1]).items():
    texts = {name: tf.constant(values) for name, values in texts.items()}
    found = tf.saved_model.load(directory).signatures["serving_default"](**texts)
    names = ("label", "probability", "labels", "probabilities", "number")
    values = {name: found[name].numpy() for name in names if name in found}
    outputs[directory] = {name: value.astype(str).tolist() if value.dtype == object else value.tolist()
                          for name, value in values.items()}
print(json.dumps(outputs))
assert not any(name.startswith("electra_cli") for name in sys.modules)
"""


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [([([0.5, -0.25], [0.5, 0.0])], 0.25), ([([50.0, 1.0], [50.0, 3.0]), ([0.5], [0.53])], 0.04),
     ([([1.0], [float("nan")])], np.nan), ([([1.0, float("inf")], [1.0, 2.0])], np.nan)],
)  # fmt: skip
def test_the_largest_difference_is_relative_to_values_above_one(pairs, expected):
    np.testing.assert_allclose(largest_difference(pairs), expected, rtol=1e-6)


def silent(_):
    pass


@pytest.fixture(scope="module")
def fine_tuned(made_once, encoder):
    """Returns of a kind: the workdir, its validation file, and what it predicts for that with the second seed."""

    def make(kind, directory):
        files = synthetic.write(kind, directory, 64, 20)
        workdir = str(directory / "tuned")
        synthetic.fine_tune_briefly(kind, files, workdir, encoder, **{"train.seeds": (0, 3)})
        with without_graphs():
            predict(workdir, files["validation"], str(directory / "predicted.jsonl"), 3, Logger())

    def find(kind):
        directory = made_once(f"fine-tuned-{kind}", functools.partial(make, kind))
        (validation,) = directory.glob("*-validation.*")
        lines = (directory / "predicted.jsonl").read_text().splitlines()
        return directory / "tuned", validation, list(map(json.loads, lines))

    return find


def sentences_of(validation):
    """The texts of a validation file, and where it has pairs the second ones."""
    rows = [line.split("\t")[:-1] for line in validation.read_text().splitlines()[1:]]
    return list(map(list, zip(*rows, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_predicts_what_we_do(kind, fine_tuned, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    workdir, validation, expected = fine_tuned(kind)
    out = tmp_path / "out"
    run(export_checkpoint, f"--workdir={workdir}", "--format=huggingface", f"--output_dir={out}", "--seed=3")
    told = capsys.readouterr().out
    assert float(re.search(r"largest difference (\S+)\.\n", told)[1]) < 1e-5
    assert "Fine-tuned with seed 3 from discriminator of" in told
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.model_max_length == 40
    config = json.loads((out / "config.json").read_text())
    if kind in ("classification", "pairs", "regression"):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
        with torch.no_grad():
            logits = model(**tokenizer(*sentences_of(validation), padding=True, return_tensors="pt")).logits
        if kind == "regression":
            assert logits.shape == (20, 1) and config["problem_type"] == "regression"
            np.testing.assert_allclose(logits[:, 0], [line["prediction"] for line in expected], rtol=1e-5)
            return
        theirs = [model.config.id2label[int(place)] for place in logits.argmax(dim=-1)]
        assert config["label2id"] == ({"other": 0, "same": 1} if kind == "pairs" else {"animal": 0, "none": 1})
        assert theirs == [line["prediction"] for line in expected]
        probabilities = torch.softmax(logits, dim=-1).max(dim=-1).values
        np.testing.assert_allclose(probabilities, [line["probability"] for line in expected], atol=1e-5)
    elif kind == "tagging":
        assert config["id2label"] == {"0": "B-ANI", "1": "B-PER", "2": "I-PER", "3": "O"}
        tag = transformers.pipeline("token-classification", model=str(out), aggregation_strategy=None)
        blocks = validation.read_text().strip().split("\n\n")
        for block, line in zip(blocks, expected, strict=True):
            words = [row.split()[0] for row in block.split("\n")]  # each is one token
            found = {entity["index"]: entity["entity"] for entity in tag(" ".join(words))}
            assert [found.get(index + 1, "O") for index in range(len(words))] == line["prediction"]
    else:
        model = transformers.AutoModelForQuestionAnswering.from_pretrained(out).eval()
        paragraphs = json.loads(validation.read_text())["data"][0]["paragraphs"]
        trained = load_fine_tuned(str(workdir), 3, silent)
        for paragraph, line in zip(paragraphs, expected, strict=True):
            inputs = tokenizer("is it ?", paragraph["context"], return_tensors="pt")
            with torch.no_grad():
                found = model(**inputs)
            ours = trained.model(
                {
                    name: inputs[theirs].numpy().astype(np.int32)
                    for name, theirs in (
                        ("input_word_ids", "input_ids"), ("input_mask", "attention_mask"),
                        ("input_type_ids", "token_type_ids"),
                    )
                },
                training=False,
            ).numpy()  # fmt: skip
            np.testing.assert_allclose(found.start_logits, ours[..., 0], atol=1e-5)
            np.testing.assert_allclose(found.end_logits, ours[..., 1], atol=1e-5)
            assert line["prediction"] in paragraph["context"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_card_tells_what_it_is_and_how_to_use_it(kind, fine_tuned, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    workdir, _, _ = fine_tuned(kind)
    trained = load_fine_tuned(str(workdir), 0, silent)
    exporting.export_fine_tuned(trained, "huggingface", str(tmp_path / "out"), overwrite=False)
    card = (tmp_path / "out/README.md").read_text()
    for name, value in trained.scores["validation"]["scores"].items():
        assert f"| {name} | {value:.4f} |" in card
    assert "| validation, 20 examples | |" in card and "| seed | 0 |" in card
    assert f"| started from | {trained.record.source} |" in card
    found = {"PATH": str(tmp_path / "out")}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], found)
    result = {"classification": "label", "pairs": "label", "regression": "number", "tagging": "entities",
              "question_answering": "answer"}[kind]  # fmt: skip
    expected = {"label": str, "number": float, "entities": list, "answer": str}[result]
    assert isinstance(found[result], expected)
    if result == "label":
        assert found[result] in trained.task.labels.labels


@pytest.fixture(scope="module")
def served(fine_tuned, tmp_path_factory):
    """What SavedModels return for the validation files, by kind, all from one process."""
    root, texts = tmp_path_factory.mktemp("served"), {}
    for kind in SERVED:
        workdir, validation, _ = fine_tuned(kind)
        flags = ["--format=saved_model", f"--output_dir={root / kind}", "--seed=3"]
        run(export_checkpoint, f"--workdir={workdir}", *flags)
        texts[kind] = dict(zip(("text", "second_text"), sentences_of(validation), strict=False))
    result = subprocess.run([sys.executable, "-c", SERVE, json.dumps(texts)], capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", SERVED)
def test_a_saved_model_predicts_text_without_us(kind, fine_tuned, served):
    found, expected = served[kind], fine_tuned(kind)[2]
    if kind == "regression":
        assert found.keys() == {"number"}
        np.testing.assert_allclose(found["number"], [line["prediction"] for line in expected], rtol=1e-5)
        return
    assert found["label"] == [line["prediction"] for line in expected]
    np.testing.assert_allclose(found["probability"], [line["probability"] for line in expected], atol=1e-5)
    assert found["labels"] == [["other", "same"] if kind == "pairs" else ["animal", "none"]] * 20
    np.testing.assert_allclose(np.sum(found["probabilities"], axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.max(found["probabilities"], axis=1), found["probability"])


def test_what_cannot_be_exported_is_told_in_a_line(tmp_path):
    def refuse(kind, message, *flags):
        record = {"finetuning": {}, "kind": kind, "source": "x", "initializer_range": 0.1, "length": 8,
                  "has_pairs": False, "lower_case": True, "data_fingerprint": "x"}  # fmt: skip
        sizes = dict.fromkeys(
            ("vocab_size", "embedding_size", "hidden_size", "num_layers", "num_attention_heads", "intermediate_size",
             "max_position_embeddings", "type_vocab_size"), 8
        )  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps({**record, "sizes": sizes}))
        with pytest.raises(UserError, match=message):
            run(export_checkpoint, f"--workdir={tmp_path}", f"--output_dir={tmp_path / 'out'}", *flags)
        assert tree(tmp_path) == ["config.json"]

    refuse("classification", "holds encoders without a task: for a fine-tuned model give huggingface$", "--format=tfm")
    refuse("classification", "--format=google_tf1 holds encoders", "--format=google_tf1")
    refuse("tagging", "is for classification and regression: of tagging give huggingface", "--format=saved_model")
    refuse("question_answering", "of question answering give huggingface", "--format=saved_model")
    refuse("regression", "--network does not apply to a fine-tuned model", "--format=saved_model", "--network=both")
    refuse("regression", "--checkpoint does not apply to a fine-tuned", "--format=saved_model", "--checkpoint=best")
    refuse("regression", "--averaged does not apply to a fine-tuned model", "--format=saved_model", "--noaveraged")


def test_a_seed_is_of_fine_tuned_models(encoder, tmp_path):
    with pytest.raises(UserError, match="--seed=1 applies only to a fine-tuned model"):
        run(export_checkpoint, f"--workdir={encoder}", "--format=tfm", f"--output_dir={tmp_path / 'o'}", "--seed=1")


def test_what_takes_encoders_says_that_a_model_is_fine_tuned(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"finetuning": {}}))
    with pytest.raises(UserError, match="holds a fine-tuned model: give the workdir of its encoder"):
        api.load(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("writer", [huggingface_export, saved_model])
def test_an_export_that_computes_something_else_is_refused(writer, fine_tuned, tmp_path, monkeypatch):
    if writer is huggingface_export:
        pytest.importorskip("transformers")
    trained = load_fine_tuned(str(fine_tuned("classification")[0]), 0, silent)
    write = writer.write_fine_tuned

    def write_and_alter(*arguments):
        write(*arguments)
        trained.model.head_output.bias.assign_add([0.01, 0.0])

    monkeypatch.setattr(writer, "write_fine_tuned", write_and_alter)
    with pytest.raises(UserError, match=r"differs from the checkpoint by .*: nothing was exported"):
        name = "huggingface" if writer is huggingface_export else "saved_model"
        exporting.export_fine_tuned(trained, name, str(tmp_path / "out"), overwrite=False)
    assert tree(tmp_path) == []
