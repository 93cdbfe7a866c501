import numpy as np
import pytest

from electra_cli.data.inspection import inspect_data
from electra_cli.data.tfrecords import read_manifest, read_token_counts
from electra_cli.errors import UserError
from tests.conftest import prepare_small
from tests.data.prepare_test import read_records


@pytest.fixture
def copied(data_dir, tmp_path):
    for path in data_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_what_is_told_is_what_the_manifest_says(data_dir):
    lines = []
    inspect_data(str(data_dir), lines.append)
    text = "\n".join(lines)
    manifest = read_manifest(str(data_dir))
    for split in ("train", "validation"):
        assert f"{split}: {manifest.num_examples(split):,} examples in" in text
        assert f"{manifest.real_tokens(split):,} tokens" in text
    num_segments = sum(1 + (first < len(ids)) for ids, first in read_records(data_dir, "train"))
    assert f"segments an example {num_segments / manifest.num_examples('train'):.2f}" in text
    assert "unknown tokens 0.000%" in text
    assert "text: 0.000% of the characters (0.000% of the tokens) became [UNK], 0.000% were removed" in lines
    assert "     29 to 32" in text
    shares = [float(line.split("%")[0].split()[-1]) for line in lines if " to " in line]
    assert np.sum(shares) == pytest.approx(200, abs=1)  # of two splits
    masked, corrupted = lines[-3], lines[-2]
    original = lines[-4].split(": ", 1)[1].split()
    assert masked.startswith("\n  masked: [CLS]") and "[MASK]" in masked
    assert corrupted.startswith("\n  corrupted: [CLS]") and "[MASK]" not in corrupted
    assert corrupted.split(": ", 1)[1].split() != original
    assert lines[-1] == "\nAll checksums and counts are those of the manifest."


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-*", lambda c: c[:50] + bytes([c[50] ^ 1]) + c[51:], r"train-\S+ was altered: its SHA-256 is"),
        ("train-*", lambda c: c[:-1], r"train-\S+ has [\d,]+ bytes, not [\d,]+: copy it again"),
        ("train-*", lambda c: None, r"train-\S+ is missing: copy it again"),
        ("vocab.txt", lambda c: c + b"more\n", "is not the vocabulary that the shards were made with"),
        ("token_counts.txt", lambda c: c.replace(b"\n", b"1\n", 1), r"token_counts\.txt does not count"),
        ("manifest.json", lambda c: c.replace(b'"examples": ', b'"examples": 1', 1), r"holds \d+ examples of .* not 1"),
    ],
)
def test_damage_is_named(copied, name, damage, message):
    path = next(copied.glob(name))
    content = damage(path.read_bytes())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        inspect_data(str(copied), lambda line: None)


def test_a_foreign_directory_has_no_manifest(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json cannot be read: .*run electra-prepare first"):
        inspect_data(str(tmp_path))


def test_single_segments(corpus_file, tmp_path):
    directory, _ = prepare_small(corpus_file, tmp_path / "single", packing="single")
    lines = []
    inspect_data(str(directory), lines.append)
    assert sum("segments an example 1.00" in line for line in lines) == 2


def test_full_examples(corpus_file, tmp_path):
    directory, manifest = prepare_small(corpus_file, tmp_path / "full", packing="full", document_separator="line")
    lines = []
    inspect_data(str(directory), lines.append)
    cls_id = 2
    num_documents = int(read_token_counts(str(directory))[cls_id])
    assert f"documents an example {num_documents / manifest.num_examples('train'):.2f}" in "\n".join(lines)
