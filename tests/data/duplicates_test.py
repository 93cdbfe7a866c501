import random

import pytest

from electra_cli.data import duplicates
from electra_cli.data.corpus import Document
from electra_cli.data.duplicates import CopyIndex, estimate_similarity, exact_signature, near_signature
from electra_cli.errors import UserError
from tests.conftest import make_text, prepare_small


def document(text):
    return Document("0/0/0", tuple(text.split("/")))


def words(seed, number=400):
    rng = random.Random(seed)
    return [f"w{rng.randrange(3000)}" for _ in range(number)]


def changed(text_words, number, seed=0):
    """Replaces words far apart; each change breaks five 5-grams."""
    rng = random.Random(seed)
    copy = list(text_words)
    for index in range(number):
        copy[(index + 1) * len(copy) // (number + 1)] = f"x{rng.randrange(10**9)}"
    return copy


def find(index, chunks, sign):
    for texts in chunks:
        index.add_chunk([(number, sign(document(text))) for number, text in enumerate(texts)])
    return [sorted(index.copies_in(chunk)) for chunk in range(len(chunks))]


def test_exact_copies_are_found(tmp_path):
    index = CopyIndex(str(tmp_path / "x"), is_near=False)
    chunks = [["a b", "a/b", "a b"], ["c", "a b", "a/b"]]
    assert find(index, chunks, exact_signature) == [[2], [1, 2]]
    assert index.num_copies == 3


def test_estimates_are_near_the_jaccard_similarity():
    text = words(1)
    for number in (0, 5, 20, 60):
        # Of 396 5-grams 5 x number are others.
        expected = (396 - 5 * number) / (396 + 5 * number)
        found = estimate_similarity(
            near_signature(document(" ".join(text))), near_signature(document(" ".join(changed(text, number))))
        )
        assert found == pytest.approx(expected, abs=0.12)


def test_a_long_document_is_signed_in_parts(monkeypatch):
    text = document(" ".join(words(1, 1000)))
    whole = near_signature(text)
    monkeypatch.setattr(duplicates, "_BATCH_SHINGLES", 7)
    assert near_signature(text) == whole


def test_near_copies_are_found_and_others_are_not(tmp_path):
    index = CopyIndex(str(tmp_path / "x"), is_near=True)
    originals = [" ".join(words(seed)) for seed in range(40)]
    near = [" ".join(changed(words(seed), 3)) for seed in range(40)]  # similarity 0.93
    far = [" ".join(changed(words(seed), 40)) for seed in range(40)]  # similarity 0.33
    assert find(index, [originals, near, far], near_signature) == [[], list(range(40)), []]


def test_case_and_spacing_make_no_other_document(tmp_path):
    index = CopyIndex(str(tmp_path / "x"), is_near=True)
    text = " ".join(words(3, 50))
    assert find(index, [[text, text.upper().replace(" ", "  ")], ["a", "A", "b"]], near_signature) == [[1], [1]]


def test_an_index_goes_on_after_a_kill(tmp_path):
    chunks = [["a", "b"], ["b", "c"], ["c", "a"]]
    first = CopyIndex(str(tmp_path / "x"), is_near=False)
    first.add_chunk([(number, exact_signature(document(text))) for number, text in enumerate(chunks[0])])
    first.save(is_complete=False)
    first.add_chunk([(number, exact_signature(document(text))) for number, text in enumerate(chunks[1])])
    first.close()  # without saving
    second = CopyIndex(str(tmp_path / "x"), is_near=False)
    assert (second.num_chunks, second.is_complete, second.num_copies) == (1, False, 0)
    for texts in chunks[1:]:
        second.add_chunk([(number, exact_signature(document(text))) for number, text in enumerate(texts)])
    second.save(is_complete=True)
    third = CopyIndex(str(tmp_path / "x"), is_near=False)
    assert third.is_complete
    assert [sorted(third.copies_in(chunk)) for chunk in range(3)] == [[], [0], [0, 1]]


@pytest.mark.parametrize("deduplicate", ["exact", "near"])
def test_a_corpus_twice_without_copies_has_the_examples_of_that_corpus(tmp_path, deduplicate):
    (tmp_path / "once.txt").write_text(make_text(50))
    (tmp_path / "twice.txt").write_text(make_text(50) + "\n" + make_text(50))
    _, once = prepare_small(tmp_path / "once.txt", tmp_path / "once")
    _, twice = prepare_small(tmp_path / "twice.txt", tmp_path / "twice", deduplicate=deduplicate)
    assert twice.fingerprint == once.fingerprint
    assert twice.statistics["copies_dropped"] == 50
    assert twice.statistics["documents"] == 100


def test_short_documents_are_dropped(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(50) + "\nonly four words here\n\n" * 3)
    _, all_of_them = prepare_small(tmp_path / "text.txt", tmp_path / "all")
    _, long_ones = prepare_small(tmp_path / "text.txt", tmp_path / "long", min_words=5)
    assert all_of_them.statistics["short_documents_dropped"] == 0
    assert long_ones.statistics["short_documents_dropped"] == 3
    assert all_of_them.real_tokens("train") > long_ones.real_tokens("train")
    with pytest.raises(
        UserError, match="no document of --input is left: all 53 have fewer words than --min_words=9999"
    ):
        prepare_small(tmp_path / "text.txt", tmp_path / "none", min_words=9999)
