"""A workdir in; its metrics, events and config out, whatever is missing or damaged. No TensorFlow here."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from electra_cli import files
from electra_cli.errors import UserError, printable
from electra_cli.loggers.sample_texts import Sample
from electra_cli.objectives.costs import OUTLINES
from electra_cli.workdir import run_files

Line = dict[str, Any]
SPLITS = ("train", "validation")
PROBE_SPLIT = "probe"
# Keys of a line that are no metrics.
NO_METRICS = ("step", "split", "phase", "num_examples")
_MAX_COUNT = 2**53  # what a float64 counts to


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a workdir records of its run."""

    name: str  # short, and unique in the report
    path: str
    lines: dict[str, list[Line]]  # of metrics, by split, in the order of steps
    events: list[Line]  # as `run_files` describes, oldest first
    config: dict[str, Any] | None  # resolved and nested; None when it cannot be read
    devices: str | None  # the last ones; None when not known
    notes: list[str]  # what is missing or damaged

    @property
    def last_step(self) -> int:
        """The step of the last line of metrics."""
        return max(line["step"] for lines in self.lines.values() for line in lines)

    @property
    def num_steps(self) -> int | None:
        """Steps of the whole run; None when its config cannot be read."""
        return self.config["train"]["num_steps"] if self.config else None

    @property
    def status(self) -> str:
        """The state of the run, in a few words."""
        last = self.events[-1] if self.events else {"event": ""}
        evaluated = {line["step"] for line in self.lines.get("validation", ())}
        if last["event"] == "stop" and last["step"] == self.num_steps and self.num_steps not in evaluated:
            return f"stopped by {last.get('reason')} after the last step, before its evaluation"
        if self.last_step == self.num_steps or last["event"] == "end":
            return "complete"
        if last["event"] == "stop":
            return f"stopped by {last.get('reason')} at step {last['step']:,}"
        if last["event"] == "error":
            return f"ended with an error at step {last['step']:,}"
        return "under way, or killed"

    def metric_names(self, split: str) -> list[str]:
        """Returns the metrics of a split, in the order in which lines have them."""
        names = dict.fromkeys(name for line in self.lines.get(split, []) for name in line)
        return [name for name in names if name not in NO_METRICS]

    def series(self, split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the steps, int64 [lines], and values, float64 [lines], of a metric where it can be drawn."""
        pairs = [(line["step"], line[name]) for line in self.lines.get(split, []) if is_drawable(line.get(name))]
        steps, values = zip(*pairs, strict=True) if pairs else ((), ())
        return np.array(steps, np.int64), np.array(values, np.float64)

    @functools.cached_property
    def counts_real_tokens(self) -> bool:
        """Whether `tokens_at` excludes padding, which lines before version 0.1.0 cannot."""
        return bool(self.lines["train"]) and all(is_drawable(line.get("real_tokens")) for line in self.lines["train"])

    def tokens_at(self, steps: np.ndarray) -> np.ndarray | None:
        """Returns the tokens trained on up to each step, float64; None when neither metrics nor config have them."""
        if self.counts_real_tokens:
            train = self.lines["train"]
            ends = [0, *(line["step"] for line in train)]
            return np.asarray(np.interp(steps, ends, np.cumsum([0.0, *(line["real_tokens"] for line in train)])))
        if self.config is None:
            return None
        ends, tokens = [0], [0.0]
        for num_steps, batch_size, length in _phase_sizes(self.config):
            ends.append(ends[-1] + num_steps)
            tokens.append(tokens[-1] + num_steps * batch_size * length)
        return np.asarray(np.interp(steps, ends, tokens))

    def phase_ends(self) -> list[int]:
        """Returns the last step of each phase but the last."""
        phases = [num_steps for num_steps, *_ in _phase_sizes(self.config)] if self.config else []
        return np.cumsum(phases)[:-1].tolist()


def is_drawable(value: float | None) -> bool:
    """Whether a value is there, finite, and small enough for an axis, whose arithmetic a float64's largest overflow."""
    return value is not None and abs(value) < 1e100


def _phase_sizes(config: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Returns steps, examples of a batch, and tokens of an example, of each phase."""
    phases = config.get("phases", {})
    steps = phases.get("num_steps") or [config["train"]["num_steps"]]
    batch_sizes = phases.get("global_batch_size") or [config["train"]["global_batch_size"]] * len(steps)
    lengths = phases.get("max_seq_length") or [config["data"]["max_seq_length"]] * len(steps)
    return list(zip(steps, batch_sizes, lengths, strict=True))


@dataclasses.dataclass(frozen=True)
class RunSamples:
    """Held-out examples of a run."""

    step: int = 0  # of the checkpoint
    samples: tuple[Sample, ...] = ()
    note: str = ""  # why there are none


def probe_names(runs: Sequence[RunRecord]) -> list[str]:
    """Returns the probes of some runs, without those on random weights."""
    names = dict.fromkeys(name for run in runs for name in run.metric_names(PROBE_SPLIT))
    return [name for name in names if not name.endswith("_random")]


def read_runs(workdirs: Sequence[str]) -> list[RunRecord]:
    """Reads workdirs; raises a `UserError` for one that is missing, holds no metrics yet, or is given twice."""
    paths = [workdir.rstrip("/") or "/" for workdir in workdirs]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path} is given twice: name each workdir once")
    return [_read_run(path, name) for path, name in zip(paths, _short_names(paths), strict=True)]


def _read_run(path: str, name: str) -> RunRecord:
    if not files.is_directory(path):
        state = files.describe_missing(path, "directory") if files.size(path) is None else "is a file, not a directory"
        raise UserError(f"{path}: {state}; give the workdir of electra-pretrain")
    notes: list[str] = []
    metrics = _read_lines(path, run_files.METRICS_FILE, ("step", "split"), notes)
    if metrics is None:
        raise UserError(f"{path} holds no {run_files.METRICS_FILE}: it is no workdir of electra-pretrain, or a new one")
    lines: dict[str, dict[int, Line]] = {split: {} for split in SPLITS}
    for line in _kept(metrics, _is_line, f"lines of {run_files.METRICS_FILE} are no metrics", notes):
        lines.setdefault(line["split"], {})[line["step"]] = line
    if not any(lines[split] for split in SPLITS):
        raise UserError(
            f"{path} holds no metrics yet: the first line comes after config.train.log_interval steps; try again then"
        )
    config, devices = _read_config(path, notes)
    events = _read_lines(path, run_files.EVENTS_FILE, ("time", "event", "step"), notes)
    return RunRecord(
        name=name,
        path=path,
        lines={split: [found[step] for step in sorted(found)] for split, found in lines.items()},
        events=_kept(events or [], _is_event, f"lines of {run_files.EVENTS_FILE} are no events", notes),
        config=config,
        devices=devices,
        notes=notes,
    )


def _kept(lines: list[Line], is_valid: Callable[[Line], bool], what: str, notes: list[str]) -> list[Line]:
    """Returns the valid ones of some lines, and notes how many are not."""
    kept = [line for line in lines if is_valid(line)]
    if len(kept) < len(lines):
        notes.append(f"{len(lines) - len(kept):,} {what} and are left out")
    return kept


def _is_line(line: Line) -> bool:
    values = (value for name, value in line.items() if name not in ("step", "split"))
    return _is_count(line["step"]) and isinstance(line["split"], str) and all(map(_is_number, values))


def _is_event(event: Line) -> bool:
    counts = [event[name] for name in ("step", "lost_step", "restored_step") if name in event]
    numbers = [event[name] for name in ("total_loss", "median") if event.get(name) is not None]
    return (
        isinstance(event["event"], str)
        and isinstance(event.get("replicas", []), list)
        and all(map(_is_count, counts))
        and all(map(_is_number, numbers))
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= _MAX_COUNT)


def _read_lines(path: str, name: str, keys: tuple[str, ...], notes: list[str]) -> list[Line] | None:
    """Returns the undamaged lines of a file; None when there is no such file."""
    file = files.join(path, name)
    if files.size(file) is None:
        return None
    damaged: list[int] = []
    try:
        found = run_files.parse_lines(files.read_bytes(file), keys, lambda number, _: damaged.append(number))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    if damaged:
        lines = "line is" if len(damaged) == 1 else "lines are"
        notes.append(f"{len(damaged):,} {lines} damaged in {name} and left out, the first is line {damaged[0]:,}")
    return _printable(found)


def _printable(value: Any) -> Any:
    """Returns a value of JSON with all its text, names too, printable."""
    if isinstance(value, dict):
        return {printable(name): _printable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_printable(part) for part in value]
    return printable(value) if isinstance(value, str) else value


def _read_config(path: str, notes: list[str]) -> tuple[dict[str, Any] | None, str | None]:
    file = files.join(path, run_files.CONFIG_FILE)
    if files.size(file) is None:
        notes.append(f"{run_files.CONFIG_FILE} is missing: the config is not shown")
        return None, None
    try:
        record = _printable(files.parse_json(files.read_bytes(file)))
        config = record["config"]
        counts = [config["train"]["num_steps"], *(size for sizes in _phase_sizes(config) for size in sizes)]
        if config["objective"]["name"] not in OUTLINES or not all(map(_is_count, counts)):
            raise ValueError("its objective or its numbers of steps are no such thing")
        config["model"].items()
        config.get("derived", {}).items()
        if "directory" in record:  # which relative paths begin at: those of two runs are compared
            config = run_files.absolute_paths(config, record["directory"])
        return config, record.get("devices")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        notes.append(f"{run_files.CONFIG_FILE} is damaged ({type(error).__name__}: {error}): the config is not shown")
        return None, None


def _short_names(paths: Sequence[str]) -> list[str]:
    """Returns the ends of paths, of as many parts as distinguish them."""
    parts = [path.split("/") for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) or path for part, path in zip(parts, paths, strict=True)]
        if len(set(names)) == len(names):
            return names
    return list(paths)
