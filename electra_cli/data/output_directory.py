"""A directory that appears whole or not at all."""

import fcntl
import os
import shutil
from typing import IO

from electra_cli.errors import UserError


class OutputDirectory:
    """Collects files in `DIR.partial` and renames it to DIR on `commit()`; without that, nothing is left.

    A context manager. What an earlier, killed preparation left in `DIR.partial` is removed.

    Args:
      path: the directory to appear; local.
      overwrite: whether one that is there and not empty may be replaced.

    Attributes:
      path: where the files are to be written.
      scratch: a directory in it for temporary files, gone after `commit()`.
    """

    def __init__(self, path: str, *, overwrite: bool):
        self._target = os.path.abspath(path)
        self._overwrite = overwrite
        self.path = f"{self._target}.partial"
        self.scratch = os.path.join(self.path, "scratch")
        self._lock: IO[str] | None = None

    def __enter__(self) -> "OutputDirectory":
        """Makes the directories.

        Raises:
          UserError: the target is not empty, cannot be written, or is being written by another process.
        """
        if not os.path.isdir(self._target) and os.path.exists(self._target):
            raise UserError(f"--output_dir={self._target} is a file: choose another name")
        if os.path.isdir(self._target) and os.listdir(self._target) and not self._overwrite:
            raise UserError(f"--output_dir={self._target} is not empty: choose another, or replace it with --overwrite")
        try:
            os.makedirs(self.path, exist_ok=True)
            # The lock goes away with the process, whatever ends it.
            self._lock = open(os.path.join(self.path, ".lock"), "w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in os.listdir(self.path):
                if name != ".lock":
                    _remove(os.path.join(self.path, name))
            os.makedirs(self.scratch)
        except BlockingIOError as error:
            raise UserError(
                f"--output_dir={self._target}: another process is writing it; wait for it or choose another"
            ) from error
        except OSError as error:
            raise UserError(f"--output_dir={self._target} cannot be written: {error.strerror or error}") from error
        return self

    def commit(self) -> None:
        """Removes temporary files and lets the directory appear."""
        shutil.rmtree(self.scratch)
        os.remove(os.path.join(self.path, ".lock"))
        old = f"{self._target}.old"
        if os.path.isdir(self._target):
            shutil.rmtree(old, ignore_errors=True)  # left by a kill at this very place
            os.rename(self._target, old)
        os.rename(self.path, self._target)
        shutil.rmtree(old, ignore_errors=True)

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()
        if kind is not None:
            shutil.rmtree(self.path, ignore_errors=True)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.remove(path)
