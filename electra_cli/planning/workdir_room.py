"""Whether a run can write to a workdir, and its checkpoints have room there."""

import os
import shutil
import tempfile

import tensorflow as tf

from electra_cli import files
from electra_cli.errors import UserError
from electra_cli.planning.run_size import CheckpointSize, describe_shortage
from electra_cli.workdir.workdir import Workdir

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
    shortage = describe_shortage(workdir, size)
    if shortage is not None:
        raise UserError(shortage)
    return shutil.disk_usage(place).free


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
