"""The command that is printed goes with the data that it is printed for, as training itself checks."""

import shlex

import pytest
from absl import flags

from electra_cli.cli.config_flag import ConfigFlag
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.data import preparation_report
from electra_cli.data.inspection import inspect_data
from electra_cli.data.preparation_report import training_command
from electra_cli.data.source import read_run
from electra_cli.data.vocabulary import SPECIAL_TOKENS, WordRules
from electra_cli.errors import UserError
from electra_cli.loggers.lines import Lines
from electra_cli.training.evaluation import check_validation
from tests.conftest import make_text, prepare_small


@pytest.fixture
def told(tmp_path):
    """Returns what is told of documents that were prepared."""

    def tell(documents, **changes):
        (tmp_path / "text.txt").write_text(documents)
        directory, manifest = prepare_small(tmp_path / "text.txt", tmp_path / "data", **changes)
        lines = []
        preparation_report.report_preparation(manifest, str(directory), Lines(lines.append))
        return "\n".join(lines)

    return tell


def test_splits_and_what_comes_next(told):
    text = told(make_text(300), validation_fraction=0.1)
    train, validation, data, command = text.splitlines()
    assert train.startswith("train ") and validation.startswith("validation ") and "1 shard(s)" in validation
    assert data.startswith("Vocabulary of ") and "data of 300 documents: " in data
    assert command.startswith("Next: electra-pretrain --config=small ")


def test_a_long_document_that_is_held_out_is_warned_of(told):
    text = told(make_text(3), validation_fraction=0.01)
    (warning,) = [line for line in text.splitlines() if line.startswith("Warning")]
    assert "of the text is held out, not --validation_fraction=0.01, since documents are held out whole" in warning


def test_what_was_left_out(told):
    text = told(make_text(100) + "\n\nshort\n", min_words=2, validation_fraction=0.1)
    assert "Skipped: 1 short documents, 0 copies." in text


THAI = "ภาษาไทยเขียนโดยไม่มีช่องว่างระหว่างคำ"  # 37 characters, 6 of them marks


@pytest.mark.parametrize(
    ("line", "changes", "shares", "remedy"),
    [
        ("the fox " + THAI * 4, {"strip_accents": False}, (148 / 154, 1 / 3), "of more than 100 characters, as in"),
        ("the fox ฟ", {"strip_accents": False}, (1 / 7, 1 / 3), "that the vocabulary does not cover: learn one"),
        ("the Fox", {"lower_case": False}, (1 / 2, 1 / 2), "another case or with other accents: change --lower_case"),
        ("the fox " + THAI, {}, (6 / 43,), "accents or vowel signs, as of Thai or Hindi: add --strip_accents=false"),
        ("the fox \u200b", {}, (1 / 7,), "control characters, of private use or unassigned: replace those"),
    ],
    ids=["length", "alphabet", "case", "marks", "invisible"],
)
def test_lost_text_is_warned_of(tmp_path, line, changes, shares, remedy):
    (tmp_path / "text.txt").write_text("\n\n".join([line] * 20))

    def report(name, **changes):
        rules = WordRules(changes.get("lower_case", True), changes.get("strip_accents"))
        letters = sorted(set(rules.normalizer().normalize_str(THAI)))
        tokens = [*SPECIAL_TOKENS, "the", "fox", *letters, *(f"##{letter}" for letter in letters)]
        (tmp_path / "vocab.txt").write_text("\n".join(tokens))
        arguments = {"vocab_file": tmp_path / "vocab.txt", "validation_fraction": 0.0, **changes}
        directory, manifest = prepare_small(tmp_path / "text.txt", tmp_path / name, **arguments)
        lines, inspected = [], []
        preparation_report.report_preparation(manifest, str(directory), Lines(lines.append))
        inspect_data(str(directory), inspected.append)
        return [line for line in lines if line.startswith("Warning")], inspected[1]

    (warning,), inspected = report("data", **changes)
    what = "{:.1%} of the text's characters " + (
        "({:.1%} of its tokens) became [UNK]" if shares[1:] else "were removed"
    )
    assert warning.startswith(f"Warning: {what.format(*shares)}, most of them ") and remedy in warning
    assert inspected.startswith("text: ") and all(f"{share:.3%}" in inspected for share in shares)
    # What is advised, where that is a flag.
    warnings, inspected = report("again", max_word_length=1000, strip_accents=False)
    assert bool(warnings) == ("cover" in remedy or "private use" in remedy)
    if not warnings:
        expected = "text: 0.000% of the characters (0.000% of the tokens) became [UNK], 0.000% were removed"
        assert inspected == expected


def test_a_preparation_that_older_versions_counted_nothing_of_is_reported(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(40))
    directory, manifest = prepare_small(tmp_path / "text.txt", tmp_path / "data")
    del manifest.statistics["coverage"]
    (directory / "manifest.json").write_text(manifest.to_json())
    lines = []
    preparation_report.report_preparation(manifest, str(directory), Lines(lines.append))
    inspect_data(str(directory), lines.append)
    assert lines[-1] == "\nAll checksums and counts are those of the manifest."
    assert not any("[UNK]," in line or "Warning" in line for line in lines)


@pytest.fixture
def parse(monkeypatch):
    """Returns what turns a command line into its config and mode."""

    def parse(line):
        values = flags.FlagValues()
        flag = ConfigFlag(values, PRETRAINING)
        flags.DEFINE_string("workdir", None, "", flag_values=values)
        flags.DEFINE_string("mode", "train_and_eval", "", flag_values=values)
        argv = shlex.split(line)
        monkeypatch.setattr("sys.argv", argv)
        assert flag.parse(argv) == ["electra-pretrain"]
        return flag.config, values.mode

    return parse


@pytest.mark.parametrize(
    ("num_documents", "changes", "added"),
    [
        (600, {"max_seq_length": 128, "validation_fraction": 0.5}, []),
        (40, {"max_seq_length": 128}, []),
        (900, {"max_seq_length": 64, "validation_fraction": 0.5}, ["--config.data.max_seq_length=64"]),
        (40, {"max_seq_length": 600}, ["--config=modern_small", "--config.data.max_seq_length=600"]),
        (40, {"max_seq_length": 128, "validation_fraction": 0.0}, ["--mode=train"]),
        (40, {"max_seq_length": 128, "packing": "full", "word_boundaries": "whitespace"}, None),
    ],
)
def test_training_accepts_the_command(tmp_path, parse, num_documents, changes, added):
    (tmp_path / "text.txt").write_text(make_text(num_documents))
    directory, manifest = prepare_small(tmp_path / "text.txt", tmp_path / "my data", **changes)
    line = training_command(str(directory), manifest)
    config, mode = parse(line)
    phases = read_run(config).phases
    if changes.get("validation_fraction") == 0:
        assert mode == "train"
        with pytest.raises(UserError, match="no validation examples"):
            check_validation(phases[0].source)
    else:
        assert mode == "train_and_eval"
        check_validation(phases[0].source)
    if added is not None:
        plain = ["electra-pretrain", "--config=small", f"--config.data.dir={directory}", "--workdir=RUN"]
        found = [argument for argument in shlex.split(line) if argument not in plain]
        assert len(found) == len(added) and all(map(str.startswith, found, added))
