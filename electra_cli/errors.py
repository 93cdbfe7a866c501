"""Exceptions that commands tell in one line."""


class UserError(Exception):
    """A mistake that the user can mend: its text says in one line what is wrong, where, and what to do.

    Commands print the text on standard error and end with exit code 2. Any other exception is a defect of this
    program and ends with a traceback and exit code 1.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class ResumableError(UserError):
    """A mistake or mishap after which the same command goes on where it ended."""


class UnreadableError(UserError):
    """A file that is missing, or cannot be read now: that says nothing about its content, and may pass."""


class Interrupted(Exception):
    """A run that was asked to stop (SIGTERM or SIGINT) and saved itself; commands end with exit code 75."""
