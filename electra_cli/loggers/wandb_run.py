"""Mirrors a run to Weights & Biases; it resumes under the same id after a stop."""

import json
import os
from collections.abc import Callable, Mapping
from types import ModuleType, TracebackType

import ml_collections

from electra_cli import files
from electra_cli.config.fields import flatten
from electra_cli.errors import UserError
from electra_cli.loggers.logger import Logger

_ID_FILE = "wandb.json"


def import_wandb() -> ModuleType:
    """Returns the package `wandb`; raises a `UserError` where it is not installed."""
    try:
        import wandb  # noqa: PLC0415  (optional, and slow)
    except ImportError as error:
        raise UserError(
            "--wandb_project needs Weights & Biases: pip install 'electra-pretrain[wandb]', or leave the flag out"
        ) from error
    if not hasattr(wandb, "init"):  # a directory of that name, as wandb itself leaves where it is used
        raise UserError(
            "--wandb_project needs Weights & Biases, but only a directory 'wandb' is found here: pip install "
            "'electra-pretrain[wandb]', or leave the flag out"
        )
    return wandb


class WandbRun(Logger):
    """Mirrors lines of metrics, as `train/rtd_auc` at the step of the line.

    Weights & Biases takes steps in ascending order only. Lines that are computed again after a kill are the same, and
    skipped; after a roll-back it keeps the earlier ones. The id of the run is kept in the workdir's wandb.json.

    Raises a `UserError` if the package is not installed, the user is not logged in, or the id cannot be read.
    """

    def __init__(
        self, project: str, workdir: str, config: ml_collections.FrozenConfigDict, notice: Callable[[str], None] = print
    ):
        wandb = import_wandb()
        file = files.join(workdir, _ID_FILE)
        run_id = _read_id(file, project)
        try:
            self._run = wandb.init(
                project=project,
                id=run_id,
                resume="allow",
                name=os.path.basename(workdir.rstrip("/")),
                config=flatten(config),
                dir=None if files.is_remote(workdir) else workdir,
                # It must not take over the terminal.
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"--wandb_project={project}: Weights & Biases does not begin a run ({reason}): run wandb login, or set "
                f"WANDB_MODE=offline"
            ) from error
        files.write_resumable(file, json.dumps({"project": project, "id": self._run.id}) + "\n")
        notice(f"Weights & Biases: project {project}, run {self._run.id}, {self._run.url or 'offline'}")

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._run.finish(exit_code=0 if error is None else 1)

    def metrics(self, split: str, step: int, values: Mapping[str, float], line: str) -> None:
        if step >= self._run.step:
            self._run.log({f"{split}/{name}": value for name, value in values.items()}, step=step)


def _read_id(file: str, project: str) -> str | None:
    """Returns the id of a run that resumes; None where it was not in that project."""
    if files.size(file) is None:
        return None
    try:
        record = json.loads(files.read_bytes(file))
        return record["id"] if record["project"] == project else None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged: remove it to begin a new run of Weights & Biases") from error
