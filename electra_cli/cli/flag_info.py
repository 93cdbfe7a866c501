"""The flags of a command as its help and its completion show them. TensorFlow is not imported here."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from electra_cli.config.reference import Entry

# The last words of names whose values are paths: of flags, and of a config's keys.
_PATH_FLAGS = {
    "DIR": ("dir", "workdir", "inspect"),
    "FILE": ("file", "hparams", "predict"),
    "PATH": ("input", "checkpoint", "source", "output", "init", "like"),
}
_PATH_KEYS = {"DIR": ("dir",), "FILE": ("file", "train", "validation", "test", "probes"), "PATH": ("checkpoint",)}


@dataclasses.dataclass(frozen=True)
class FlagInfo:
    """A flag.

    Attributes:
      name: without dashes.
      value: what stands for its value, such as FILE; empty for a flag that is given or not.
      description: what it does, as one line.
      default: its default as on a command line; empty: none.
      choices: the values that it takes; empty: others too.
      suggestions: values among others, to complete.
    """

    name: str
    value: str
    description: str
    default: str = ""
    choices: Sequence[str] = ()
    suggestions: Sequence[str] = ()

    @property
    def takes_directory(self) -> bool:
        """Whether its value is a directory, or several."""
        return self.value.startswith("DIR")

    @property
    def takes_path(self) -> bool:
        """Whether its value is a file or directory, or several."""
        return self.value.startswith(("FILE", "PATH", "PRESET"))

    @property
    def takes_several(self) -> bool:
        """Whether its value may be several ones, with commas between them."""
        return self.value.endswith("[,...]")


def describe(flag_values: flags.FlagValues) -> list[FlagInfo]:
    """Returns the flags of a command in the order of their declaration."""
    found: list[FlagInfo] = []
    for flag in flag_values._flags().values():
        # Short names, and the keys of a config, which have a reference of their own.
        if flag.name in (info.name for info in found) or flag.name.startswith("config."):
            continue
        has_default = flag.default not in (None, "", []) and flag.default is not False
        default = (flag.default_as_str or "").strip("'") if has_default else ""
        choices = tuple(getattr(flag.parser, "enum_values", ()))
        # absl writes the choices before what the flag does.
        description = " ".join((flag.help or "").removeprefix(f"<{'|'.join(choices)}>:").split())
        found.append(FlagInfo(flag.name, _value_name(flag, choices), description, default, choices))
    return found


def describe_key(entry: Entry, choices: Sequence[str]) -> FlagInfo:
    """Returns a key of a config as the flag that it is on a command line; `choices` are the values that it takes."""
    is_text = entry.type in ("str", "tuple")
    name = _path_name(entry.key, _PATH_KEYS) if is_text else ""
    value = f"{name}[,...]" if name and entry.type == "tuple" else name or entry.type.upper()
    return FlagInfo(f"config.{entry.path}", value, entry.description, choices=choices)


def _path_name(name: str, words: Mapping[str, Sequence[str]]) -> str:
    """Returns what the value of a flag or key of that name is, of the keys of `words`; '': no path."""
    last = name.rpartition("_")[2]
    return next((kind for kind, known in words.items() if last in known), "")


def _value_name(flag: Any, choices: Sequence[str]) -> str:
    if flag.boolean:
        return ""
    if choices:
        return "|".join(choices)
    kind = flag.flag_type()
    if kind == "int":
        return "N"
    if kind == "float":
        return "X"
    if flag.name == "config":
        return "PRESET_OR_FILE"
    several = "[,...]" if "list" in kind else ""
    path = _path_name(flag.name, _PATH_FLAGS)
    if path:
        return f"{path}{several}"
    return f"TEXT{several}" if not several else "A[,B...]"
