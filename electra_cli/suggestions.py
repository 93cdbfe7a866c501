"""What a mistyped word was probably meant to be. TensorFlow is not imported here."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Returns the known word that is most like `word`; None where none is like it.

    Of keys with dots, one whose last part is that of `word` goes before all others, then one that `word` begins.
    """
    known = sorted(known)
    last = word.rpartition(".")[2]
    # A key of the section `phases` repeats one of another section, which is what most mean.
    same = sorted(
        (name for name in known if name.rpartition(".")[2] == last), key=lambda name: ".phases." in f".{name}"
    )
    begun = [name for name in known if len(word) > 2 and name.startswith(word)]
    found = same or begun or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns '; did you mean PREFIXword?' with the known word that is most like `word`, or nothing."""
    found = nearest(word, known)
    return "" if found is None else f"; did you mean {prefix}{found}?"
