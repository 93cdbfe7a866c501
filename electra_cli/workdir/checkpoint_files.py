"""Checkpoints as files: which there are, whether they are complete; written completely or not at all.

A checkpoint is written to `ckpt-8.partial/` and forced to the disk. That directory is renamed to `ckpt-8.complete/`,
and its files are moved to where TensorFlow looks for them. After a kill at any moment the next start removes the
former, and finishes moving the files of the latter.
"""

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

import tensorflow as tf

from electra_cli.errors import Option, ResumableError, UserError
from electra_cli.files import is_remote, unescaped, write_atomically
from electra_cli.workdir.run_files import check_checkpoint_flag

Found = TypeVar("Found", str, str | None)
Result = TypeVar("Result")

_PARTIAL, _COMPLETE = ".partial", ".complete"
# Ours, and those of TensorFlow's own saving, which earlier versions used.
_LEFTOVER = re.compile(
    r"ckpt-\d+(\.partial|\.complete|_temp)|(ckpt-\d+\..*|checkpoint)\.tempstate.*|(checkpoint|best\.json)\.tmp.*"
)
# Errors that say nothing about what is in a file.
_NOT_DAMAGE = (
    tf.errors.PermissionDeniedError,
    tf.errors.UnauthenticatedError,
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
)


class CheckpointFiles:
    """The checkpoints in a directory, which may be remote and need not exist; each is known by its step."""

    def __init__(self, directory: str):
        self.directory = directory

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, complete or not, in ascending order."""
        return sorted({int(match[1]) for match in self._matches()})

    def path(self, step: int) -> str:
        """Returns the path of a checkpoint, without the endings of its files."""
        return tf.io.gfile.join(self.directory, f"ckpt-{step}")

    def newest(self, warn: Callable[[str], None], remedy: str, where: Iterable[str] = ()) -> str | None:
        """Returns the path of the newest complete checkpoint, and warns of newer ones that are damaged; None: no file.

        Raises a `UserError`, beginning with `where` and ending with `remedy`, if all are damaged.
        """
        damages: dict[str, str] = {}
        before = [match[0] for match in self._matches()]
        for step in reversed(self.steps()):
            path = self.path(step)
            damage = find_damage(path)
            if damage is None:
                for damaged, what in damages.items():
                    warn(f"Checkpoint {damaged} is damaged ({what}); {os.path.basename(path)} is used instead.")
                return path
            if [match[0] for match in self._matches()] != before:
                # A run that writes here removed it while it was read, and has saved a newer one.
                return self.newest(warn, remedy, where)
            damages[path] = damage
        if not damages:
            return None
        path, damage = next(iter(damages.items()))
        message = f"none of {len(damages)} checkpoints can be read; the newest is {path} ({damage}): {remedy}"
        raise UserError(*where, message)

    def ever_saved(self) -> bool:
        """Returns whether a checkpoint was ever written here, though none may be left."""
        return tf.io.gfile.exists(tf.io.gfile.join(self.directory, "checkpoint"))

    def recover(self) -> None:
        """Finishes what a killed process began: moves a checkpoint that was complete, removes what was not."""
        try:
            for name in self._names():
                path = tf.io.gfile.join(self.directory, name)
                if re.fullmatch(rf"ckpt-\d+{re.escape(_COMPLETE)}", name) and not os.path.islink(path):
                    self._move_into_place(path)
                elif _LEFTOVER.fullmatch(name):
                    _remove(path)
        except (tf.errors.OpError, OSError) as error:
            raise UserError(f"{self.directory} cannot be written: {_reason(error)}") from error

    def write(self, step: int, write: Callable[[str], object]) -> None:
        """Writes a checkpoint, or replaces that of the same step, by a function that writes tensors to a path.

        Raises a `ResumableError` if that fails; the others are intact.
        """
        name = f"ckpt-{step}"
        partial = f"{self.path(step)}{_PARTIAL}"
        try:
            if tf.io.gfile.exists(partial):
                _remove(partial)
            tf.io.gfile.makedirs(partial)
            write(tf.io.gfile.join(partial, name))
            _force_to_disk(partial)
            complete = f"{self.path(step)}{_COMPLETE}"
            tf.io.gfile.rename(partial, complete)
            self._move_into_place(complete)
            self._write_state()
        except (tf.errors.OpError, OSError) as error:
            for leftover in (partial, tf.io.gfile.join(self.directory, "checkpoint.tmp")):
                with contextlib.suppress(tf.errors.OpError, OSError):  # the next start removes it
                    _remove(leftover)
            raise ResumableError(
                f"no checkpoint of step {step:,} could be written to {self.directory} ({_reason(error)}); earlier ones "
                f"are intact: make room or fix the directory, then the same command resumes from the newest"
            ) from error

    def keep_only(self, steps: Collection[int]) -> None:
        """Removes the checkpoints of other steps."""
        removed = [step for step in self.steps() if step not in steps]
        try:
            for step in removed:
                # The index first: what has none is no checkpoint.
                for file in [f"{self.path(step)}.index", *_data_files(self.path(step))]:
                    if tf.io.gfile.exists(file):
                        tf.io.gfile.remove(file)
            if removed:
                self._write_state()
        except (tf.errors.OpError, OSError) as error:
            raise ResumableError(
                f"old checkpoints in {self.directory} cannot be removed ({_reason(error)}); the new one is saved: fix "
                f"the directory, then the same command resumes from it"
            ) from error

    def _matches(self) -> list[re.Match[str]]:
        """Returns the matches of the names of files of checkpoints, with the step as group 1."""
        matches = (re.fullmatch(r"ckpt-(\d+)\.(index|data-.*-of-\d+)", name) for name in self._names())
        return [match for match in matches if match]

    def _names(self) -> list[str]:
        if not tf.io.gfile.isdir(self.directory):
            if tf.io.gfile.exists(self.directory):
                # Taken for a run without checkpoints, its metrics would be dropped.
                raise UserError(f"{self.directory} is no directory: put the one back that held the checkpoints")
            return []
        return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(self.directory))

    def _move_into_place(self, complete: str) -> None:
        names = [name.rstrip("/") for name in tf.io.gfile.listdir(complete)]
        # The index last: while it is there, the move is not done. Until then an older index next to newer data would be
        # reported as damage.
        if any(name.endswith(".index") for name in names):
            for name in sorted(names, key=lambda name: name.endswith(".index")):
                source, target = tf.io.gfile.join(complete, name), tf.io.gfile.join(self.directory, name)
                tf.io.gfile.rename(source, target, overwrite=True)
            _force_to_disk(self.directory, files=False)
        _remove(complete)

    def _write_state(self) -> None:
        """Writes TensorFlow's own list, for `tf.train.latest_checkpoint`; nothing here reads it."""
        names = [f'"ckpt-{step}"' for step in self.steps()]
        lines = [f"model_checkpoint_path: {names[-1]}", *(f"all_model_checkpoint_paths: {name}" for name in names)]
        write_atomically(tf.io.gfile.join(self.directory, "checkpoint"), "\n".join(lines) + "\n")


def _data_files(path: str) -> list[str]:
    """Returns the data files of a checkpoint, by listing its directory: `glob` takes the path for a pattern."""
    directory, name = os.path.split(path)
    if not tf.io.gfile.isdir(directory or "."):
        return []
    names = tf.io.gfile.listdir(directory or ".")
    return sorted(tf.io.gfile.join(directory, each) for each in names if each.startswith(f"{name}.data-"))


def latest_checkpoint(directory: str) -> str | None:
    """Returns what `tf.train.latest_checkpoint` does, which takes the directory for a pattern."""
    state = tf.train.get_checkpoint_state(directory)
    path = state.model_checkpoint_path if state else ""
    return path if path and tf.io.gfile.exists(f"{path}.index") else None


def find_damage(path: str) -> str | None:
    """Reads each tensor of a checkpoint (a path without file endings), and returns what is damaged; None: nothing.

    Reading compares the checksums of index and tensors. Raises a `UserError` where it cannot be read now.
    """
    index, data = f"{path}.index", _data_files(path)
    if not tf.io.gfile.exists(index):
        return "its index file is missing"
    if not data:
        return "its data file is missing"
    name = "the index"
    try:
        for file in (index, *data):
            with tf.io.gfile.GFile(file, "rb") as stream:
                stream.read(1)
        with unescaped(path) as file:
            reader = tf.train.load_checkpoint(file)
            for name in sorted(reader.get_variable_to_shape_map()):
                reader.get_tensor(name)
    except _NOT_DAMAGE as error:
        raise UserError(f"checkpoint {path} cannot be read now: {_reason(error)}; fix that and try again") from error
    # On damaged bytes the reader raises any of these.
    except (tf.errors.OpError, RuntimeError, IndexError, ValueError, TypeError, KeyError, MemoryError) as error:
        return f"{name.removesuffix('/.ATTRIBUTES/VARIABLE_VALUE')} cannot be read: {_reason(error)}"
    return None


def find_checkpoint(path: str, warn: Callable[[str], None]) -> str:
    """Returns a complete checkpoint: that of a path (without file endings), or the newest of a directory or workdir.

    Raises a `UserError` if there is none, or it is damaged.
    """
    path = path.removesuffix(".index")
    if tf.io.gfile.isdir(path):
        below = tf.io.gfile.join(path, "checkpoints")
        files = CheckpointFiles(below if tf.io.gfile.isdir(below) else path)
        where = (Option("--checkpoint"), f"={path}: ")
        newest = files.newest(warn, "put a complete one back, or give another", where)
        if newest is None:
            raise UserError(*where, "holds no checkpoint (ckpt-*)")
        return newest
    check_checkpoint_flag(path)
    damage = find_damage(path)
    if damage is not None:
        raise UserError(Option("--checkpoint"), f"={path} is damaged ({damage}): give another")
    return path


def use_checkpoint(find: Callable[[], Found], use: Callable[[Found], Result]) -> Result:
    """Returns what `use` makes of the checkpoint that `find` finds.

    Where a run removes it while it is used, because it saved newer ones, that is repeated with what `find` finds then.
    """
    while True:
        path = find()
        try:
            return use(path)
        except (tf.errors.NotFoundError, FileNotFoundError):
            if path is None or tf.io.gfile.exists(f"{path}.index"):
                raise


def step_of(path: str) -> int:
    """Returns the step of a complete checkpoint; 0 when it has no optimizer."""
    key = "optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE"
    with unescaped(path) as file:
        reader = tf.train.load_checkpoint(file)
        return int(reader.get_tensor(key)) if reader.has_tensor(key) else 0


def has_optimizer(path: str) -> bool:
    """Returns whether a complete checkpoint holds an optimizer, or a model alone."""
    with unescaped(path) as file:
        names = tf.train.load_checkpoint(file).get_variable_to_shape_map()
    return any(name.startswith("optimizer/") for name in names)


def _force_to_disk(directory: str, files: bool = True) -> None:
    """Waits until a local directory's entries, and its files, are on the disk; remote files are there once closed."""
    if is_remote(directory):
        return
    names = [os.path.join(directory, name) for name in os.listdir(directory)] if files else []
    for path in (*names, directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: str) -> None:
    # Of a link, what it points to stays.
    if tf.io.gfile.isdir(path) and not os.path.islink(path):
        tf.io.gfile.rmtree(path)
    else:
        tf.io.gfile.remove(path)


def _reason(error: Exception) -> str:
    text = re.sub(r"\{\{function_node .*?\}\} | \[Op:\w+\]", "", str(error)).strip()
    return (text.splitlines() or [type(error).__name__])[0]
