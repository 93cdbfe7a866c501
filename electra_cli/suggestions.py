"""What a mistyped word was probably meant to be. TensorFlow is not imported here."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Returns the known word that is most like `word`; None where none is like it."""
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns '; did you mean PREFIXword?' with the known word that is most like `word`, or nothing."""
    found = nearest(word, known)
    return "" if found is None else f"; did you mean {prefix}{found}?"
