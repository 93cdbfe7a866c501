"""Writes docs/configuration.md: every key of a config with type, default and description, from the code.

usage: python scripts/write_config_page.py
"""

import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from electra_cli.config import finetuning as finetuning_config
from electra_cli.config import resolution
from electra_cli.config.finetuning import FINETUNING
from electra_cli.config.presets import PRETRAINING, Presets
from electra_cli.config.reference import Entry, entries

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
INTRODUCTION = """\
# Configuration

<!-- Made by scripts/write_config_page.py: change the comments above the keys instead. -->

Every key with its type and default. On a command line a key is given as `--config.SECTION.KEY=VALUE`, and a tuple as
`1,2,3`. In a config file it is an assignment, as in the files of `configs/`. `unset` keys have no value until one is
given; their description says what applies instead. Keys marked \\* may change when a run resumes; a new value for any
other key would make it a different run, and is refused. `electra-pretrain --config=small --print_config` prints a
config with all overrides, and each command's `--help` has the same descriptions.
"""
PARTS: tuple[tuple[str, Presets, Sequence[str], str], ...] = (
    (
        "Pre-training",
        PRETRAINING,
        resolution.CHANGEABLE_KEYS,
        "For `electra-pretrain` and `electra-plan`. Defaults are those of ELECTRA-Small (Clark et al., ICLR 2020,\n"
        "Table 6).",
    ),
    (
        "Fine-tuning",
        FINETUNING,
        finetuning_config.CHANGEABLE_KEYS,
        "For `electra-finetune`. Defaults are those of the paper (Table 7).",
    ),
)


def main() -> None:
    """Writes the page."""
    PAGE.write_text(render())


def render() -> str:
    """Returns the page."""
    parts = [INTRODUCTION]
    for title, presets, changeable, text in PARTS:
        names = ", ".join(f"`{name}`" for name in presets.names())
        parts.append(f"## {title}\n\n{text} Presets: {names}.\n")
        parts += _sections(entries(presets.module), presets.choices, changeable)
    return "\n".join(parts)


def _sections(found: Sequence[Entry], choices: Mapping[str, Sequence[str]], changeable: Sequence[str]) -> Iterable[str]:
    for section in dict.fromkeys(entry.section for entry in found):
        lines = [f"### `config.{section}`" if section else "### `config`", ""]
        lines += ["| key | type | default | |", "| --- | --- | --- | --- |"]
        described = ""
        for entry in (entry for entry in found if entry.section == section):
            # As in `config.differing_keys`: a name that ends with a dot is a section.
            is_changeable = any(
                entry.path == name or (name.endswith(".") and entry.path.startswith(name)) for name in changeable
            )
            mark = " \\*" if is_changeable else ""
            # Keys that share a description have it at the first of them.
            text = "(as above)" if entry.description == described else _cell(entry, choices.get(entry.path, ()))
            described = entry.description
            default = entry.default if entry.default == "unset" else f"`{entry.default}`"
            lines.append(f"| `{entry.key}`{mark} | {entry.type} | {default} | {text} |")
        yield "\n".join([*lines, ""])


def _cell(entry: Entry, choices: Sequence[str]) -> str:
    # What Markdown would read as more than text; code, between backticks, stays.
    text = "`".join(
        part if place % 2 else re.sub(r"([|*<\[\]])", r"\\\1", part)
        for place, part in enumerate(entry.description.split("`"))
    )
    missing = [choice for choice in choices if choice not in entry.description]
    return f"{text} Values: {', '.join(f'`{choice}`' for choice in choices)}." if missing else text


if __name__ == "__main__":
    main()
