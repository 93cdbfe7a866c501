"""A new directory for an import or export, which appears complete and checked or not at all."""

import contextlib
from collections.abc import Iterator

from electra_cli import files
from electra_cli.data.output_directory import OutputDirectory
from electra_cli.data.tfrecords import SENTENCEPIECE_FILE, VOCAB_FILE
from electra_cli.errors import UserError

# What imports and exports hold, in any format.
_FILES = (
    "config.json", "config.py", "import.json", "checkpoint", "checkpoints", VOCAB_FILE, SENTENCEPIECE_FILE,
    "model.safetensors", "README.md", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "discriminator", "generator", "saved_model.pb", "fingerprint.pb", "variables", "assets",
    "encoder.yaml", "encoder.ckpt.*", "model.ckpt-*",
)  # fmt: skip


@contextlib.contextmanager
def new_directory(path: str, *, overwrite: bool) -> Iterator[str]:
    """Gives a directory to write to, which becomes `path` at the end of the block, and is removed after any error.

    Args:
      path: the directory to be made; local.
      overwrite: whether one that is there and not empty may be replaced.

    Raises:
      UserError: `path` is remote, is there and not empty, or cannot be written.
    """
    with _open(path, overwrite) as output:
        yield output.path
        output.commit()


def check_destination(path: str, *, overwrite: bool) -> None:
    """Raises the `UserError` of `new_directory`, before time is spent on anything, and leaves nothing."""
    with _open(path, overwrite):
        pass


def _open(path: str, overwrite: bool) -> OutputDirectory:
    if files.is_remote(path):
        raise UserError(f"--output_dir={path}: give a local directory, and copy it when it is done")
    return OutputDirectory(path, overwrite=overwrite, owned=_FILES)
