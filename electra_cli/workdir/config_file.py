"""The config of a run, from the `config.json` of its workdir. TensorFlow is imported for remote files only."""

import json
from typing import Any

import ml_collections

from electra_cli import files
from electra_cli.config import default_config
from electra_cli.config.resolution import flatten, resolve
from electra_cli.errors import Option, UserError
from electra_cli.workdir.run_files import CONFIG_FILE


def has_record(workdir: str) -> bool:
    """Returns whether a directory holds what `read_record` reads, whole or damaged."""
    return files.size(files.join(workdir, CONFIG_FILE)) is not None


def read_record(workdir: str) -> dict[str, Any]:
    """Returns the content of a workdir's `config.json`.

    Raises:
      UserError: there is none, or it is damaged.
    """
    file = files.join(workdir, CONFIG_FILE)
    if not has_record(workdir):
        raise UserError(
            Option("--workdir"),
            f"={workdir} holds no {CONFIG_FILE}: give the workdir of electra-pretrain, or what electra-import wrote",
        )
    try:
        record = json.loads(files.read_bytes(file))
        if "finetuning" in record:
            raise UserError(f"{workdir} holds a fine-tuned model: give the workdir of its encoder")
        if "config" not in record:
            raise UserError(
                Option("--workdir"),
                f"={workdir} is no workdir of electra-pretrain: its {CONFIG_FILE} is another program's",
            )
        if isinstance(record["config"], dict):
            return record
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): put it back, or give another ", Option("--workdir")) from error
    raise UserError(f"{file} is damaged (config is no object): put it back, or give another ", Option("--workdir"))


def read_config(record: dict[str, Any], file: str) -> ml_collections.FrozenConfigDict:
    """Returns the resolved config of what `read_record` read; raises as `read_settings`."""
    settings = read_settings(record, file)
    try:
        return resolve(settings, record["config"]["derived"]["vocab_size"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} was written by another version of this program: {error}") from error


def read_settings(record: dict[str, Any], file: str) -> ml_collections.ConfigDict:
    """Returns the config of what `read_record` read, as it was given.

    Raises:
      UserError: it has keys or types that this version does not know.
    """
    config = default_config()
    known = flatten(config)
    values = {key: value for key, value in flatten(record["config"]).items() if not key.startswith("derived.")}
    try:
        config.update_from_flattened_dict(
            {key: tuple(value) if isinstance(known[key], tuple) else value for key, value in values.items()}
        )
        return config
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} was written by another version of this program: {error}") from error
