"""The flags of a command and the keys of its config, and the help that shows them. No TensorFlow here."""

import dataclasses
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from electra_cli.config.fields import Field, Schema

_WIDTH_WITHOUT_TERMINAL, _MIN_WIDTH, _MAX_WIDTH = 100, 60, 120
_FLAG_COLUMN, _KEY_COLUMN = 30, 38
# The last words of names whose values are paths: of flags, and of a config's keys.
_PATH_FLAGS = {
    "DIR": ("dir", "workdir", "inspect"),
    "FILE": ("file", "hparams", "predict"),
    "PATH": ("input", "checkpoint", "source", "output", "init", "like"),
}
_PATH_KEYS = {"DIR": ("dir",), "FILE": ("file", "train", "validation", "test", "probes"), "PATH": ("checkpoint",)}


@dataclasses.dataclass(frozen=True)
class FlagInfo:
    """A flag, or a key of a config as the flag that it is on a command line."""

    name: str  # without dashes
    value: str  # a word for its value, such as FILE; empty: a switch
    description: str
    default: str = ""  # as on a command line
    choices: Sequence[str] = ()  # empty: any value
    suggestions: Sequence[str] = ()  # for completion; others are possible

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


# What every command takes.
COMMON_FLAGS = (
    FlagInfo("help", "", "Print this text."),
    FlagInfo("print_completion", "bash|zsh|fish", "Print a script for completing this command in a shell.",
             choices=("bash", "zsh", "fish")),
)  # fmt: skip


def describe(flag_values: flags.FlagValues, schema: Schema | None = None) -> list[FlagInfo]:
    """Returns the flags of a command in the order of their declaration, without its config's keys."""
    infos: dict[str, FlagInfo] = {}
    for flag in flag_values._flags().values():
        has_default = flag.default not in (None, "", []) and flag.default is not False
        default = (flag.default_as_str or "").strip("'") if has_default else ""
        choices = tuple(getattr(flag.parser, "enum_values", ()))
        # absl writes the choices before what the flag does.
        description = " ".join((flag.help or "").removeprefix(f"<{'|'.join(choices)}>:").split())
        suggestions = schema.names() if schema and flag.name == "config" else ()
        # A flag with a short name occurs under both.
        infos[flag.name] = FlagInfo(flag.name, _value_name(flag, choices), description, default, choices, suggestions)
    return list(infos.values())


def describe_keys(schema: Schema) -> list[FlagInfo]:
    """Returns the keys of a config as flags."""
    return [_describe_key(key, field) for key, field in schema.fields.items()]


def _describe_key(key: str, field: Field) -> FlagInfo:
    is_text = field.type_name in ("str", "tuple")
    path = _path_name(key.rpartition(".")[2], _PATH_KEYS) if is_text else ""
    value = f"{path}[,...]" if path and field.type_name == "tuple" else path or field.type_name.upper()
    choices = ("true", "false") if field.type_name == "bool" else field.choices
    return FlagInfo(f"config.{key}", value, field.description, choices=choices)


def _path_name(name: str, words: Mapping[str, Sequence[str]]) -> str:
    """Returns which key of `words` the value of a flag of that name is; '': no path."""
    last = name.rpartition("_")[2]
    return next((kind for kind, known in words.items() if last in known), "")


def _value_name(flag: Any, choices: Sequence[str]) -> str:
    if flag.boolean:
        return ""
    if choices:
        return "|".join(choices)
    kind = flag.flag_type()
    if kind in ("int", "float"):
        return "N" if kind == "int" else "X"
    if flag.name == "config":
        return "PRESET_OR_FILE"
    path = _path_name(flag.name, _PATH_FLAGS)
    if "list" in kind:
        return f"{path}[,...]" if path else "A[,B...]"
    return path or "TEXT"


def help_text(
    usage: str,
    flags: Iterable[FlagInfo],
    groups: Mapping[str, Iterable[str]],
    examples: str = "",
    schema: Schema | None = None,
) -> str:
    """Returns the help of a command, as wide as the terminal; flags that are in no group come last."""
    width = min(_MAX_WIDTH, max(_MIN_WIDTH, shutil.get_terminal_size((_WIDTH_WITHOUT_TERMINAL, 24)).columns))
    by_name = {flag.name: flag for flag in flags}
    named = [name for names in groups.values() for name in names]
    others = [name for name in sorted(by_name) if name not in named]
    parts = [usage.strip()]
    for title, names in {**groups, "Other flags" if groups else "Flags": others}.items():
        if names:
            parts.append("\n".join([f"{title}:", *(_flag_text(by_name[name], width) for name in names)]))
    common = "\n".join(_flag_text(flag, width) for flag in COMMON_FLAGS)
    parts.append(f"Help:\n{common}")
    if examples:
        parts.append(examples.strip())
    if schema:
        parts.append(_config_text(schema, width))
    return "\n\n".join(parts)


def _flag_text(flag: FlagInfo, width: int) -> str:
    is_switch = not flag.value and flag.name != "help"
    head = f"  --{'[no]' if is_switch else ''}{flag.name}" + (f"={flag.value}" if flag.value else "")
    default = f" (default: {flag.default})" if flag.default else ""
    return _two_columns(head, f"{flag.description}{default}", _FLAG_COLUMN, width)


def _two_columns(head: str, text: str, column: int, width: int) -> str:
    """Returns `head` with the wrapped text next to it, or below where it is too long."""
    lines = textwrap.wrap(text, width - column, break_on_hyphens=False)
    first = head if len(head) + 2 > column else f"{head:<{column}}{lines.pop(0)}"
    return "\n".join([first, *(" " * column + line for line in lines)])


def _config_text(schema: Schema, width: int) -> str:
    parts = ["Config keys with their defaults; override them with --config.SECTION.KEY=VALUE"]
    keys, section = list(schema.fields.items()), None
    for (key, field), (_, following) in zip(keys, [*keys[1:], ("", None)], strict=True):
        if key.rpartition(".")[0] != section:
            section = key.rpartition(".")[0]
            parts.append(f"\nconfig.{section}:" if section else "\nconfig:")
        default = f"unset ({field.type_name})" if field.default is None else field.default_text
        head = f"  {key.rpartition('.')[2]} = {default}"
        # Keys that share a description have it below them.
        is_shared = following is not None and following.description == field.description
        parts.append(head if is_shared else _two_columns(head, field.description, _KEY_COLUMN, width))
    return "\n".join(parts)
