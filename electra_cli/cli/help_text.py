"""The help of a command: its flags in groups, and the keys of its config. TensorFlow is not imported here."""

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from electra_cli.cli.flag_info import FlagInfo
from electra_cli.config.reference import Entry

_WIDTH_WITHOUT_TERMINAL, _LEAST_WIDTH, _GREATEST_WIDTH = 100, 60, 120
_FLAG_COLUMN, _KEY_COLUMN = 30, 38
# What every command takes.
COMMON_FLAGS = (
    FlagInfo("help", "", "Print this text."),
    FlagInfo("print_completion", "bash|zsh|fish", "Print a script for completing this command in a shell.",
             choices=("bash", "zsh", "fish")),
)  # fmt: skip


def help_text(
    usage: str,
    flags: Iterable[FlagInfo],
    groups: Mapping[str, Sequence[str]],
    examples: str = "",
    config_entries: Sequence[Entry] = (),
) -> str:
    """Returns the help of a command, as wide as the terminal.

    Args:
      usage: what it does and how it is called.
      flags: its flags.
      groups: the names of the flags that belong together, by a title; others come last.
      examples: text that follows the flags.
      config_entries: the keys of its config.
    """
    width = min(_GREATEST_WIDTH, max(_LEAST_WIDTH, shutil.get_terminal_size((_WIDTH_WITHOUT_TERMINAL, 24)).columns))
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
    if config_entries:
        parts.append(_config_text(config_entries, width))
    return "\n\n".join(parts)


def _flag_text(flag: FlagInfo, width: int) -> str:
    is_switch = not flag.value and flag.name != "help"
    head = f"  --{'[no]' if is_switch else ''}{flag.name}" + (f"={flag.value}" if flag.value else "")
    default = f" (default: {flag.default})" if flag.default else ""
    return _two_columns(head, f"{flag.description}{default}", _FLAG_COLUMN, width)


def _two_columns(head: str, text: str, column: int, width: int) -> str:
    """Returns `head` with the wrapped text beside it, or below where it is too long."""
    lines = textwrap.wrap(text, width - column, break_on_hyphens=False)
    if len(head) + 2 > column:
        return "\n".join([head, *(" " * column + line for line in lines)])
    return "\n".join([f"{head:<{column}}{lines[0]}", *(" " * column + line for line in lines[1:])])


def _config_text(config_entries: Sequence[Entry], width: int) -> str:
    parts = []
    for section in dict.fromkeys(entry.section for entry in config_entries):
        lines = [f"config.{section}:" if section else "config:"]
        keys = [entry for entry in config_entries if entry.section == section]
        for entry, following in zip(keys, [*keys[1:], None], strict=True):
            head = f"  {entry.key} = {_default(entry)}"
            # Keys that share a description have it below them.
            is_shared = following is not None and following.description == entry.description
            lines.append(head if is_shared else _two_columns(head, entry.description, _KEY_COLUMN, width))
        parts.append("\n".join(lines))
    return "\n\n".join(["Config keys with their defaults; override them with --config.SECTION.KEY=VALUE", *parts])


def _default(entry: Entry) -> str:
    return f"unset ({entry.type})" if entry.default == "unset" else entry.default
