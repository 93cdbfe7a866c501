"""The labelled files of `eval.probes`, as a config names them and their columns. No TensorFlow here."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from electra_cli.errors import UserError


def parse_file(value: str, keys: Mapping[str, Sequence[str]], flag: str) -> dict[str, str]:
    """Returns `path` and settings of 'FILE' or 'FILE:KEY=VALUE,KEY=VALUE', the value of a flag or key.

    `keys`: the possible settings, with the values of each; no values: any.

    Raises:
      UserError: the value has other settings, or names no file.
    """
    naming = re.search(r":(\w+=.*)", value, re.DOTALL)
    path = value[: naming.start()] if naming else value
    settings: dict[str, str] = {}
    for setting in naming[1].split(",") if naming else ():
        key, _, given = setting.partition("=")
        if key not in keys or not given or key in settings:
            raise UserError(
                f"{flag}={value!r}: {setting!r} is none of what may follow a file, each once: "
                f"{', '.join(f'{name}=...' for name in keys)}"
            )
        if keys[key] and given not in keys[key]:
            raise UserError(f"{flag}={value!r}: {key} must be one of {', '.join(keys[key])}")
        settings[key] = given
    if not path:
        raise UserError(f"{flag}={value!r}: names no file before ':'")
    if "second_text" in settings and "text" not in settings:
        raise UserError(f"{flag}={value!r}: second_text is the second of two: give text=COLUMN as well")
    return {"path": path, **settings}


# What a user writes before the name of a column, for messages.
FLAG = "--config.eval.probes=FILE:"
TABLE_FORMATS = ("tsv", "csv", "jsonl")
TASKS = ("classification", "regression")
_KEYS = {"text": (), "second_text": (), "label": (), "format": TABLE_FORMATS, "task": TASKS}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


@dataclasses.dataclass(frozen=True)
class ProbeFile:
    """A labelled file, with columns by name or by number from 0; '': the usual names."""

    path: str
    text: str = ""  # or the first texts of pairs
    second_text: str = ""  # '': none, or the usual names are those of a pair
    label: str = ""
    format: str = ""  # one of `TABLE_FORMATS`; '': by the name's ending
    task: str = ""  # one of `TASKS`; '': by the labels

    @property
    def name(self) -> str:
        """The file's name without directory and endings, which its metrics begin with."""
        name = os.path.basename(self.path)
        for ending in _COMPRESSED:
            name = name.removesuffix(ending)
        return os.path.splitext(name)[0]


def parse_probes(values: Sequence[Any]) -> tuple[ProbeFile, ...]:
    """Reads `config.eval.probes`: 'FILE', or 'FILE:text=COLUMN,...' with keys of `ProbeFile`.

    A value may hold several files with commas between them, as a command line has them, and settings that follow a
    comma may be a value of their own.

    Raises:
      UserError: the value has other settings, or names no file.
    """
    if any(not isinstance(value, str) for value in values):
        raise UserError(f"config.eval.probes={tuple(values)!r}: give names of files, with commas between them")
    probes: list[str] = []
    for part in (part.strip() for value in values for part in value.split(",")):
        if re.match(r"\w+=", part) and probes:
            probes[-1] += f",{part}"
        elif part:
            probes.append(part)
    probe_files = tuple(ProbeFile(**parse_file(probe, _KEYS, "config.eval.probes")) for probe in probes)
    names = [file.name for file in probe_files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"config.eval.probes: two files are named {twice}, as their scores would be: rename one")
    return probe_files
