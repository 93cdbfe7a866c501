"""`--config` on a command line: parses a preset or file with overrides, and reports mistakes. No TensorFlow here."""

import ast
import importlib.machinery
import importlib.util
import pathlib
import re
import shlex
import sys

import ml_collections
from absl import flags
from ml_collections import config_flags

from electra_cli.config.fields import Schema, flatten
from electra_cli.config.suggestions import nearest
from electra_cli.errors import UserError

_UNSET = ("unset", "None")  # a value that takes a preset's away, where the default is none
_KINDS_OF_VALUES = {
    "bool": "true or false",
    "int": "a whole number, such as 1000",
    "float": "a number, such as 0.01",
    "str": "text",
    "tuple": "values separated by commas",
}


class ConfigFlag:
    """`--config=PRESET_OR_FILE`, declared in `flag_values`, with `--config.KEY=VALUE`.

    `is_optional`: whether keys may be given without `--config`, for `override`.

    Attributes:
      file: the config file that was given, that of a preset where that was; None: none.
      overrides: the other arguments of the config, each as `--config.KEY=VALUE`.
    """

    def __init__(self, flag_values: flags.FlagValues, schema: Schema, *, is_optional: bool = False):
        self.schema, self._is_optional = schema, is_optional
        self.file: str | None = None
        self.overrides: list[str] = []
        self._config: ml_collections.ConfigDict | None = None
        self._changes: list[tuple[str, str]] = []
        self._flag_values = flag_values
        flags.DEFINE_string(
            "config",
            None,
            f"Preset ({', '.join(schema.names())}) or config file. Any of its keys can be overridden: "
            "--config.SECTION.KEY=VALUE",
            flag_values=flag_values,
        )

    @property
    def config(self) -> ml_collections.ConfigDict:
        """The config with its overrides; raises a `UserError` where none was given."""
        if self._config is None and self._changes:
            raise UserError(
                f"--config is missing, and --config.{self._changes[0][0]} needs one: give a preset or a file"
            )
        if self._config is None:
            raise UserError(f"--config is missing: give a file or a preset ({', '.join(self.schema.names())})")
        return self._config

    def override(self, config: ml_collections.ConfigDict) -> None:
        """Changes keys of a recorded config to what was given without `--config`; raises as `parse`."""
        self._override(config, self._changes)

    def command(self, program: str) -> str:
        """Returns the command line of a program with this config."""
        assert self.file is not None
        name = pathlib.Path(self.file).stem
        is_preset = name in self.schema.names() and self.file == self.schema.path(name)
        return shlex.join([program, f"--config={name if is_preset else self.file}", *self.overrides])

    def parse(self, argv: list[str]) -> list[str]:
        """Parses a command line, overrides anywhere on it, into flags and config, and returns what are no flags.

        Raises:
          UserError: the config cannot be loaded, or an override names no key or has a value of another type.
          flags.Error: a mistake in another flag.
        """
        arguments = self._flag_values.read_flags_from_files(argv[1:], force_gnu=False)
        names, overrides, rest = self._split(arguments)
        self.file, self._config, self._changes = None, None, []
        self.overrides = [f"--config.{key}={value}" for key, value in overrides]
        if names:
            self.file = [self.schema.path(name) for name in names][-1]
            self._config = self._load(self.file)
            self._override(self._config, overrides)
            return self._flag_values([argv[0], f"--config={self.file}", *rest])
        if self._is_optional:
            self._changes = overrides
            return self._flag_values([argv[0], *rest])
        return self._flag_values(argv)

    def _split(self, arguments: list[str]) -> tuple[list[str], list[tuple[str, str]], list[str]]:
        """Returns the values of `--config`, key and value of each override, and the other arguments."""
        names: list[str] = []
        overrides: list[tuple[str, str]] = []
        rest: list[str] = []
        words = iter(arguments)
        for word in words:
            match = re.fullmatch(r"--?(no)?config(\.[^=]+)?(?:=(.*))?", word, re.DOTALL)
            if match is None or (match[1] and not match[2]):
                rest.append(word)
                continue
            key, value = (match[2] or "").removeprefix("."), match[3]
            is_switch = key in self.schema.fields and self.schema.fields[key].type_name == "bool"
            if value is None:
                value = ("false" if match[1] else "true") if is_switch else next(words, None)
            if value is None and key in self.schema.fields:
                raise flags.Error(f"Missing value for flag {word}")
            if key:
                overrides.append((key, self._quote(key, value or "")))
            else:
                names.append(value or "")
        return names, overrides, rest

    def _quote(self, key: str, value: str) -> str:
        """Writes `a,b` with quotes, `('a', 'b')`, where the key holds several values and they are text."""
        if key not in self.schema.fields or self.schema.fields[key].type_name != "tuple":
            return value
        try:
            ast.literal_eval(value)
            return value
        except (ValueError, SyntaxError):
            return repr(tuple(part.strip() for part in value.split(",") if part.strip()))

    def _load(self, file: str) -> ml_collections.ConfigDict:
        presets = ", ".join(self.schema.names())
        try:
            # Not by its ending, which may be any; dataclasses in the file look their module up.
            loader = importlib.machinery.SourceFileLoader("config_file", file)
            spec = importlib.util.spec_from_file_location(loader.name, file, loader=loader)
            assert spec is not None
            module = sys.modules[loader.name] = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
            config = module.get_config()
            if not isinstance(config, ml_collections.ConfigDict):
                raise TypeError(f"get_config() returns {type(config).__name__}, no ConfigDict")
        # A config file is the user's program: whatever it raises is for the user to fix.
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[-1]
            raise UserError(
                f"--config={file} cannot be loaded ({type(error).__name__}: {reason}): give a Python file with "
                f"get_config(), as --print_config prints it, or a preset ({presets})"
            ) from error
        wrong = sorted(flatten(config).keys() ^ self.schema.fields.keys())
        if wrong:
            raise UserError(
                f"--config={file}: get_config() must return {self.schema.origin}() with other values, but these keys "
                f"were added or are missing: {', '.join(wrong)}"
            )
        return config

    def _override(self, config: ml_collections.ConfigDict, overrides: list[tuple[str, str]]) -> None:
        for key, _ in overrides:
            if key not in self.schema.fields:
                raise UserError(f"--config.{key}: {self._describe(key)}")
        values = flags.FlagValues()
        arguments = [f"--config.{key}={value}" for key, value in overrides]
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["", *arguments])
        for (key, value), argument in zip(overrides, arguments, strict=True):
            if value in _UNSET and self.schema.fields[key].default is None:
                config.update_from_flattened_dict({key: None})
                continue
            try:
                values(["", argument])
            except flags.IllegalFlagValueError as error:
                raise UserError(f"--config.{key}={value}: {self._describe(key)}") from error

    def _describe(self, key: str) -> str:
        """Returns what a key takes, or which keys exist where it goes wrong, as 'train.num_stepz' does."""
        fields = self.schema.fields
        sections = {name.rpartition(".")[0] for name in fields} - {""}
        if key in fields:
            unset = f", or {_UNSET[0]}" if fields[key].default is None else ""
            return f"config.{key} takes {_KINDS_OF_VALUES[fields[key].type_name]}{unset}"
        section, _, rest = key.partition(".")
        for name in (section, ".".join(key.split(".")[:2])):
            if name in fields:
                return f"config.{name} is a value and has no keys"
        parent, part = (f"{section}.", rest.partition(".")[0]) if section in sections else ("", section)
        names = {name.removeprefix(parent).partition(".")[0] for name in fields if name.startswith(parent)}
        where = f"config.{parent}".removesuffix(".")
        if key in sections:
            return f"{where} is a section; its keys: {', '.join(sorted(names))}"
        meant = nearest(key, fields)
        hint = f"; its keys: {', '.join(sorted(names))}" if meant is None else f"; did you mean config.{meant}?"
        return f"{where} has no key {part!r}{hint}"
