"""A config's keys as fields: its defaults, checks, help, completion, reference page and comparison follow from them.

No TensorFlow here.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
from ml_collections import config_dict

from electra_cli.config.suggestions import did_you_mean
from electra_cli.errors import UserError

_LARGEST = 3.4028234e38  # of float32, in which models compute


@dataclasses.dataclass(frozen=True)
class Rule:
    """What values of a key must fulfil, and what to do about one that does not.

    `limit`: the largest whole number, by default that of int32, in which TensorFlow counts and addresses.
    """

    holds: Callable[[Any], bool]
    remedy: str
    limit: int = 2**31 - 1

    def up_to(self, limit: int) -> "Rule":
        """Returns the rule for a size that memory or time are in proportion to: beyond any that is in use."""
        return dataclasses.replace(self, limit=limit)


POSITIVE = Rule(lambda value: value > 0, "must be greater than 0")
POSITIVE_OR_UNSET = Rule(lambda value: value > 0, "must be greater than 0, or left unset")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "must not be negative")
FRACTION = Rule(lambda value: 0 <= value < 1, "must be a fraction, at least 0 and less than 1")
FROM_0_TO_1 = Rule(lambda value: 0 <= value <= 1, "must be a fraction from 0 to 1")


@dataclasses.dataclass(frozen=True)
class Field:
    """A key of a config."""

    default: Any  # None: unset
    description: str  # with its unit; keys that follow each other may share it
    rule: Rule | None = None
    choices: Sequence[str] = ()  # where the default is '', that is one more
    changeable: bool = False  # by a started run
    value_type: type | None = None  # needed where there is no default

    @property
    def type_name(self) -> str:
        """Type of its values: int, float, str, bool or tuple."""
        return (self.value_type or type(self.default)).__name__

    @property
    def default_text(self) -> str:
        """Its default as in Python, or 'unset'."""
        return "unset" if self.default is None else repr(self.default)

    def find_mistake(self, value: Any) -> str | None:
        """Returns what to do about a value that is invalid whatever the other keys are; None where it is valid."""
        if self.choices and value not in self.choices and not self.default == value == "":
            empty = "empty or " if self.default == "" else ""
            return f"must be {empty}one of {', '.join(self.choices)}{did_you_mean(value, self.choices)}"
        if isinstance(value, float) and not abs(value) <= _LARGEST:
            return "must be a finite number in float32"
        if self.rule is not None and value is not None and not self.rule.holds(value):
            return self.rule.remedy
        if self.rule is not None and isinstance(value, int) and value > self.rule.limit:
            return f"must be {self.rule.limit:,} at most"
        return None


# A key that a started run may change.
ChangeableField = functools.partial(Field, changeable=True)


@dataclasses.dataclass(frozen=True)
class Schema:
    """The keys of a kind of config, and its shipped presets."""

    fields: Mapping[str, Field]  # by key, such as 'train.num_steps'; a key without a dot is in no section
    origin: str  # full name of the function that returns the default config, for messages
    folder: str = ""  # of the presets, below `configs/`

    def default_config(self) -> ml_collections.ConfigDict:
        """Returns all keys with their defaults."""
        config = ml_collections.ConfigDict()
        for key, field in self.fields.items():
            section, _, name = key.rpartition(".")
            if section and section not in config:
                config[section] = ml_collections.ConfigDict()
            value = config_dict.placeholder(field.value_type) if field.default is None else field.default
            (config[section] if section else config)[name] = value
        return config

    def check_values(self, config: ml_collections.ConfigDict) -> None:
        """Raises a `UserError` for the first value that is invalid whatever the other keys are."""
        values = flatten(config)
        for key, field in self.fields.items():
            mistake = field.find_mistake(values[key])
            require(config, key, mistake is None, mistake or "")

    def differences(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Returns the differences of nested configs as 'key: old -> new': those forbidden and allowed in a started run.

        Keys of `derived` follow from the others, and from the data.
        """
        # A key that came with a later version had, in effect, its default.
        flat_old, flat_new = {**flatten(self.default_config()), **flatten(old)}, flatten(new)
        forbidden: list[str] = []
        allowed: list[str] = []
        for key in sorted(flat_old.keys() | flat_new.keys()):
            values = (flat.get(key) for flat in (flat_old, flat_new))
            before, after = (list(value) if isinstance(value, tuple) else value for value in values)
            if before != after and not key.startswith("derived."):
                is_changeable = key in self.fields and self.fields[key].changeable
                (allowed if is_changeable else forbidden).append(f"{key}: {json.dumps(before)} -> {json.dumps(after)}")
        return forbidden, allowed

    def restore(self, recorded: Mapping[str, Any], file: str) -> ml_collections.ConfigDict:
        """Returns the config of a nested dict as JSON has it, without `derived`; `file` is for messages.

        Raises:
          UserError: it has keys, types or values that this version does not know.
        """
        config = self.default_config()
        try:
            values = {key: value for key, value in flatten(recorded).items() if not key.startswith("derived.")}
            config.update_from_flattened_dict(
                {key: tuple(value) if self.fields[key].type_name == "tuple" else value for key, value in values.items()}
            )
            self.check_values(config)
            return config
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file} was written by another version of this program: {error}") from error
        except UserError as error:
            raise UserError(f"{file}: {error}") from error

    @property
    def directory(self) -> pathlib.Path:
        """The directory of the shipped presets: installed with the package, or next to it in a checkout."""
        package = pathlib.Path(__file__).resolve().parent.parent
        installed = package / "configs"
        return (installed if installed.is_dir() else package.parent / "configs") / self.folder

    def names(self) -> list[str]:
        """Returns the presets that `--config=` takes besides file names."""
        return sorted(path.stem for path in self.directory.glob("*.py") if not path.stem.startswith("_"))

    def path(self, name: str) -> str:
        """Returns the file that `--config=name` means, a preset's or `name`; raises a `UserError` if there is none."""
        names = self.names()
        if name in names:
            return str(self.directory / f"{name}.py")
        if pathlib.Path(name).is_dir():
            raise UserError(f"--config={name} is a directory: give a config file, or a preset ({', '.join(names)})")
        if not pathlib.Path(name).is_file():
            raise UserError(
                f"--config={name}: no such file and no preset of that name; presets: {', '.join(names)}"
                f"{did_you_mean(name, names)}"
            )
        return name


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns {'section.key': value} of a nested config or dict."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def require(config: Any, key: str, is_valid: bool, remedy: str) -> None:
    """Raises a `UserError` that names key, value and remedy, unless the key's value in `config` is valid."""
    if not is_valid:
        raise UserError(f"config.{key}={flatten(config)[key]!r}: {remedy}")
