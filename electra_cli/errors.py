"""The one exception that stands for a mistake of the user's."""


class UserError(Exception):
    """A mistake that the user can mend: its text says in one line what is wrong, where, and what to do.

    Commands print the text on standard error and end with exit code 2. Any other exception is a defect of this
    program and ends with a traceback and exit code 1.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class Interrupted(Exception):
    """A run that was asked to stop (SIGTERM or SIGINT) and saved itself; commands end with exit code 75."""
