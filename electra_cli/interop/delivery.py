"""A new directory for an import or export, which appears whole and checked or not at all."""

import contextlib
import errno
import shutil
import time
from collections.abc import Iterator

import tensorflow as tf

from electra_cli import files
from electra_cli.data.output_directory import OutputDirectory
from electra_cli.data.tfrecords import SENTENCEPIECE_FILE, VOCAB_FILE
from electra_cli.errors import UserError

# What imports and exports hold, in any format.
_FILES = (
    "config.json", "config.py", "import.json", "checkpoint", "checkpoints", VOCAB_FILE, SENTENCEPIECE_FILE,
    "model.safetensors", "README.md", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "discriminator", "generator", "saved_model.pb", "fingerprint.pb", "variables", "assets",
    "encoder.yaml", "encoder.ckpt.*", "model.ckpt-*",
)  # fmt: skip
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def new_directory(path: str, *, overwrite: bool, is_trial: bool = False) -> Iterator[str]:
    """Gives a directory to write to, which becomes `path` at the end of the block, and is removed after any error.

    Args:
      path: the directory to be made; local.
      overwrite: whether one that is there and not empty may be replaced.
      is_trial: whether nothing is to appear in the end: only to see that it could.

    Raises:
      UserError: `path` is remote, is there and not empty, or cannot be written.
    """
    if files.is_remote(path):
        raise UserError(f"--output_dir={path}: give a local directory, and copy it when it is done")
    # Of a job of its own: there is nothing worth going on with.
    with OutputDirectory(path, overwrite=overwrite, owned=_FILES, job={"started": time.time_ns()}) as output:
        try:
            yield output.path
            if is_trial:
                shutil.rmtree(output.path)
            else:
                output.commit()
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(output.path, ignore_errors=True)
            is_full = isinstance(error, tf.errors.ResourceExhaustedError) or (
                isinstance(error, OSError) and error.errno in _DISK_FULL
            )
            reason = "no space is left on the disk" if is_full else str(error).splitlines()[0]
            raise UserError(f"--output_dir={path} cannot be written: {reason}; nothing is left of it") from error
        except BaseException:
            shutil.rmtree(output.path, ignore_errors=True)
            raise


def check_destination(path: str, *, overwrite: bool) -> None:
    """Raises the `UserError` of `new_directory`, before time is spent on anything, and leaves nothing."""
    with new_directory(path, overwrite=overwrite, is_trial=True):
        pass
