"""Held-out examples after masking, generator and discriminator, token by token. Imports no TensorFlow."""

import dataclasses
from collections.abc import Sequence

# Follow a token, so that verdicts can be read without colour.
SIGNS = {"caught": "✓", "missed": "✗", "alarm": "!", "right": "=", "wrong": "≠"}
MEANINGS = {
    "caught": "replaced, and the discriminator says so",
    "missed": "replaced, and taken for the original",
    "alarm": "the original, and taken for replaced",
    "right": "masked, and the original was chosen",
    "wrong": "masked, and another token was chosen; there is no discriminator",
}


@dataclasses.dataclass(frozen=True)
class Token:
    """A token of an example. Texts lack the vocabulary's marks of word parts; probabilities are 0 to 1.

    Attributes:
      text: the original.
      continues_word: whether it belongs to the word of the token before it.
      choice: the generator's; None, as both its probabilities, where the token was not masked.
      is_replaced: whether that is another token.
      replaced_probability: the discriminator's; None where there is no discriminator.
    """

    text: str
    continues_word: bool
    choice: str | None = None
    is_replaced: bool = False
    choice_probability: float | None = None
    original_probability: float | None = None
    replaced_probability: float | None = None

    @property
    def verdict(self) -> str | None:
        """A key of `SIGNS`, or None for an original that nobody doubts."""
        is_accused = self.replaced_probability is not None and self.replaced_probability > 0.5
        if self.is_replaced and self.replaced_probability is None:
            return "wrong"
        if self.is_replaced:
            return "caught" if is_accused else "missed"
        if is_accused:
            return "alarm"
        return "right" if self.choice is not None else None


@dataclasses.dataclass(frozen=True)
class Sample:
    """An example, without its padding."""

    tokens: tuple[Token, ...]


def to_markdown(sample: Sample) -> str:
    """Returns an example in Markdown: ~~original~~ **choice** (its probability) and a sign of `SIGNS`."""
    words = []
    for token in sample.tokens:
        sign = SIGNS.get(token.verdict or "", "")
        text = _escape(token.text)
        if token.is_replaced:
            text = f"~~{text}~~ **{_escape(token.choice or '')}** ({token.choice_probability:.2f}) {sign}"
        elif sign:
            text = f"{text} {sign}" if token.verdict == "alarm" else f"**{text}** {sign}"
        words.append(text if token.continues_word and not sign else f" {text}")
    return "".join(words).strip()


def markdown_legend(samples: Sequence[Sample]) -> str:
    """Returns a line that explains the signs in some examples."""
    used = {token.verdict for sample in samples for token in sample.tokens}
    return "; ".join(f"{sign} {MEANINGS[name]}" for name, sign in SIGNS.items() if name in used)


def _escape(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\`*_{}[]<>()#+-.!~|" else character for character in text)
