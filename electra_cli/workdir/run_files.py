"""Names and lines of the files in a workdir, for those that write them and those that read them. No TensorFlow here.

`events.jsonl` has an object a line: `time` (UTC, ISO 8601), `event`, `step`, and by event

- `start`: `devices`, and `lost_step`, the last step whose metrics are dropped because they are computed again (0: none)
- `stop`: `reason`, the signal
- `error`: `reason`, the line that the command ended with
- `rollback`: `restored_step`, `total_loss` and `median`, the usual loss
- `nonfinite`: `replicas`, the numbers of those whose loss or gradient was infinite or NaN
- `end`: the last step is done
"""

import json
import re
from collections.abc import Callable
from typing import Any

from electra_cli import files
from electra_cli.errors import Option, UserError

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"
REPORT_FILE = "report.html"
CHECKPOINT_DIRECTORY = "checkpoints"
BEST = "best"


def named_checkpoint(workdir: str, checkpoint: str) -> str:
    """Returns the path that `--checkpoint` means beside `--workdir`: `best` and `ckpt-500` are those of that run.

    Raises:
      UserError: the run keeps no best checkpoint.
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
    return files.join(directory, checkpoint) if is_name else checkpoint


def check_checkpoint_flag(path: str) -> None:
    """Raises a `UserError` when there is nothing that `--checkpoint=path` could mean."""
    files.check_checkpoint(
        "--checkpoint",
        path,
        "give a directory of checkpoints, or a path such as run/checkpoints/ckpt-500 without the ending .index",
    )


def parse_lines(
    content: bytes, keys: tuple[str, ...], on_damage: Callable[[int, Exception], None]
) -> list[dict[str, Any]]:
    """Parses the whole lines of a file of JSON objects; a last one that is not ended was cut by a kill: it is left out.

    Args:
      content: of the file.
      keys: what each object must have.
      on_damage: is called for each line that is none, with its number from 1 and the error; may raise.
    """
    found = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            value = json.loads(line)
            for key in keys:
                value[key]
        except (ValueError, KeyError, TypeError) as error:
            on_damage(number, error)
        else:
            found.append(value)
    return found
