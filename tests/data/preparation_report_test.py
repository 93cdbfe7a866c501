import pytest

from electra_cli.data import preparation_report
from electra_cli.loggers.lines import Lines
from tests.conftest import make_text, prepare_small


@pytest.fixture
def told(tmp_path):
    """Returns what is told of documents that were prepared."""

    def tell(documents, **changes):
        (tmp_path / "text.txt").write_text(documents)
        directory, manifest = prepare_small(tmp_path / "text.txt", tmp_path / "data", **changes)
        lines = []
        preparation_report.tell(manifest, str(directory), Lines(lines.append))
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
    assert "Left out: 1 short documents, 0 copies." in text
