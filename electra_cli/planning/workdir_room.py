"""Whether a run can write to a workdir, and its checkpoints have room there."""

import os
import shutil
import tempfile

import tensorflow as tf

from electra_cli import files
from electra_cli.errors import UserError
from electra_cli.planning.devices import GIB
from electra_cli.planning.run_size import CheckpointSize
from electra_cli.training.workdir import Workdir

_LOCK_FILE = ".lock"  # that a `Workdir` makes


def check_place(workdir: str, size: CheckpointSize) -> int | None:
    """Checks that a workdir can be written, that no other process trains there, and that its disk has room.

    Args:
      workdir: the directory, which need not exist; it is left as it was.
      size: what checkpoints of the run will take.

    Returns:
      The free bytes of its disk; None where that is not known, as of remote directories.

    Raises:
      UserError: it is not so.
    """
    if files.is_remote(workdir):
        _check_remote(workdir)
        return None
    place = os.path.abspath(workdir)
    if os.path.isdir(place):
        had_lock = os.path.exists(os.path.join(place, _LOCK_FILE))
        with Workdir(workdir):  # which tells whether another process trains there
            pass
        if not had_lock:
            os.remove(os.path.join(place, _LOCK_FILE))
    while not os.path.exists(place):
        place = os.path.dirname(place)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written ({error.strerror or error}): choose another") from error
    there = sum(entry.stat().st_size for entry in _checkpoint_files(os.path.join(workdir, "checkpoints")))
    free = shutil.disk_usage(place).free
    if free + there < size.kept:
        raise UserError(
            f"--workdir={workdir}: checkpoints will take {size.kept / GIB:.2f} GiB ({size.num_kept} that are kept, and "
            f"one being written) but {(free + there) / GIB:.2f} GiB are free there: make room, lower "
            f"config.train.keep_checkpoints, or raise config.train.keep_every_steps"
        )
    return free


def _checkpoint_files(directory: str) -> list[os.DirEntry]:
    if not os.path.isdir(directory):
        return []
    with os.scandir(directory) as entries:
        return [entry for entry in entries if entry.is_file()]


def _check_remote(workdir: str) -> None:
    existed = tf.io.gfile.isdir(workdir)
    file = tf.io.gfile.join(workdir, f".dry_run-{os.getpid()}")
    try:
        tf.io.gfile.makedirs(workdir)
        with tf.io.gfile.GFile(file, "w") as stream:
            stream.write("")
        tf.io.gfile.remove(file)
        if not existed and tf.io.gfile.isdir(workdir):
            tf.io.gfile.rmtree(workdir)
    except tf.errors.OpError as error:
        raise UserError(f"--workdir={workdir} cannot be written ({error.message}): choose another") from error
