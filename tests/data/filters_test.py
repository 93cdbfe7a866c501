import pytest

from electra_cli.data.corpus import Document
from electra_cli.data.filters import DocumentFilter
from electra_cli.errors import UserError
from tests.conftest import make_text, prepare_small


def documents(*texts):
    return [Document(0, index, tuple(text.split("/"))) for index, text in enumerate(texts)]


def test_short_documents_are_dropped():
    kept = DocumentFilter(min_words=3, drops_copies=False)
    assert list(kept(documents("a b", "a b c", "a/b c", "a/b"))) == documents("", "a b c", "a/b c")[1:]
    assert (kept.num_short, kept.num_copies) == (2, 0)


def test_copies_are_dropped():
    kept = DocumentFilter(min_words=0, drops_copies=True)
    assert [document.index for document in kept(documents("a b", "a/b", "a b", "c", "a b"))] == [0, 1, 3]
    assert (kept.num_short, kept.num_copies) == (0, 2)


def test_nothing_is_dropped_by_default():
    texts = documents("a", "a", "a")
    assert list(DocumentFilter(min_words=0, drops_copies=False)(texts)) == texts


def test_no_document_is_left():
    with pytest.raises(UserError, match="no document of --input is left: 2 have fewer words than --min_words=9"):
        list(DocumentFilter(min_words=9, drops_copies=True)(documents("a", "b")))


def test_a_corpus_twice_without_copies_is_that_corpus(tmp_path):
    (tmp_path / "once.txt").write_text(make_text(50))
    (tmp_path / "twice.txt").write_text(make_text(50) + "\n" + make_text(50))
    _, once = prepare_small(tmp_path / "once.txt", tmp_path / "once")
    _, twice = prepare_small(tmp_path / "twice.txt", tmp_path / "twice", deduplicate="exact")
    assert twice.fingerprint == once.fingerprint
    assert twice.statistics["copies_dropped"] == 50
    assert (tmp_path / "twice" / "token_counts.txt").read_bytes() == (
        tmp_path / "once" / "token_counts.txt"
    ).read_bytes()
