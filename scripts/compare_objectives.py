"""Plans, starts and compares the runs of compare_objectives.sh.

Both objectives have the discriminator's sizes, the data, the vocabulary, the schedule and the seeds of one config.
Masked language modeling makes as many steps as take the FLOPs of ELECTRA's, counted as the paper counts them, and shows
masked tokens as BERT does. Both are probed at the same fractions of these FLOPs.
"""

import dataclasses
import io
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import ml_collections
from absl import flags
from matplotlib.figure import Figure

from electra_cli import files
from electra_cli.cli import app
from electra_cli.cli.config_flag import ConfigFlag
from electra_cli.config import resolution
from electra_cli.config.labeled_files import parse_probes
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import UserError
from electra_cli.objectives import costs

PROGRAM = "electra-pretrain"
TABLE, PICTURE = "comparison.md", "comparison.svg"
NAMES = {"electra": "ELECTRA", "mlm": "masked language modeling"}
# What a reader without colors tells apart: line, marker, and how the range over seeds is filled.
_LINES: dict[str, dict[str, Any]] = {
    "electra": {"color": "black", "linestyle": "-", "marker": "o"},
    "mlm": {"color": "0.4", "linestyle": "--", "marker": "s", "markerfacecolor": "white"},
}
_RANGES: dict[str, dict[str, Any]] = {
    "electra": {"facecolor": "0.8", "linewidth": 0},
    "mlm": {"facecolor": "none", "edgecolor": "0.6", "hatch": "////", "linewidth": 0},
}
_MOST_POINTS = 10
# As configs/small_mlm.py; the rest are choices that have no meaning without a generator.
_OF_MLM = {
    "objective.name": "mlm",
    "objective.tied_generator": False,
    "objective.uniform_generator": False,
    "data.mask_token_prob": 0.8,
    "data.random_token_prob": 0.1,
    "train.best_metric": "",
}
_OURS = (
    "data.dir", "objective.name", "train.num_steps", "train.seed", "train.steps_per_loop", "train.log_interval",
    "train.checkpoint_interval", "eval.interval", "eval.probes", "eval.probe_interval", "phases.",
)  # fmt: skip

FLAGS = flags.FlagValues()
CONFIG = ConfigFlag(FLAGS, PRETRAINING)
flags.DEFINE_string("data", None, "Data directory of electra-prepare.", flag_values=FLAGS)
flags.DEFINE_string("probes", None, "Labelled files, as config.eval.probes takes them.", flag_values=FLAGS)
flags.DEFINE_integer("num_steps", None, "Steps of ELECTRA; those of the config if not given.", flag_values=FLAGS)
flags.DEFINE_list("seeds", ["0", "1"], "Seeds of the runs: as many of each objective.", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "Directory for runs, table and picture.", flag_values=FLAGS)

USAGE = """
Trains ELECTRA and masked language modeling with equal training FLOPs on the same data, and probes both on the way.

Usage: scripts/compare_objectives.sh --config=PRESET_OR_FILE --data=DATA --probes=FILE[,FILE ...] --output_dir=DIR
       [--num_steps=STEPS] [--seeds=0,1] [--config.KEY=VALUE ...]
"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of one objective.

    Attributes:
      objective: 'electra' or 'mlm'.
      num_steps: steps of each.
      flops_per_step: as the paper counts them.
      steps_per_loop: of the config; divides all intervals.
      interval: steps between two probes.
    """

    objective: str
    num_steps: int
    flops_per_step: float
    steps_per_loop: int
    interval: int

    @property
    def probed_steps(self) -> list[int]:
        """The steps that are probed."""
        return [*range(self.interval, self.num_steps, self.interval), self.num_steps]

    def overrides(self, seed: int) -> dict[str, Any]:
        """Returns the keys of the config that are set for a run."""
        fifth = -(-self.interval // (5 * self.steps_per_loop)) * self.steps_per_loop
        return {
            **(_OF_MLM if self.objective == "mlm" else {}),
            "train.num_steps": self.num_steps,
            "train.seed": seed,
            "train.steps_per_loop": self.steps_per_loop,
            "train.log_interval": fifth,
            "train.checkpoint_interval": fifth,
            "eval.interval": self.interval,
        }


@dataclasses.dataclass(frozen=True)
class Curve:
    """What was probed in the runs of one objective.

    Attributes:
      plan: the runs.
      values: by 'NAME/SCORE', [probed steps][seeds].
    """

    plan: Plan
    values: dict[str, list[list[float]]]

    @property
    def flops(self) -> list[float]:
        """Training FLOPs at each of the probed steps."""
        return [step * self.plan.flops_per_step for step in self.plan.probed_steps]


def make_plans(settings: ml_collections.ConfigDict, vocab_size: int) -> list[Plan]:
    """Returns the runs of ELECTRA and of masked language modeling with its FLOPs, to within half a step.

    Args:
      settings: the config of ELECTRA.
      vocab_size: entries of the data's vocabulary.
    """
    num_steps = settings.train.num_steps

    def per_step(changes: Mapping[str, Any]) -> float:
        changed = settings.copy_and_resolve_references()
        changed.update_from_flattened_dict({**changes, "train.num_steps": 1})
        return costs.training_flops(resolution.resolve(changed, vocab_size))

    step_flops = {"electra": per_step({}), "mlm": per_step(_OF_MLM)}
    steps = {"electra": num_steps, "mlm": max(1, round(num_steps * step_flops["electra"] / step_flops["mlm"]))}
    # So many that rounding intervals up leaves as many probes in both.
    num_points = min(_MOST_POINTS, math.isqrt(min(steps.values())))
    plans = []
    for objective, total in steps.items():
        steps_per_loop = max(1, total // num_points // 100)
        interval = -(-total // (num_points * steps_per_loop)) * steps_per_loop
        plans.append(Plan(objective, total, step_flops[objective], steps_per_loop, interval))
    return plans


def read_curve(plan: Plan, workdirs: Sequence[str]) -> Curve:
    """Reads what was probed in workdirs, one a seed.

    Raises:
      UserError: a probe is missing.
    """
    values: dict[str, list[list[float]]] = {}
    for workdir in workdirs:
        file = os.path.join(workdir, "metrics.jsonl")
        with open(file) as stream:
            lines = [json.loads(line) for line in stream]
        found = {line["step"]: line for line in lines if line["split"] == "probe"}
        for place, step in enumerate(plan.probed_steps):
            if step not in found:
                raise UserError(f"{file} has no probe of step {step:,}: remove {workdir}, and start again")
            for name, value in found[step].items():
                if "/" in name:
                    points = values.setdefault(name, [[] for _ in plan.probed_steps])
                    points[place].append(value)
    return Curve(plan, values)


def format_table(curves: Sequence[Curve], seeds: Sequence[int], command: str) -> str:
    """Returns the comparison as Markdown: means over seeds, with the least and the greatest value."""
    lines = ["# ELECTRA and masked language modeling at equal training FLOPs", "", f"    {command}", ""]
    of = "mean, least and greatest value of seeds" if len(seeds) > 1 else "seed"
    lines += [f"Scores are those of probes on held-out fifths: {of} {', '.join(map(str, seeds))}.", ""]
    lines += ["| | steps | FLOPs a step | training FLOPs |", "| --- | --: | --: | --: |"]
    for curve in curves:
        plan = curve.plan
        lines.append(
            f"| {NAMES[plan.objective]} | {plan.num_steps:,} | {plan.flops_per_step:.4e} | {curve.flops[-1]:.4e} |"
        )
    for file in dict.fromkeys(name.partition("/")[0] for name in curves[0].values):
        scores = [name for name in curves[0].values if name.startswith(f"{file}/") and not name.endswith("_random")]
        head = [f"{name.partition('/')[2]}: {curve.plan.objective}" for name in scores for curve in curves]
        steps = [f"{curve.plan.objective}: FLOPs, step" for curve in curves]
        lines += ["", f"## {file}", "", _row([*steps, *head]), _row(["---"] * 2 + ["--:"] * len(head))]
        random = [_shown(curve.values[f"{name}_random"][0]) for name in scores for curve in curves]
        lines.append(_row(["random weights", "", *random]))
        for place in range(len(curves[0].flops)):
            where = [f"{curve.flops[place]:.3e}, {curve.plan.probed_steps[place]:,}" for curve in curves]
            lines.append(_row([*where, *(_shown(curve.values[name][place]) for name in scores for curve in curves)]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4f} to {max(values):.4f})"


def draw(curves: Sequence[Curve]) -> Figure:
    """Returns a picture of the first score of each file over training FLOPs, with the range over seeds."""
    firsts: dict[str, str] = {}
    for name in curves[0].values:
        firsts.setdefault(name.partition("/")[0], name)
    figure = Figure(figsize=(4.2 * len(firsts), 3.6), layout="constrained")
    for axes, (file, name) in zip(figure.subplots(1, len(firsts), squeeze=False)[0], firsts.items(), strict=True):
        for curve in curves:
            objective, points = curve.plan.objective, curve.values[name]
            axes.fill_between(curve.flops, [*map(min, points)], [*map(max, points)], **_RANGES[objective])
            axes.plot(curve.flops, [*map(statistics.fmean, points)], label=NAMES[objective], **_LINES[objective])
        random = [value for curve in curves for value in curve.values[f"{name}_random"][0]]
        axes.axhline(statistics.fmean(random), color="black", linestyle=":", label="random weights")
        axes.set(title=file, xlabel="training FLOPs", ylabel=name.partition("/")[2])
        axes.set_xlim(left=0)
    figure.axes[0].legend(fontsize="small")
    return figure


def write_comparison(curves: Sequence[Curve], seeds: Sequence[int], output_dir: str, command: str) -> None:
    """Writes table and picture."""
    files.write_atomically(os.path.join(output_dir, TABLE), format_table(curves, seeds, command))
    picture = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": PICTURE}):  # the same picture has the same bytes
        draw(curves).savefig(picture, format="svg", metadata={"Date": None})
    files.write_atomically(os.path.join(output_dir, PICTURE), picture.getvalue())


def _train(arguments: Sequence[str]) -> None:
    """Runs electra-pretrain, and passes signals on to it; ends the process with its exit code unless that is 0."""
    try:
        # In a session of its own, so that Ctrl-C does not reach it twice.
        process = subprocess.Popen([PROGRAM, *arguments], start_new_session=True)
    except FileNotFoundError as error:
        raise UserError(f"{PROGRAM} is not installed here: start scripts/compare_objectives.sh") from error
    previous = {
        number: signal.signal(number, lambda number, _: process.send_signal(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    code = process.wait()
    for number, handler in previous.items():
        signal.signal(number, handler)
    if code:
        sys.exit(code if code > 0 else 128 - code)


def _checked(values: flags.FlagValues, overrides: Sequence[str]) -> tuple[ml_collections.ConfigDict, list[int]]:
    """Returns the config of ELECTRA and the seeds, from parsed flags and their `--config.KEY=VALUE`."""
    settings = CONFIG.config
    for flag in ("data", "probes", "output_dir"):
        if not values[flag].value:
            raise UserError(f"--{flag} is missing")
    for argument in overrides:
        key = argument.partition("=")[0].lstrip("-").removeprefix("config.")
        if key.startswith(_OURS):
            raise UserError(f"--config.{key} is set here, the same or fitting for all runs: leave it out")
    if settings.objective.name != "electra" or settings.phases.num_steps:
        raise UserError("--config: give one of ELECTRA, in one phase; that of masked language modeling follows from it")
    settings.data.dir, settings.eval.probes = values.data, (values.probes,)
    settings.train.num_steps = values.num_steps if values.num_steps is not None else settings.train.num_steps
    if not parse_probes(settings.eval.probes):
        raise UserError("--probes names no file")
    if not all(seed.strip().isdecimal() for seed in values.seeds) or len(set(values.seeds)) < len(values.seeds):
        raise UserError(f"--seeds={','.join(values.seeds)}: give different numbers from 0 on, with commas between them")
    # What follows from the steps is chosen here.
    for key in ("train.steps_per_loop", "train.log_interval", "train.checkpoint_interval", "eval.interval"):
        settings.update_from_flattened_dict({key: 1})
    settings.eval.probe_interval = 0
    resolution.check(settings)
    return settings, [int(seed) for seed in values.seeds]


def _main(values: flags.FlagValues) -> None:
    settings, seeds = _checked(values, CONFIG.overrides)
    plans = make_plans(settings, Vocabulary.from_file(os.path.join(values.data, "vocab.txt")).size)
    os.makedirs(values.output_dir, exist_ok=True)
    workdirs: dict[str, list[str]] = {plan.objective: [] for plan in plans}
    for number, seed in enumerate(seeds, 1):
        for plan in plans:
            workdir = os.path.join(values.output_dir, f"{plan.objective}-seed{seed}")
            print(f"{NAMES[plan.objective]}, seed {seed}: {plan.num_steps:,} steps in {workdir}", flush=True)
            own = [f"--config.{key}={value}" for key, value in plan.overrides(seed).items()]
            shared = [f"--config.data.dir={values.data}", f"--config.eval.probes={values.probes}"]
            _train([f"--config={CONFIG.file}", *CONFIG.overrides, *shared, *own, f"--workdir={workdir}"])
            workdirs[plan.objective].append(workdir)
        curves = [read_curve(plan, workdirs[plan.objective]) for plan in plans]
        write_comparison(
            curves, seeds[:number], values.output_dir, shlex.join(["scripts/compare_objectives.sh", *sys.argv[1:]])
        )
    print(f"Table and picture: {os.path.join(values.output_dir, TABLE)}, {os.path.join(values.output_dir, PICTURE)}")


if __name__ == "__main__":
    app.run(_main, FLAGS, USAGE, "", CONFIG.parse)
