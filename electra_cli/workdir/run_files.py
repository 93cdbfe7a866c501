"""The names of files in a workdir, and their reading and writing. Only remote ones import TensorFlow.

`events.jsonl` has an object a line: `time` (UTC, ISO 8601), `event`, `step`, and by event

- `start`: `devices`, and `lost_step`, the last step whose metrics are dropped because they are computed again (0: none)
- `stop`: `reason`, the signal
- `error`: `reason`, the line that the command ended with
- `rollback`: `restored_step`, `total_loss` and `median`, the usual loss
- `nonfinite`: `replicas`, the numbers of those whose loss or gradient was infinite or NaN
- `end`: the last step is done, and evaluated; again where a complete run is started again
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import ml_collections

from electra_cli import files
from electra_cli.config.pretraining import PATH_KEYS, PRETRAINING
from electra_cli.config.resolution import resolve
from electra_cli.errors import Option, UserError

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"
REPORT_FILE = "report.html"
CHECKPOINT_DIRECTORY = "checkpoints"
BEST = "best"


def named_checkpoint(workdir: str, checkpoint: str) -> str:
    """Returns the path that `--checkpoint` means with `--workdir`: `best` and `ckpt-500` are those of that run.

    Raises a `UserError` when nothing is there.
    """
    directory = files.join(workdir, CHECKPOINT_DIRECTORY)
    if checkpoint == BEST:
        if not files.is_directory(files.join(directory, BEST)):
            raise UserError(
                Option("--checkpoint"),
                f"={BEST}: {workdir} keeps no best checkpoint, for which config.train.best_metric asks: "
                f"leave the flag out, or name another",
            )
        return files.join(directory, BEST)
    is_name = re.fullmatch(r"ckpt-\d+", checkpoint) and files.size(f"{checkpoint}.index") is None
    path = files.join(directory, checkpoint) if is_name else checkpoint
    check_checkpoint_flag(path)
    return path


def check_checkpoint_flag(path: str, flag: str = "--checkpoint") -> None:
    """Raises a `UserError` when there is nothing that a flag or key could mean by `path`."""
    files.check_checkpoint(
        flag,
        path,
        "give a directory of checkpoints, or a path such as run/checkpoints/ckpt-500 without the ending .index",
    )


def parse_lines(
    content: bytes, keys: tuple[str, ...], on_damage: Callable[[int, Exception], None]
) -> list[dict[str, Any]]:
    """Parses lines of JSON objects with certain keys; a last line without an end, which a kill cut, is skipped.

    `on_damage` is called with the number, from 1, of each damaged line and its error; it may raise.
    """
    records = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            value = files.parse_json(line)
            for key in keys:
                value[key]
        except (ValueError, KeyError, TypeError) as error:
            on_damage(number, error)
        else:
            records.append(value)
    return records


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """Returns the complete lines of a workdir's metrics.jsonl; a damaged one is a `UserError`."""
    file = files.join(workdir, METRICS_FILE)
    if files.size(file) is None:
        return []

    def refuse(number: int, error: Exception) -> NoReturn:
        raise UserError(
            f"{file}, line {number:,} is damaged: remove that line, or put the file back that was there"
        ) from error

    return parse_lines(files.read_bytes(file), ("step", "split"), refuse)


def write_json(file: str, content: Any, *, sort_keys: bool = False) -> None:
    """Writes indented JSON, completely or not at all; raises as `files.write_resumable`."""
    files.write_resumable(file, json.dumps(content, indent=1, sort_keys=sort_keys) + "\n")


def write_json_lines(file: str, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes an object a line, all or none; raises as `files.write_resumable`."""
    files.write_resumable(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def has_record(workdir: str) -> bool:
    """Returns whether a directory holds what `read_record` reads, complete or damaged."""
    return files.size(files.join(workdir, CONFIG_FILE)) is not None


def absolute_paths(
    config: Mapping[str, Any], directory: str, holds: Callable[[str], bool] = lambda _: True
) -> dict[str, Any]:
    """Returns a nested config whose relative paths are those from `directory`, where `holds` is true of that path."""
    changed = {section: dict(values) if isinstance(values, Mapping) else values for section, values in config.items()}

    def absolute(value: str) -> str:
        path = os.path.normpath(os.path.join(directory, value))
        is_relative = value and not files.is_remote(value) and not os.path.isabs(value)
        return path if is_relative and holds(re.sub(r":\w+=.*", "", path, flags=re.DOTALL)) else value

    for section, name in (key.split(".") for key in PATH_KEYS):
        value = changed.get(section, {}).get(name)
        if isinstance(value, str):
            changed[section][name] = absolute(value)
        elif value and all(isinstance(each, str) for each in value):  # as it must be, and is checked elsewhere
            parts = [each.split(",") if section == "phases" else [each] for each in value]
            changed[section][name] = tuple(absolute(part.strip()) for each in parts for part in each)
    return changed


def read_record(workdir: str) -> dict[str, Any]:
    """Returns the content of a workdir's `config.json`; paths that were relative are those from where the run began.

    Those of which nothing is there any more, as of a run that was moved with its data, are as they were typed.
    """
    file = files.join(workdir, CONFIG_FILE)
    if not has_record(workdir):
        remedy = "give the workdir of electra-pretrain, or what electra-import wrote"
        files.check_directory("--workdir", workdir, remedy)
        raise UserError(Option("--workdir"), f"={workdir} holds no {CONFIG_FILE}: {remedy}")
    try:
        record = files.parse_json(files.read_bytes(file))
        if "finetuning" in record:
            raise UserError(f"{workdir} holds a fine-tuned model: give the workdir of its encoder")
        if "config" not in record:
            raise UserError(
                Option("--workdir"),
                f"={workdir} is no workdir of electra-pretrain: its {CONFIG_FILE} is another program's",
            )
        if isinstance(record["config"], dict):
            if "directory" in record:
                record["config"] = absolute_paths(record["config"], record["directory"], os.path.exists)
            return record
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): put it back, or give another ", Option("--workdir")) from error
    raise UserError(f"{file} is damaged (config is no object): put it back, or give another ", Option("--workdir"))


def check_config(path: str, config: ml_collections.FrozenConfigDict, data_fingerprint: str | None = None) -> list[str]:
    """Returns the harmless differences from the run in a workdir, 'key: old -> new'.

    Raises a `UserError` for a difference that makes it another run; None: data is not compared.
    """
    if os.path.isfile(path):
        raise UserError(f"--workdir={path} is a file, not a directory: choose another")
    if not has_record(path):
        return []
    record = read_record(path)
    if not record.keys() >= {"data_fingerprint", "devices"}:
        raise UserError(f"--workdir={path} holds a model without a run (as electra-import writes it): choose another")
    old, new = record["config"], config.to_dict()
    old_paths, new_paths = (absolute_paths(each, os.getcwd()) for each in (old, new))
    for section, name in (key.split(".") for key in PATH_KEYS):  # the same path may be written in two ways
        if old_paths.get(section, {}).get(name) == new_paths[section][name]:
            new[section][name] = old[section][name]
    forbidden, allowed = PRETRAINING.differences(old, new)
    if forbidden:
        raise UserError(
            f"--workdir={path} holds a run of another config: {'; '.join(forbidden)}; give the old values, or another "
            f"--workdir"
        )
    if data_fingerprint not in (None, record["data_fingerprint"]):
        raise UserError(
            f"--workdir={path} holds a run on other data than config.data.dir={config.data.dir}; give that data, "
            f"or another --workdir"
        )
    unread_note = " (not read: the run resumes from its own checkpoint, if it has any)"
    return [f"{each}{unread_note if each.startswith('init.') else ''}" for each in allowed]


def check_start(config: ml_collections.FrozenConfigDict, checkpoint: str | None) -> None:
    """Raises a `UserError` where a new run cannot begin with the weights that section `init` of its config names.

    `checkpoint` takes the place of `init.checkpoint`. Raises also where a frozen generator would stay random.
    """
    init, path = config.init, checkpoint or config.init.checkpoint
    if config.objective.frozen_generator and not (path or init.generator):
        raise UserError(
            "config.objective.frozen_generator=True: its weights would stay random; name a checkpoint that has a "
            "generator, --config.init.generator=PATH"
        )
    if path and init.generator and config.model.embedding_sharing != "none":
        raise UserError(
            f"config.init.generator={init.generator} would change embeddings that the discriminator of {path} has too: "
            f"give one of the two, or --config.model.embedding_sharing=none"
        )
    if path:
        check_checkpoint_flag(path, "--checkpoint" if checkpoint else "config.init.checkpoint")
    if init.generator:
        check_checkpoint_flag(init.generator, "config.init.generator")


def read_config(record: dict[str, Any], file: str) -> ml_collections.FrozenConfigDict:
    """Returns the resolved config of what `read_record` read; raises as `Schema.restore`."""
    settings = PRETRAINING.restore(record["config"], file)
    try:
        return resolve(settings, record["config"]["derived"]["vocab_size"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} was written by another version of this program: {error}") from error
