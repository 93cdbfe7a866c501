import os
import random
import time

import pytest

from electra_cli.data import spool as spool_module
from electra_cli.data.spool import PackedChunk, PackedExample, Spool
from electra_cli.errors import UserError

NUM_BUCKETS = 16


def make_examples(number):
    """Examples of a chunk, some in each split, of which no two have a key in common."""
    rng = random.Random(number)
    return [
        ("train" if rng.random() < 0.9 else "validation", PackedExample(rng.randbytes(16), b"leng", rng.randbytes(40)))
        for _ in range(20)
    ]


def make_chunk(number):
    chunk = PackedChunk(NUM_BUCKETS)
    for split, example in make_examples(number):
        chunk.add(split, example)
    return chunk


def fill(spool, begin, end):
    for number in range(begin, end):
        spool.add(make_chunk(number))


def read(spool, split, num_slices):
    return [example for part in spool.slices(split, num_slices) for examples in part.read() for example in examples]


def sorted_examples(split, num_chunks):
    return sorted(example for number in range(num_chunks) for name, example in make_examples(number) if name == split)


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, in a list, which passes only as tests say."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("buffer_bytes", [0, 3000, 2**20])
@pytest.mark.parametrize("num_slices", [1, 3])
def test_examples_come_out_by_key(tmp_path, monkeypatch, buffer_bytes, num_slices):
    monkeypatch.setattr(spool_module, "_BUFFER_BYTES", buffer_bytes)
    spool = Spool(str(tmp_path), 0)
    fill(spool, 0, 30)
    spool.finish()
    for again in (spool, Spool(str(tmp_path), 0)):
        assert again.is_complete and again.num_chunks == 30
        for split in ("train", "validation"):
            assert read(again, split, num_slices) == sorted_examples(split, 30)


def test_what_was_not_written_is_added_again(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_BUFFER_BYTES", 5000)
    killed = Spool(str(tmp_path), 0)
    fill(killed, 0, 18)
    with open(tmp_path / "examples", "ab") as stream:
        stream.write(b"half a piece")  # a kill before the state was written
    resumed = Spool(str(tmp_path), 0)
    assert 0 < resumed.num_chunks < 18 and not resumed.is_complete
    fill(resumed, resumed.num_chunks, 25)
    resumed.finish()
    assert read(resumed, "train", 4) == sorted_examples("train", 25)


def test_a_discarded_spool_is_empty(tmp_path):
    spool = Spool(str(tmp_path), 0)
    fill(spool, 0, 5)
    spool.finish()
    spool.discard()
    for empty in (spool, Spool(str(tmp_path), 0)):
        assert (empty.num_chunks, empty.is_complete, list(empty.slices("train", 0))) == (0, False, [])
    fill(spool, 0, 7)
    spool.finish()
    assert read(spool, "train", 2) == sorted_examples("train", 7)


def state_bytes(directory):
    return sum(path.stat().st_size for path in directory.iterdir() if path.name != "examples")


def test_writes_take_neither_memory_nor_files_that_grow(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_BUFFER_BYTES", 0)  # a write a chunk
    spool = Spool(str(tmp_path), 0)
    fill(spool, 0, 20)
    few = state_bytes(tmp_path)
    fill(spool, 20, 400)
    assert state_bytes(tmp_path) < 1.2 * few
    (part,) = spool.slices("train", 1)
    assert len(part.buckets) == NUM_BUCKETS
    assert read(spool, "train", 1) == sorted_examples("train", 400)


def test_time_alone_makes_no_small_pieces(tmp_path, clock):
    spool = Spool(str(tmp_path), 0)
    for number in range(100):
        clock[0] += 60.0
        spool.add(make_chunk(number))
    assert os.listdir(tmp_path) == ["examples"] and not os.path.getsize(tmp_path / "examples")
    spool.finish()
    assert read(spool, "train", 1) == sorted_examples("train", 100)


def test_time_makes_pieces_that_are_large_enough(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(spool_module, "_PIECE_BYTES", 100)  # times 16 buckets, more than a chunk has and less than two
    spool = Spool(str(tmp_path), 0)
    fill(spool, 0, 4)
    assert Spool(str(tmp_path), 0).num_chunks == 0
    clock[0] += 60.0
    fill(spool, 4, 5)
    assert Spool(str(tmp_path), 0).num_chunks == 5


@pytest.mark.parametrize("size", [None, 0, -1])
def test_a_file_that_lost_examples_is_refused(tmp_path, size):
    spool = Spool(str(tmp_path), 0)
    fill(spool, 0, 5)
    spool.finish()
    if size is None:
        os.remove(tmp_path / "examples")
    else:
        os.truncate(tmp_path / "examples", size if size >= 0 else os.path.getsize(tmp_path / "examples") + size)
    with pytest.raises(UserError, match=r"examples was cut off: it holds [\d,]+ bytes of [\d,]+; the same command"):
        Spool(str(tmp_path), 0)
