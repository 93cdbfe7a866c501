"""A directory that appears complete or not at all."""

import contextlib
import errno
import fnmatch
import json
import os
import pathlib
import shutil
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import IO, Any

from electra_cli import files
from electra_cli.errors import ResumableError, UserError
from electra_cli.files import LOCK_FILE

_JOB_FILE = "job.json"
_FINISHED_FILE = ".finished.json"  # holds the job, from when its files are complete until the rename
_MAX_NAMES = 4  # of files in a message


class OutputDirectory:
    """Collects files in `DIR.partial` and renames it to DIR on `commit()`.

    A context manager; entering raises a `UserError` when the target may not be replaced, cannot be written, or is being
    written by another process. Left without `commit()`, `DIR.partial` stays, so that the same job can resume from it;
    after a `UserError`, or without a job, it is removed. A kill within `commit()` loses neither the new files nor those
    that they replace: the same job finishes it, and another one first restores what was there.

    Args:
      path: the directory to appear; local. Of a link, where it points to.
      overwrite: whether one that is there and not empty may be replaced.
      owned: patterns (`fnmatch`) of the names that such a directory holds: one with others is never replaced.
      job: what determines the files, as JSON; files of another job in `DIR.partial` are removed. None: never resume.

    Attributes:
      path: where the files are to be written.
      scratch: a directory in it for temporary files, gone after `commit()`.
      is_resumed: whether the same job left files there.
      is_finished: whether the same job left them complete: only `commit()` is to be called.
    """

    def __init__(self, path: str, *, overwrite: bool, owned: Sequence[str], job: Any = None):
        self._target = os.path.realpath(path)  # where a link points to, so that renames stay on one disk
        self._overwrite, self._owned = overwrite, owned
        self._is_resumable = job is not None
        self._job = json.loads(json.dumps(job if self._is_resumable else {"started": time.time_ns()}))
        self.path = f"{self._target}.partial"
        self.scratch = os.path.join(self.path, "scratch")
        self._old = f"{self.path}.old"
        self.is_resumed = self.is_finished = False
        self._lock: IO[str] | None = None

    def __enter__(self) -> "OutputDirectory":
        try:
            self._open()
        except BaseException as error:
            self._unlock()
            if isinstance(error, OSError):
                raise UserError(f"--output_dir={self._target} cannot be written: {error.strerror or error}") from error
            raise
        return self

    def _open(self) -> None:
        if os.path.exists(os.path.join(self._target, _FINISHED_FILE)):  # a kill after the rename
            self._take_lock(self._target)
            self.is_finished = self._holds_job(os.path.join(self._target, _FINISHED_FILE))
            self._tidy()
            if self.is_finished:
                return
        for link in filter(os.path.islink, (self.path, self._old)):
            raise UserError(f"{link} is a symbolic link, which is not followed: remove it")
        # Before anything of the target is judged or moved: another process may be within `commit()`.
        if os.path.exists(self.path):
            self._lock_partial()
        self._put_back()
        self._check_target()
        if self._lock is None:
            os.makedirs(self.path)
            self._lock_partial()
        self.is_finished = self._holds_job(os.path.join(self.path, _FINISHED_FILE))
        self.is_resumed = self.is_finished or self._holds_job(os.path.join(self.scratch, _JOB_FILE))
        if not self.is_resumed:
            self._empty()
            os.makedirs(self.scratch)
            files.write_atomically(os.path.join(self.scratch, _JOB_FILE), json.dumps(self._job))

    def _check_target(self) -> None:
        if not os.path.isdir(self._target):
            if os.path.exists(self._target):
                raise UserError(f"--output_dir={self._target} is a file: choose another name")
            return
        if os.path.commonpath([os.getcwd(), self._target]) == self._target:
            raise UserError(f"--output_dir={self._target} is the directory that you are in: choose one to create")
        check_replaceable(self._target, os.listdir(self._target), self._owned, overwrite=self._overwrite)

    def _lock_partial(self) -> None:
        if os.listdir(self.path) and not os.path.exists(os.path.join(self.path, LOCK_FILE)):
            raise UserError(f"{self.path} is needed for unfinished output, and holds other files: move it away")
        self._take_lock(self.path)

    def _take_lock(self, directory: str) -> None:
        """Locks the directory until the process ends, however it does."""
        try:
            self._lock = files.lock(directory)
        except BlockingIOError as error:
            raise UserError(
                f"--output_dir={self._target}: another process is writing it; wait for it or choose another"
            ) from error

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _holds_job(self, path: str) -> bool:
        return os.path.exists(path) and json.loads(files.read_bytes(path)) == self._job

    def _put_back(self) -> None:
        """Undoes the first rename of a `commit()` that was killed before the second."""
        is_there = os.path.isfile(self._target) or (os.path.isdir(self._target) and os.listdir(self._target))
        if os.path.isdir(self._old) and not is_there:
            os.rename(self._old, self._target)

    def _empty(self) -> None:
        # The job first: what a kill leaves of the other files must never pass for all of them.
        pathlib.Path(self.path, _FINISHED_FILE).unlink(missing_ok=True)
        pathlib.Path(self.scratch, _JOB_FILE).unlink(missing_ok=True)
        for path in pathlib.Path(self.path).iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK_FILE:
                path.unlink()

    def discard(self) -> None:
        """Removes everything written; raises OSError when it cannot."""
        if os.path.exists(self.path):
            self._empty()
            shutil.rmtree(self.path)

    def commit(self) -> None:
        """Removes temporary files and lets the directory appear."""
        if self._lock is None:  # done on entry
            return
        if not self.is_finished:
            os.rename(os.path.join(self.scratch, _JOB_FILE), os.path.join(self.path, _FINISHED_FILE))
        if os.path.exists(self.scratch):
            shutil.rmtree(self.scratch)
        if os.path.isdir(self._target):
            shutil.rmtree(self._old, ignore_errors=True)
            os.rename(self._target, self._old)
        # With the lock and the mark, so that nothing but this rename is between what was there and the new files.
        os.rename(self.path, self._target)
        self._tidy()

    def _tidy(self) -> None:
        """Removes what `commit()` leaves, the mark last: while it is there, another call continues the removal."""
        shutil.rmtree(self._old, ignore_errors=True)
        self._unlock()
        # Another process may have removed these.
        pathlib.Path(self._target, LOCK_FILE).unlink(missing_ok=True)
        pathlib.Path(self._target, _FINISHED_FILE).unlink(missing_ok=True)

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        is_mistake = isinstance(error, UserError) and not isinstance(error, ResumableError)
        if (is_mistake or not self._is_resumable) and self._lock is not None:
            with contextlib.suppress(OSError):  # the error itself is reported
                self.discard()
        self._unlock()
        if error is not None and self._is_resumable and _is_disk_full(error):
            raise ResumableError(
                f"no space is left on the disk of {self.path}: make room, and the same command resumes where it ended "
                f"(or remove that directory)"
            ) from error
        if not self._is_resumable and isinstance(error, files.errors()):
            reason = "no space is left on the disk" if _is_disk_full(error) else str(error).splitlines()[0]
            raise UserError(
                f"--output_dir={self._target} cannot be written: {reason}; nothing is left of it"
            ) from error


def check_replaceable(directory: str, names: Iterable[str], owned: Sequence[str], *, overwrite: bool) -> None:
    """Raises a `UserError` unless `names` is empty, or `overwrite` is set and all of them match patterns of `owned`."""
    names = sorted(names)
    others = [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in owned)]
    if others:
        listed = ", ".join(others[:_MAX_NAMES]) + (", ..." if len(others) > _MAX_NAMES else "")
        raise UserError(
            f"--output_dir={directory} holds files that were not written by this command ({listed}): choose another "
            f"directory"
        )
    if names and not overwrite:
        raise UserError(f"--output_dir={directory} is not empty: choose another, or replace it with --overwrite")


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        return "disk is full" in str(error)
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return type(error).__name__ == "ResourceExhaustedError"  # TensorFlow's, which is not imported for this
