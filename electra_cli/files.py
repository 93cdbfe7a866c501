"""Local and remote files, opened, and written whole; TensorFlow is imported for remote ones only."""

import contextlib
import os
from typing import IO, Any


def is_remote(path: str) -> bool:
    """Whether `path` names a file of a remote file system, as `gs://bucket/file` does."""
    return "://" in path


def join(directory: str, name: str) -> str:
    """Returns the path of `name` in `directory`."""
    return f"{directory.rstrip('/')}/{name}" if is_remote(directory) else os.path.join(directory, name)


def read_bytes(path: str) -> bytes:
    """Returns the content of a file.

    Raises:
      FileNotFoundError, OSError: it cannot be read.
    """
    with open_file(path, "rb") as stream:
        return stream.read()


def size(path: str) -> int | None:
    """Returns the size of a file in bytes; None when it does not exist."""
    if is_remote(path):
        import tensorflow as tf  # noqa: PLC0415  (takes seconds; local paths can do without)

        return tf.io.gfile.stat(path).length if tf.io.gfile.exists(path) else None
    return os.path.getsize(path) if os.path.isfile(path) else None


def open_file(path: str, mode: str) -> IO[Any]:
    """Opens a file; a remote one is read in pieces."""
    if is_remote(path):
        import tensorflow as tf  # noqa: PLC0415

        if not tf.io.gfile.exists(path):
            raise FileNotFoundError(path)
        return tf.io.gfile.GFile(path, mode)
    return open(path, mode)


def write_atomically(file: str, text: str) -> None:
    """Writes a text file under a temporary name, forces it to the disk and renames it.

    Raises:
      OSError, tf.errors.OpError: it cannot be written; the file is as it was.
    """
    temporary = f"{file}.tmp"
    if is_remote(file):
        import tensorflow as tf  # noqa: PLC0415

        with tf.io.gfile.GFile(temporary, "w") as stream:
            stream.write(text)
        tf.io.gfile.rename(temporary, file, overwrite=True)
        return
    try:
        with open(temporary, "w", encoding="utf-8") as local:
            local.write(text)
            local.flush()
            os.fsync(local.fileno())  # or a power cut may leave an empty file under the new name
        os.replace(temporary, file)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise
