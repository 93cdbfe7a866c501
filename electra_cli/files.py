"""Local and remote files, opened, and written completely or not at all; TensorFlow is imported for remote ones only."""

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from typing import IO, Any

from electra_cli.errors import Option, ResumableError, UserError

LOCK_FILE = ".lock"


def is_remote(path: str) -> bool:
    """Whether `path` names a file of a remote file system, as `gs://bucket/file` does."""
    return "://" in path


def join(directory: str, name: str) -> str:
    """Returns the path of `name` in `directory`."""
    return f"{directory.rstrip('/')}/{name}" if is_remote(directory) else os.path.join(directory, name)


# What TensorFlow's readers of checkpoints take for a pattern that does not match itself.
_PATTERN = re.compile(r"\[.*\]|\\", re.DOTALL)


def check_literal(name: str, path: str) -> None:
    """Raises a `UserError` where TensorFlow takes the value `path` of flag `name` for a pattern, with no way around."""
    if is_remote(path) and _PATTERN.search(path):
        message = f"={path}: TensorFlow takes [...] and \\ in a remote path for a pattern: choose another"
        raise UserError(Option(name), message)


@contextlib.contextmanager
def unescaped(path: str) -> Iterator[str]:
    """Yields a name of a file, for as long as the block runs, in which TensorFlow sees no pattern.

    Raises a `UserError` where the file's own name, not that of its directory, looks like one.
    """
    if not _PATTERN.search(path):
        yield path
        return
    check_literal("--checkpoint", path)
    directory, name = os.path.split(path)
    if _PATTERN.search(name):
        raise UserError(f"{path}: TensorFlow takes [...] and \\ in a file's name for a pattern: rename it")
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def read_bytes(path: str) -> bytes:
    """Returns the content of a file; raises an `OSError` where it cannot be read."""
    with open_file(path, "rb") as stream:
        return stream.read()


def parse_json(text: str | bytes) -> Any:
    """Returns what JSON holds; raises a `ValueError` where it is none."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error


def read_json(path: str) -> dict[str, Any]:
    """Returns the JSON object of a file; raises a `UserError` where there is none."""
    try:
        record = parse_json(read_bytes(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} holds no JSON object")
    return record


def _gfile() -> Any:
    """Returns TensorFlow's file operations, whose import takes seconds; local paths do without."""
    import tensorflow as tf  # noqa: PLC0415

    return tf.io.gfile


def size(path: str) -> int | None:
    """Returns the size of a file in bytes; None when it does not exist."""
    if is_remote(path):
        return _gfile().stat(path).length if _gfile().exists(path) else None
    return os.path.getsize(path) if os.path.isfile(path) else None


def open_file(path: str, mode: str) -> IO[Any]:
    """Opens a file; a remote one is read in pieces. To write, raises a `UserError` at a link, which is not followed."""
    if is_remote(path):
        if not _gfile().exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return _gfile().GFile(path, mode)
    return open(path, mode, opener=None if mode.startswith("r") else _open_unlinked)


def _open_unlinked(path: str, flags: int) -> int:
    """Opens a file to write to: whoever may write to its directory may have put a link there, to a file of ours."""
    if os.path.islink(path):
        raise UserError(f"{path} is a symbolic link, which is not followed: remove it")
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def lock(directory: str) -> IO[str]:
    """Returns the open lock file of a local directory, locked until it is closed or the process ends, however it does.

    Raises:
      BlockingIOError: another process holds the lock.
      OSError, UserError: it cannot be opened, or is a link.
    """
    stream = open(os.path.join(directory, LOCK_FILE), "a", opener=_open_unlinked)  # noqa: SIM115  (open until the end)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise
    return stream


def errors() -> tuple[type[Exception], ...]:
    """Returns what failed reads and writes raise: TensorFlow's own errors too, which only come where it is imported."""
    tf = sys.modules.get("tensorflow")
    return (OSError, tf.errors.OpError) if tf else (OSError,)


@contextlib.contextmanager
def writing(what: str, to: str = "") -> Iterator[None]:
    """Raises a `ResumableError` where `what`, a file or something that belongs in directory `to`, is not written."""
    try:
        yield
    except errors() as error:
        where = f" to {to}" if to else ""
        raise ResumableError(
            f"{what} could not be written{where} ({str(error).splitlines()[0]}): make room or fix the directory, then "
            f"the same command resumes"
        ) from error


def describe_missing(path: str, kind: str) -> str:
    """Returns 'no such `kind`' for a path where nothing is, or that it is a link to nothing, which a listing shows."""
    is_link = not is_remote(path) and os.path.islink(path) and not os.path.exists(path)
    return f"a broken link, to {os.readlink(path)}" if is_link else f"no such {kind}"


def is_directory(path: str) -> bool:
    """Returns whether a directory of that name exists."""
    return _gfile().isdir(path) if is_remote(path) else os.path.isdir(path)


def list_directory(path: str) -> list[str]:
    """Returns the names in a directory, sorted."""
    names = _gfile().listdir(path) if is_remote(path) else os.listdir(path)
    return sorted(name.rstrip("/") for name in names)


def make_directories(path: str) -> None:
    """Makes a directory, and those above it, where they are missing."""
    if is_remote(path):
        _gfile().makedirs(path)
    else:
        os.makedirs(path, exist_ok=True)


def check_directory(name: str, path: str, remedy: str) -> None:
    """Raises a `UserError` with a remedy when the value `path` of flag or key `name` is no directory."""
    if not is_directory(path):
        state = describe_missing(path, "directory") if size(path) is None else "is a file, not a directory"
        raise UserError(Option(name), f"={path}: {state}; {remedy}")


def check_checkpoint(name: str, path: str, remedy: str) -> None:
    """Raises a `UserError` when the value `path` of flag `name` is neither a directory nor a checkpoint.

    A checkpoint's path has none of its files' endings, or `.index`.
    """
    prefix = path.removesuffix(".index")
    # A checkpoint whose index is lost is one that is damaged, which is reported elsewhere.
    names = (f"{prefix}.index", f"{prefix}.data-00000-of-00001")
    if not is_directory(path) and all(size(name) is None for name in names):
        raise UserError(Option(name), f"={path}: {describe_missing(path, 'checkpoint or directory')}; {remedy}")


def check_output(flag: str, path: str, own: bytes = b"") -> None:
    """Raises a `UserError` where the local file of a flag could not be written: before the work, not after it.

    A file that is there is replaced only where it begins as regular expression `own` says, or is empty.
    """
    if is_remote(path):
        return
    directory = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise UserError(f"{flag}={path} is a directory: give a file in it")
    if os.path.exists(path) and not os.path.isfile(path):  # a device, or a pipe, would be replaced by a file
        raise UserError(f"{flag}={path} is no regular file: give another name")
    if own and os.path.exists(path) and os.path.getsize(path):
        with open(path, "rb") as stream:
            if not re.match(own, stream.read(2**16), re.DOTALL):
                raise UserError(f"{flag}={path} was not written by this command: remove it, or give another name")
    if not os.path.isdir(directory):
        raise UserError(f"{flag}={path}: there is no directory {directory}; make it, or choose another")
    if not os.access(directory, os.W_OK):
        raise UserError(f"{flag}={path} cannot be written: {directory} is read-only, or not yours; choose another")


def write_atomically(file: str, content: str | bytes) -> None:
    """Writes a file under a temporary name, forces it to the disk and renames it; text as UTF-8. A link is replaced.

    Raises:
      OSError, tf.errors.OpError: it cannot be written; the file is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_remote(file):
        temporary = f"{file}.tmp"
        with _gfile().GFile(temporary, "wb") as stream:
            stream.write(data)
        _gfile().rename(temporary, file, overwrite=True)
        return
    temporary = f"{file}.tmp{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb") as local:
            local.write(data)
            local.flush()
            os.fsync(local.fileno())  # or a power cut may leave an empty file under the new name
        os.replace(temporary, file)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def write_resumable(file: str, text: str) -> None:
    """Writes a file completely, or not at all and raises a `ResumableError`."""
    with writing(file):
        write_atomically(file, text)
