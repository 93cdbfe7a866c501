"""A file and what is said of it, as a command line names them: FILE:KEY=VALUE,KEY=VALUE. TensorFlow is not imported."""

import re
from collections.abc import Mapping, Sequence

from electra_cli.errors import UserError


def parse_file(value: str, keys: Mapping[str, Sequence[str]], flag: str) -> dict[str, str]:
    """Reads the name of a file with what is said of it.

    Args:
      value: 'FILE', or 'FILE:KEY=VALUE,KEY=VALUE'.
      keys: what may be said, with the values that it may have; of no values any.
      flag: what the value is of, for messages.

    Returns:
      `path`, and what was said.

    Raises:
      UserError: a value that cannot be meant.
    """
    naming = re.search(r":(\w+=.*)", value, re.DOTALL)
    path = value[: naming.start()] if naming else value
    settings: dict[str, str] = {}
    for setting in naming[1].split(",") if naming else ():
        key, _, said = setting.partition("=")
        if key not in keys or not said or key in settings:
            raise UserError(
                f"{flag}={value!r}: {setting!r} is none of what may follow a file, each once: "
                f"{', '.join(f'{name}=...' for name in keys)}"
            )
        if keys[key] and said not in keys[key]:
            raise UserError(f"{flag}={value!r}: {key} must be one of {', '.join(keys[key])}")
        settings[key] = said
    if not path:
        raise UserError(f"{flag}={value!r}: names no file before ':'")
    if "second_text" in settings and "text" not in settings:
        raise UserError(f"{flag}={value!r}: second_text is the second of two: give text=COLUMN as well")
    return {"path": path, **settings}
