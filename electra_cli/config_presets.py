"""The configs that a kind of command takes: its presets, and what declares all of their keys. No TensorFlow here."""

import dataclasses
import pathlib
from collections.abc import Callable

import ml_collections

from electra_cli.config_defaults import default_config
from electra_cli.errors import UserError


@dataclasses.dataclass(frozen=True)
class Presets:
    """The configs of a kind of command.

    Attributes:
      folder: where below `configs/` the presets lie; '': there itself.
      default_config: returns all keys with their defaults.
      origin: full name of that function, for messages.
    """

    folder: str
    default_config: Callable[[], ml_collections.ConfigDict]
    origin: str

    @property
    def directory(self) -> pathlib.Path:
        """The directory of the shipped presets: installed with the package, or beside it in a checkout."""
        package = pathlib.Path(__file__).resolve().parent
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
        if not pathlib.Path(name).is_file():
            raise UserError(
                f"--config={name}: no such file and no preset of that name; presets: {', '.join(self.names())}"
            )
        return name


PRETRAINING = Presets("", default_config, "electra_cli.config.default_config")
