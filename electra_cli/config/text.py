"""A config as text: a config file that `--config` takes again, or JSON. No TensorFlow here."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from electra_cli.config.checks import notices
from electra_cli.config.fields import flatten
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.config.resolution import RunConfig

_DERIVED = "derived."


def show(run: RunConfig, form: str, title: str) -> str:
    """Returns a config with its derived values in a `form`: text (a config file whose docstring is `title`) or json."""
    config = run.resolved.to_dict()
    if run.assumes_vocab_size:
        del config["derived"]["vocab_size"]
    return to_json(config) if form == "json" else to_file(config, title, notices(run.resolved))


def to_file(config: Mapping[str, Any], title: str, notes: Sequence[str] = ()) -> str:
    """Returns a config file: all keys, the defaults of those that have another value, and the derived values."""
    values = flatten(config)
    lines = [f'"""{_inside_quotes(title)}"""', "", *(f"# Note: {note}" for note in notes), *([""] if notes else [])]
    lines += ["from electra_cli.config import default_config", "", "", "def get_config():"]
    lines += ['    """Returns the default config with these values."""', "    config = default_config()"]
    section = ""
    for key, field in PRETRAINING.fields.items():
        if key.partition(".")[0] != section:
            section = key.partition(".")[0]
            lines.append("")
        value = _plain(values[key])
        differs = "" if value == field.default else f"  # default: {_python(field.default)}"
        lines.append(f"    config.{key} = {_python(value)}{differs}")
    derived = [f"    # {key} = {_python(value)}" for key, value in values.items() if key.startswith(_DERIVED)]
    lines += ["", "    # What follows from these and from the data:", *derived, "    return config"]
    return "\n".join(lines)


def to_json(config: Mapping[str, Any]) -> str:
    """Returns `config`, nested, and `changed`: by key, the `default` and the `value` where they differ."""
    values = flatten(config)
    nested: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    changed = {
        key: {"default": field.default, "value": values[key]}
        for key, field in PRETRAINING.fields.items()
        if _plain(values[key]) != field.default
    }
    return json.dumps({"config": nested, "changed": changed}, indent=1)


def _python(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _inside_quotes(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
