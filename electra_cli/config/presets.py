"""The configs that a kind of command takes: its presets, and what declares all of their keys. No TensorFlow here."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import ml_collections

from electra_cli.config.checks import BEST_METRICS, CHOICES
from electra_cli.config.defaults import default_config
from electra_cli.config.suggestions import did_you_mean
from electra_cli.errors import UserError


@dataclasses.dataclass(frozen=True)
class Presets:
    """The configs of a kind of command.

    Attributes:
      folder: where below `configs/` the presets lie; '': there itself.
      default_config: returns all keys with their defaults.
      origin: full name of that function, for messages.
      choices: the values of keys that take some only.
    """

    folder: str
    default_config: Callable[[], ml_collections.ConfigDict]
    origin: str
    choices: Mapping[str, Sequence[str]]

    @property
    def module(self) -> ModuleType:
        """The module that declares the keys."""
        return sys.modules[self.default_config.__module__]

    @property
    def directory(self) -> pathlib.Path:
        """The directory of the shipped presets: installed with the package, or beside it in a checkout."""
        package = pathlib.Path(__file__).resolve().parent.parent
        installed = package / "configs"
        return (installed if installed.is_dir() else package.parent / "configs") / self.folder

    def names(self) -> list[str]:
        """Returns the names that `--config=` takes besides file names."""
        return sorted(path.stem for path in self.directory.glob("*.py") if not path.stem.startswith("_"))

    def path(self, name: str) -> str:
        """Returns the config file that `--config=name` means: a preset's, or the file `name` itself.

        Raises:
          UserError: neither a preset nor a file.
        """
        if name in self.names():
            return str(self.directory / f"{name}.py")
        if pathlib.Path(name).is_dir():
            raise UserError(
                f"--config={name} is a directory: give a config file, or a preset ({', '.join(self.names())})"
            )
        if not pathlib.Path(name).is_file():
            raise UserError(
                f"--config={name}: no such file and no preset of that name; presets: {', '.join(self.names())}"
                f"{did_you_mean(name, self.names())}"
            )
        return name


PRETRAINING = Presets("", default_config, "electra_cli.config.default_config",
                      {**CHOICES, "train.best_metric": BEST_METRICS["electra"]})  # fmt: skip
