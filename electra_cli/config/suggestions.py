"""What a mistyped word was probably meant to be. No TensorFlow here."""

import difflib
import os
from collections.abc import Iterable

_MIN_SIMILARITY = 0.6


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Returns the known word most like `word`, or None: first a key with the same last part, then one `word` begins."""
    known = sorted(known)
    last = word.rpartition(".")[2]
    # A key of the section `phases` repeats one of another section, which is what most mean.
    same = sorted(
        (name for name in known if name.rpartition(".")[2] == last), key=lambda name: ".phases." in f".{name}"
    )
    begun = [name for name in known if len(word) > 2 and name.startswith(word)]
    best = same or begun or difflib.get_close_matches(word, known, n=1, cutoff=_MIN_SIMILARITY)
    return best[0] if best else None


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns '; did you mean PREFIXword?' with the known word that is most like `word`, or nothing."""
    best = nearest(word, known)
    return "" if best is None else f"; did you mean {prefix}{best}?"


def did_you_mean_file(path: str) -> str:
    """Returns '; did you mean FILE?' with the file most like a missing one in its local directory, or nothing.

    Names without their endings are compared, so that all tables are not alike; of equal ones the endings decide.
    """
    directory, name = os.path.split(path)
    if not os.path.isdir(directory or ".") or not os.access(directory or ".", os.R_OK):
        return ""

    def similarity(other: str) -> tuple[float, float]:
        stem, other_stem = (os.path.splitext(text)[0].lower() for text in (name, other))
        return _ratio(stem, other_stem), _ratio(name, other)

    with os.scandir(directory or ".") as entries:
        known = sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
    best = max(known, key=similarity, default=None)
    if best is None or similarity(best)[0] < _MIN_SIMILARITY:
        return ""
    return f"; did you mean {os.path.join(directory, best)}?"


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
