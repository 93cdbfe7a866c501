"""A command on a pseudo-terminal, and what is to be seen there in the end."""

import fcntl
import os
import pty
import re
import struct
import termios

from tests import forking

_TOKEN = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Terminal:
    """A process whose standard output and error are a terminal; `start` starts it as `subprocess.Popen` does.

    Attributes:
      process: the process.
      written: all that it wrote so far.
    """

    def __init__(self, command, columns=90, rows=30, start=forking.Popen, **environment):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = start(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**clean, "TERM": "xterm", **environment},
            start_new_session=True,
        )
        os.close(slave)
        self.written = ""

    def read_until(self, text=None):
        """Reads until `text` was written, or to the end; returns all that was written."""
        while text is None or text not in self.written:
            try:
                piece = os.read(self._master, 65536)
            except OSError:  # EIO: nobody writes any more
                break
            if not piece:
                break
            self.written += piece.decode(errors="replace")
        return self.written

    def end(self):
        """Reads to the end; returns the exit code."""
        self.read_until()
        os.close(self._master)
        return self.process.wait(60)


def screen(written):
    """Returns the lines that remain when what a program wrote is shown, as by a terminal that is high enough."""
    lines, row, column = [""], 0, 0
    for parameters, command, carriage_return, line_feed, text in _TOKEN.findall(written):
        if carriage_return:
            column = 0
        elif line_feed:
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        elif command == "A":
            row = max(0, row - int(parameters or 1))
        elif command == "K":
            assert parameters == "2"
            lines[row] = ""
        else:
            assert command == "m" or (parameters, command) in (("?25", "h"), ("?25", "l")), (parameters, command)
    return [line.rstrip() for line in "\n".join(lines).rstrip().split("\n")]


def shows_cursor(written):
    """Whether the cursor is to be seen in the end."""
    return written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")
