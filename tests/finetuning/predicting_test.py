"""What is done with a fine-tuned workdir: the seed that is chosen, and predictions for files."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from electra_cli.errors import UserError
from electra_cli.finetuning.finetune import finetune
from electra_cli.finetuning.model import load_fine_tuned
from electra_cli.finetuning.tables import Columns
from electra_cli.finetuning.tasks import PREDICT_FLAG
from electra_cli.finetuning.workdir import choose_seed
from electra_cli.loggers.lines import Lines, Quiet
from electra_cli.loggers.logger import Logger
from tests.finetuning import synthetic
from tests.finetuning.synthetic import predict


def silent(_):
    pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return synthetic.write("classification", tmp_path_factory.mktemp("made"), 64, 20)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, encoder, files, shared_trainer):
    workdir = tmp_path_factory.mktemp("tuned") / "workdir"
    config = synthetic.config_for("classification", files, **{**synthetic.SHORT, "train.seeds": (0, 2)})
    finetune(config, str(workdir), synthetic.start_from(encoder), Logger())
    return workdir


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_labelled_file_is_predicted_and_scored(tuned, tmp_path, files):
    told = []
    predict(str(tuned), files["validation"], str(tmp_path / "out.jsonl"), 2, Lines(told.append))
    lines = lines_of(tmp_path / "out.jsonl")
    written = lines_of(tuned / "seed-2/predictions-validation.jsonl")
    assert [{key: line[key] for key in ("id", "prediction", "label")} for line in lines] == written
    scores = json.loads((tuned / "scores.json").read_text())["splits"]["validation"]["seeds"]["2"]
    shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    assert told[-1] == f"20 predictions: {tmp_path / 'out.jsonl'}\n{shown}"


def test_an_unlabelled_file_is_predicted_with_probabilities(tuned, tmp_path):
    texts = [f"the {word} city" for word in synthetic.WORDS] + [" ".join(synthetic.WORDS * 3)]  # the last is cut
    (tmp_path / "new.tsv").write_text("text\n" + "\n".join(texts) + "\n")
    told = []
    predict(str(tuned), str(tmp_path / "new.tsv"), str(tmp_path / "out.jsonl"), 0, Lines(told.append))
    assert told[-1].startswith("21 predictions") and "examples cut to 32 tokens: 1 of 21" in told
    lines = lines_of(tmp_path / "out.jsonl")
    assert all(line.keys() == {"id", "prediction", "probability"} for line in lines)
    trained = load_fine_tuned(str(tuned), 0, silent)
    ids = [trained.tokenizer.vocabulary.tokens.index(word) for word in ("[CLS]", "the", "fox", "city", "[SEP]")]
    row = np.array([ids], np.int32)
    inputs = {"input_word_ids": row, "input_mask": np.ones_like(row), "input_type_ids": np.zeros_like(row)}
    logits = trained.model(inputs, training=False).numpy()[0].astype(np.float64)
    line = lines[synthetic.WORDS.index("fox")]
    assert line["prediction"] == trained.task.labels.labels[logits.argmax()]
    assert line["probability"] == pytest.approx(np.exp(logits.max()) / np.exp(logits).sum(), abs=2e-6)


def test_bad_files_and_outputs(tuned, tmp_path, files):
    with pytest.raises(UserError, match=r"--output=.*: there is no directory .*nowhere"):
        predict(str(tuned), files["validation"], str(tmp_path / "nowhere/out.jsonl"))
    (tmp_path / "new.tsv").write_text("text\tlabel\nthe fox\tanimal\nthe city\tplace\n")
    with pytest.raises(UserError, match=r"new\.tsv:3: label 'place' does not occur in the training data, which has an"):
        predict(str(tuned), str(tmp_path / "new.tsv"), str(tmp_path / "out.jsonl"), 0, Logger())
    with pytest.raises(UserError, match="holds no fine-tuning with seed 7 that is done: give one of 0, 2, or none"):
        predict(str(tuned), files["validation"], str(tmp_path / "out.jsonl"), 7, Logger())
    with pytest.raises(UserError, match=r"holds no config\.json: give the workdir of electra-finetune"):
        predict(str(tmp_path), files["validation"], str(tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()


def test_outputs_that_would_be_a_loss(tuned, tmp_path, files):
    copy = tmp_path / "new.tsv"
    shutil.copy(files["validation"], copy)
    for path in (copy, files["validation"]):  # the file to predict for, or any other
        with pytest.raises(UserError, match=r"new\.tsv was not written by this command: remove it, or give another"):
            predict(str(tuned), str(path), str(copy))
    with pytest.raises(UserError, match="is a directory: give a file in it"):
        predict(str(tuned), str(copy), str(tmp_path))
    assert copy.read_text() == pathlib.Path(files["validation"]).read_text()


def test_columns_of_the_file_are_said_and_can_be_named(tuned, tmp_path):
    (tmp_path / "new.csv").write_text("title,body,kind\nthe fox,of the city,animal\nthe city,is,none\n")
    told = []
    columns = Columns("title", label="kind", flag=PREDICT_FLAG)
    predict(str(tuned), str(tmp_path / "new.csv"), str(tmp_path / "out.jsonl"), 0, Lines(told.append), columns=columns)
    lines = lines_of(tmp_path / "out.jsonl")
    assert [line["label"] for line in lines] == ["animal", "none"] and "accuracy " in told[-1]
    with pytest.raises(UserError, match=r"no column sentence or .*: name one with --predict=FILE:text=NAME"):
        predict(str(tuned), str(tmp_path / "new.csv"), str(tmp_path / "out.jsonl"), 0, Logger())
    (tmp_path / "usual.csv").write_text("sentence1,sentence2\nthe fox,of the city\n")
    with pytest.raises(
        UserError, match=r"was read as pairs, and .* was trained on one text an example: .*text=COLUMN$"
    ):
        predict(str(tuned), str(tmp_path / "usual.csv"), str(tmp_path / "out.jsonl"), 0, Logger())
    columns = Columns("sentence1", flag=PREDICT_FLAG)
    told.clear()
    predict(
        str(tuned), str(tmp_path / "usual.csv"), str(tmp_path / "out.jsonl"), 0, Lines(told.append), columns=columns
    )
    assert told[-1].startswith("1 predictions")


def test_scores_without_a_meaning_say_why(tuned, tmp_path):
    (tmp_path / "one.tsv").write_text("text\tlabel\nthe fox\tanimal\n")
    told = []
    predict(str(tuned), str(tmp_path / "one.tsv"), str(tmp_path / "out.jsonl"), 0, Quiet(Lines(told.append)))
    assert any(line.startswith("mcc has no meaning here and counts as 0: ") for line in told[:-1])


def test_the_best_seed_is_chosen(tuned, tmp_path):
    def choose(validation=None, test=None, seeds=(4, 2)):
        splits = {"validation": validation, "test": test}
        splits = {
            name: {"seeds": {str(seed): {"accuracy": value} for seed, value in zip(seeds, values, strict=True)}}
            for name, values in splits.items()
            if values
        }
        summary = {"primary_score": "accuracy", "seeds": list(seeds), "splits": splits}
        (tmp_path / "scores.json").write_text(json.dumps(summary))
        told = []
        return choose_seed(str(tmp_path), told.append), told

    assert choose([0.5, 0.7]) == (2, ["Seed 2, the best of 2 by validation accuracy."])
    assert choose([0.7, 0.7], [0.1, 0.9])[0] == 4  # the first
    assert choose(test=[0.1, 0.9]) == (2, ["Seed 2, the best of 2 by test accuracy."])
    assert choose() == (4, [])
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(UserError, match=r"scores\.json is damaged"):
        choose_seed(str(tmp_path), silent)
    (tmp_path / "scores.json").unlink()
    with pytest.raises(UserError, match=r"holds no scores\.json: its fine-tuning is not done"):
        choose_seed(str(tmp_path), silent)


def test_workdirs_of_other_versions(tuned, tmp_path):
    workdir = tmp_path / "tuned"
    shutil.copytree(tuned, workdir)
    record = json.loads((workdir / "config.json").read_text())

    def refuse(message, **changes):
        (workdir / "config.json").write_text(json.dumps({**record, **changes}))
        with pytest.raises(UserError, match=message):
            load_fine_tuned(str(workdir), 0, silent)

    refuse(
        "was written by another version of this program: 'new.key'",
        finetuning={**record["finetuning"], "new": {"key": 1}},
    )
    refuse(r"config\.json is damaged", sizes={"hidden_size": 3})
    (workdir / "config.json").write_text(json.dumps({"config": {}}))
    with pytest.raises(UserError, match="is not of electra-finetune"):
        load_fine_tuned(str(workdir), 0, silent)
