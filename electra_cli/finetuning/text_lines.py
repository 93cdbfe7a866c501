"""The lines of a file, read with all that can be wrong with one."""

import os

from electra_cli import files
from electra_cli.data import text_files
from electra_cli.errors import UserError
from electra_cli.suggestions import did_you_mean_file

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: str) -> str:
    """Returns the text of a file, UTF-8, plain or compressed (`.gz`, `.bz2`, `.xz`, `.zst`), local or remote.

    Raises:
      UserError: there is no such file, it is a directory, empty, damaged, or not UTF-8.
    """
    check_file(path)
    try:
        with files.open_file(path, "rb") as raw, text_files.unpack(raw, path) as stream:
            content = stream.read()
    except (*text_files.DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        raise UserError(f"{path} is damaged or cut off ({error}): get the file anew") from error
    if content.startswith(_UTF16_MARKS):
        raise UserError(f"{path} is UTF-16: convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)")
    content = content.removeprefix(_BYTE_ORDER_MARK)
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(0)) + 1
        raise UserError(f"{path}:{line}: a zero byte: this is no text file")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8: convert the file (if it is Latin-1: "
            f"iconv -f LATIN1 -t UTF-8)"
        ) from error
    if not text.strip():
        raise UserError(f"{path} is empty: give a file that holds examples")
    return text


def check_file(path: str) -> None:
    """Raises a `UserError` where there is no such file, or a directory of that name; it may still be unreadable."""
    if files.is_directory(path):
        raise UserError(f"{path} is a directory, not a file: name a file in it")
    # Of local ones also pipes, which have no size.
    is_there = files.size(path) is not None if files.is_remote(path) else os.path.exists(path)
    if not is_there:
        raise UserError(f"{path}: no such file{'' if files.is_remote(path) else did_you_mean_file(path)}")


def split_lines(text: str) -> list[str]:
    """Returns lines without their ends, '\\n' or '\\r\\n', and without blank ones behind the last that is none.

    Other characters that Unicode counts as ends of lines are text.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
