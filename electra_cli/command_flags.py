"""The flags of a command as its help and its completion show them. TensorFlow is not imported here."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags


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
        """Whether its value is a directory."""
        return self.value == "DIR"

    @property
    def takes_path(self) -> bool:
        """Whether its value is a file or directory, or several."""
        return self.value.startswith(("FILE", "PATH", "PRESET"))


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


def _value_name(flag: Any, choices: Sequence[str]) -> str:
    if flag.boolean:
        return ""
    if choices:
        return "|".join(choices)
    kind, words = flag.flag_type(), flag.name.split("_")
    if kind == "int":
        return "N"
    if kind == "float":
        return "X"
    if flag.name == "config":
        return "PRESET_OR_FILE"
    several = "[,...]" if "list" in kind else ""
    if words[-1] in ("dir", "workdir", "inspect"):
        return f"DIR{several}"
    if words[-1] in ("file", "hparams", "predict"):
        return f"FILE{several}"
    if words[-1] in ("input", "checkpoint", "source", "output", "init", "like"):
        return f"PATH{several}"
    return f"TEXT{several}" if not several else "A[,B...]"
