"""Exceptions that commands print in one line."""

import re
from collections.abc import Mapping

# Control characters but for tab and line feed, marks that reverse the direction of text, halves of UTF-16 pairs.
_NOT_PRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Returns text for a terminal: characters that would command it, or that it cannot show, become escapes."""
    return _NOT_PRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class Option(str):
    """The name of a flag in the text of an error, which a caller whose users know it by another name can replace."""


class UserError(Exception):
    """A mistake that the user can fix: its text is one line: what is wrong, where, and what to do.

    Commands print the text on standard error and end with exit code 2. Any other exception is a defect of this
    program and ends with a traceback and exit code 1. The text may have several parts, as in
    `UserError(Option("--workdir"), f"={workdir} holds no checkpoint")`.
    """

    def __init__(self, *parts: str):
        self.parts = parts
        super().__init__(printable(" ".join("".join(parts).split())))

    def with_options(self, names: Mapping[str, str]) -> "UserError":
        """Returns the error with some options under other names, given by their names here."""
        return type(self)(*(Option(names.get(part, part)) if isinstance(part, Option) else part for part in self.parts))


class ResumableError(UserError):
    """A mistake or mishap after which the same command resumes where it ended."""


class UnreadableError(UserError):
    """A file that is missing, or cannot be read now: that says nothing about its content, and may pass."""


class Interrupted(Exception):
    """A run that was asked to stop (SIGTERM or SIGINT) and saved itself; commands end with exit code 75."""
