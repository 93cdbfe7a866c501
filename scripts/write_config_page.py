"""Writes docs/configuration.md: every key of a config with type, default and description, from the code.

usage: python scripts/write_config_page.py
"""

import pathlib
import re
from collections.abc import Iterable, Mapping

from electra_cli.config.fields import Field, Schema
from electra_cli.config.finetuning import FINETUNING
from electra_cli.config.pretraining import PRETRAINING

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
INTRODUCTION = """\
# Configuration

<!-- Made by scripts/write_config_page.py: change the descriptions of the fields instead. -->

Every key with its type and default. On a command line a key is given as `--config.SECTION.KEY=VALUE`, and a tuple as
`1,2,3`. In a config file it is an assignment, as in the files of `configs/`. `unset` keys have no value until one is
given; their description says what applies instead, and `=unset` takes a preset's value away. Keys marked \\* may change
when a run resumes; a new value for any other key would make it a different run, and is refused.
`electra-pretrain --config=small --print_config` prints a config with all overrides, and each command's `--help` has the
same descriptions.
"""
PARTS: tuple[tuple[str, Schema, str], ...] = (
    (
        "Pre-training",
        PRETRAINING,
        "For `electra-pretrain` and `electra-plan`. Defaults are those of ELECTRA-Small (Clark et al., ICLR 2020,\n"
        "Table 6).",
    ),
    (
        "Fine-tuning",
        FINETUNING,
        "For `electra-finetune`. Defaults are those of the paper (Table 7).",
    ),
)


def main() -> None:
    """Writes the page."""
    PAGE.write_text(render())


def render() -> str:
    """Returns the page."""
    parts = [INTRODUCTION]
    for title, schema, text in PARTS:
        names = ", ".join(f"`{name}`" for name in schema.names())
        parts.append(f"## {title}\n\n{text} Presets: {names}.\n")
        parts += _sections(schema.fields)
    return "\n".join(parts)


def _sections(fields: Mapping[str, Field]) -> Iterable[str]:
    for section in dict.fromkeys(key.rpartition(".")[0] for key in fields):
        lines = [f"### `config.{section}`" if section else "### `config`", ""]
        lines += ["| key | type | default | |", "| --- | --- | --- | --- |"]
        described = ""
        for key, field in fields.items():
            if key.rpartition(".")[0] != section:
                continue
            mark = " \\*" if field.changeable else ""
            # Keys that share a description have it at the first of them.
            text = "(as above)" if field.description == described else _cell(field)
            described = field.description
            default = "unset" if field.default is None else f"`{field.default_text}`"
            lines.append(f"| `{key.rpartition('.')[2]}`{mark} | {field.type_name} | {default} | {text} |")
        yield "\n".join([*lines, ""])


def _cell(field: Field) -> str:
    # What Markdown would read as more than text; code, between backticks, stays.
    text = "`".join(
        part if index % 2 else re.sub(r"([|*<\[\]])", r"\\\1", part)
        for index, part in enumerate(field.description.split("`"))
    )
    missing = [choice for choice in field.choices if choice not in field.description]
    return f"{text} Values: {', '.join(f'`{choice}`' for choice in field.choices)}." if missing else text


if __name__ == "__main__":
    main()
