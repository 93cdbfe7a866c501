"""A new directory for an import or export, which appears complete and checked or not at all."""

import contextlib
import os
from collections.abc import Iterator, Mapping

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

    Raises:
      UserError: `path` is remote, cannot be written, or is not empty and may not be replaced (`overwrite`).
    """
    with _open(path, overwrite) as output:
        yield output.path
        output.commit()


def check_destination(path: str, *, overwrite: bool) -> None:
    """Raises the `UserError` of `new_directory`, and leaves nothing, before time is spent on anything."""
    with _open(path, overwrite):
        pass


def write_texts(directory: str, contents: Mapping[str, str]) -> None:
    """Writes files of text, in UTF-8, by name."""
    for name, content in contents.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as stream:
            stream.write(content)


def _open(path: str, overwrite: bool) -> OutputDirectory:
    if files.is_remote(path):
        raise UserError(f"--output_dir={path}: give a local directory, and copy it when it is done")
    return OutputDirectory(path, overwrite=overwrite, owned=_FILES)
