"""A directory that appears whole or not at all."""

import errno
import fcntl
import fnmatch
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from typing import IO, Any

from electra_cli.errors import ResumableError, UserError

_LOCK_FILE, _JOB_FILE = ".lock", "job.json"
_MOST_NAMES = 4  # of files in a message


class OutputDirectory:
    """Collects files in `DIR.partial` and renames it to DIR on `commit()`.

    A context manager. When it is left without `commit()`, `DIR.partial` stays, so that the same job can go on from it;
    after a `UserError`, where there is nothing to go on with, it is removed.

    Args:
      path: the directory to appear; local.
      overwrite: whether one that is there and not empty may be replaced.
      owned: patterns (`fnmatch`) of the names that such a directory holds: one with others is never replaced.
      job: what the files follow from, as JSON. What another job left in `DIR.partial` is removed.

    Attributes:
      path: where the files are to be written.
      scratch: a directory in it for temporary files, gone after `commit()`.
      is_resumed: whether the same job left files there.
    """

    def __init__(self, path: str, *, overwrite: bool, owned: Sequence[str], job: Any):
        self._target = os.path.abspath(path)
        self._overwrite, self._owned = overwrite, owned
        self._job = json.loads(json.dumps(job))
        self.path = f"{self._target}.partial"
        self.scratch = os.path.join(self.path, "scratch")
        self.is_resumed = False
        self._lock: IO[str] | None = None

    def __enter__(self) -> "OutputDirectory":
        """Makes the directories.

        Raises:
          UserError: the target is not empty and may not be replaced, cannot be written, or is being written by another
            process.
        """
        if not os.path.isdir(self._target) and os.path.exists(self._target):
            raise UserError(f"--output_dir={self._target} is a file: choose another name")
        if os.path.isdir(self._target):
            if os.path.commonpath([os.getcwd(), self._target]) == self._target:
                raise UserError(f"--output_dir={self._target} is the directory that you are in: choose one to create")
            check_replaceable(self._target, os.listdir(self._target), self._owned, overwrite=self._overwrite)
        try:
            os.makedirs(self.path, exist_ok=True)
            if os.listdir(self.path) and not os.path.exists(os.path.join(self.path, _LOCK_FILE)):
                raise UserError(f"{self.path} is needed for unfinished output, and holds other files: move it away")
            # The lock goes away with the process, whatever ends it.
            self._lock = open(os.path.join(self.path, _LOCK_FILE), "w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.is_resumed = self._is_same_job()
            if not self.is_resumed:
                for name in os.listdir(self.path):
                    if name != _LOCK_FILE:
                        _remove(os.path.join(self.path, name))
                os.makedirs(self.scratch)
                write_whole(os.path.join(self.scratch, _JOB_FILE), json.dumps(self._job).encode())
        except BlockingIOError as error:
            raise UserError(
                f"--output_dir={self._target}: another process is writing it; wait for it or choose another"
            ) from error
        except OSError as error:
            raise UserError(f"--output_dir={self._target} cannot be written: {error.strerror or error}") from error
        return self

    def _is_same_job(self) -> bool:
        path = os.path.join(self.scratch, _JOB_FILE)
        if not os.path.exists(path):
            return False
        with open(path, encoding="utf-8") as stream:
            return json.load(stream) == self._job

    def commit(self) -> None:
        """Removes temporary files and lets the directory appear."""
        shutil.rmtree(self.scratch)
        os.remove(os.path.join(self.path, _LOCK_FILE))
        old = f"{self.path}.old"
        if os.path.isdir(self._target):
            shutil.rmtree(old, ignore_errors=True)  # left by a kill at this very place
            os.rename(self._target, old)
        os.rename(self.path, self._target)
        shutil.rmtree(old, ignore_errors=True)

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, UserError) and not isinstance(error, ResumableError):
            shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
        if error is not None and _is_disk_full(error):
            raise ResumableError(
                f"no space is left on the disk of {self.path}: make room, and the same command goes on where it ended "
                f"(or remove that directory)"
            ) from error


def check_replaceable(directory: str, names: Iterable[str], owned: Sequence[str], *, overwrite: bool) -> None:
    """Raises a `UserError` unless a directory is empty, or holds only what a command wrote there and may be replaced.

    Args:
      directory: the directory.
      names: what it holds.
      owned: see `OutputDirectory`.
      overwrite: whether it may be replaced.
    """
    names = sorted(names)
    others = [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in owned)]
    if others:
        shown = ", ".join(others[:_MOST_NAMES]) + (", ..." if len(others) > _MOST_NAMES else "")
        raise UserError(
            f"--output_dir={directory} holds files that were not written by this command ({shown}): choose another "
            f"directory"
        )
    if names and not overwrite:
        raise UserError(f"--output_dir={directory} is not empty: choose another, or replace it with --overwrite")


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        return "disk is full" in str(error)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: str, content: bytes) -> None:
    """Writes a file under a temporary name and renames it."""
    with open(f"{path}.new", "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(f"{path}.new", path)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.remove(path)
