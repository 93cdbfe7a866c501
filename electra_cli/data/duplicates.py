"""Which documents of a corpus are exact or near copies of an earlier one, with bounded memory.

Near copies are found by MinHash (Broder, 1997) and banding: two documents' signatures agree at each position with the
probability that is the Jaccard similarity of their sets of word 5-grams. A document is a copy when it shares a band
with an earlier one and its signature agrees with that of the first such document at `NEAR_THRESHOLD` of the positions
or more. That depends only on the order of the corpus, so that processes can share the work.
"""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence

import numpy as np

from electra_cli.data.corpus import Document

NEAR_THRESHOLD = 0.8
_NGRAM_WORDS = 5
# A pair of similarity s shares a band with probability 1 - (1 - s^8)^16: 0.95 for 0.8, 0.9996 for 0.9, 0.06 for 0.5.
_NUM_HASHES, _NUM_BANDS, _BAND_HASHES = 128, 16, 8
# Hashed at once; datasketch takes some 3 kB for each, and a document may have millions.
_BATCH_SHINGLES = 4096
_CACHE_KIB = 256 * 1024


def exact_signature(document: Document) -> bytes:
    """Returns 16 bytes that only documents of the same text share."""
    return hashlib.blake2b("\n".join(document.lines).encode(), digest_size=16).digest()


def near_signature(document: Document) -> bytes:
    """Returns a document's MinHash signature: uint32 [128], as bytes, regardless of case and white space."""
    from datasketch import MinHash  # noqa: PLC0415  (import time)

    words = " ".join(document.lines).lower().split()
    last = max(1, len(words) - _NGRAM_WORDS + 1)
    minhash = MinHash(_NUM_HASHES, hashfunc=_hash32)
    for first in range(0, last, _BATCH_SHINGLES):
        begins = range(first, min(first + _BATCH_SHINGLES, last))
        minhash.update_batch([" ".join(words[begin : begin + _NGRAM_WORDS]).encode() for begin in begins])
    return minhash.hashvalues.astype(np.uint32).tobytes()


def _hash32(shingle: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(shingle, digest_size=4).digest(), "little")


class CopyIndex:
    """The near or exact signatures seen so far, and the copies among them, in a database on disk that survives
    kills."""

    def __init__(self, path: str, *, is_near: bool):
        self._is_near = is_near
        self._database = sqlite3.connect(path)
        self._database.executescript(
            f"""
            PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -{_CACHE_KIB};
            CREATE TABLE IF NOT EXISTS seen (key BLOB PRIMARY KEY, document INTEGER) WITHOUT ROWID;
            CREATE TABLE IF NOT EXISTS signatures (document INTEGER PRIMARY KEY, signature BLOB);
            CREATE TABLE IF NOT EXISTS copies (chunk INTEGER, number INTEGER, PRIMARY KEY (chunk, number));
            CREATE TABLE IF NOT EXISTS state (num_chunks INTEGER, is_complete INTEGER);
            """
        )
        row = self._database.execute("SELECT num_chunks, is_complete FROM state").fetchone()
        self.num_chunks: int = row[0] if row else 0
        self.is_complete = bool(row and row[1])

    def add_chunk(self, signatures: Sequence[tuple[int, bytes]]) -> None:
        """Adds the next chunk: (number, signature) of its documents."""
        for number, signature in signatures:
            if self._is_near_copy(signature) if self._is_near else self._is_exact_copy(signature):
                self._database.execute("INSERT INTO copies VALUES (?, ?)", (self.num_chunks, number))
        self.num_chunks += 1

    def save(self, *, is_complete: bool) -> None:
        """Makes sure that what was added survives a kill."""
        self.is_complete = is_complete
        self._database.execute("DELETE FROM state")
        self._database.execute("INSERT INTO state VALUES (?, ?)", (self.num_chunks, is_complete))
        self._database.commit()

    def copies_in(self, chunk: int) -> frozenset[int]:
        """Returns the numbers of the documents of a chunk that are copies."""
        rows = self._database.execute("SELECT number FROM copies WHERE chunk = ?", (chunk,))
        return frozenset(number for (number,) in rows)

    @property
    def num_copies(self) -> int:
        """The number of copies."""
        return self._database.execute("SELECT count(*) FROM copies").fetchone()[0]

    def _is_exact_copy(self, signature: bytes) -> bool:
        return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, NULL)", (signature,)).rowcount == 0

    def _is_near_copy(self, signature: bytes) -> bool:
        execute = self._database.execute
        keys = list(bands(signature))
        matches = execute(
            f"SELECT key, signature FROM seen JOIN signatures USING (document) "
            f"WHERE key IN ({', '.join('?' * len(keys))})",
            keys,
        ).fetchall()
        new = set(keys) - {key for key, _ in matches}
        if new:
            document = execute("INSERT INTO signatures (signature) VALUES (?)", (signature,)).lastrowid
            self._database.executemany("INSERT INTO seen VALUES (?, ?)", [(key, document) for key in sorted(new)])
        firsts = {first for _, first in matches}
        return any(estimate_similarity(first, signature) >= NEAR_THRESHOLD for first in firsts)

    def close(self) -> None:
        """Closes the database."""
        self._database.close()


def estimate_similarity(first: bytes, second: bytes) -> float:
    """Estimates the Jaccard similarity of two documents from their near signatures."""
    return float(np.mean(np.frombuffer(first, np.uint32) == np.frombuffer(second, np.uint32)))


def bands(signature: bytes) -> Iterator[bytes]:
    """Yields the bands of a near signature, 16 bytes each; near copies most likely share one."""
    for band in range(_NUM_BANDS):
        part = signature[4 * band * _BAND_HASHES : 4 * (band + 1) * _BAND_HASHES]
        yield bytes([band]) + hashlib.blake2b(part, digest_size=15).digest()
