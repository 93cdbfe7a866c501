"""What is compared at equal training FLOPs: the runs that are planned, what they scored, and its table and picture."""

import dataclasses
import io
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import ml_collections
from matplotlib.figure import Figure

from electra_cli import files
from electra_cli.config import resolution
from electra_cli.errors import UserError
from electra_cli.objectives import costs

TABLE, PICTURE = "comparison.md", "comparison.svg"
# What a reader without colors tells apart: line, marker, and how the range over seeds is filled; of each config.
LINES: tuple[dict[str, Any], ...] = (
    {"color": "black", "linestyle": "-", "marker": "o"},
    {"color": "0.4", "linestyle": "--", "marker": "s", "markerfacecolor": "white"},
    {"color": "0.6", "linestyle": "-.", "marker": "^"},
    {"color": "0.2", "linestyle": (0, (1, 1)), "marker": "D", "markerfacecolor": "white"},
    {"color": "0.5", "linestyle": (0, (5, 1)), "marker": "v"},
)
_RANGES: tuple[dict[str, Any], ...] = (
    {"facecolor": "0.8", "linewidth": 0},
    *(
        {"facecolor": "none", "edgecolor": "0.6", "hatch": hatch, "linewidth": 0}
        for hatch in ("////", "....", "\\\\\\\\", "||||")
    ),
)
MOST_POINTS = 10
_ONE_GENERATOR = {"objective.tied_generator": False, "objective.uniform_generator": False}
# What other objectives change of an ELECTRA's config: their names, and choices that mean nothing to them.
CHANGES: dict[str, dict[str, Any]] = {
    "electric": {
        **_ONE_GENERATOR,
        "objective.name": "electric",
        "objective.disallow_correct": False,
        "objective.sampling_temperature": 1.0,
    },
    "mlm": {  # as configs/small_mlm.py
        **_ONE_GENERATOR,
        "objective.name": "mlm",
        "data.mask_token_prob": 0.8,
        "data.random_token_prob": 0.1,
        "train.best_metric": "",
    },
    "teams": {**_ONE_GENERATOR, "objective.name": "teams", "model.embedding_sharing": "all"},
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """A config that is compared; `name` begins the names of its workdirs."""

    name: str
    title: str
    file: str
    settings: ml_collections.ConfigDict
    objective: str = ""  # in place of ELECTRA

    @property
    def changes(self) -> dict[str, Any]:
        """Keys whose values are not the config's."""
        return CHANGES[self.objective] if self.objective else {}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of one config.

    Attributes:
      contender: the config.
      num_steps: steps of each.
      flops_per_step: as the paper counts them.
      steps_per_loop: of the config; divides all intervals.
      interval: steps between two probes.
      num_finetuned: probed steps, the last among them, whose weights are fine-tuned.
    """

    contender: Contender
    num_steps: int
    flops_per_step: float
    steps_per_loop: int
    interval: int
    num_finetuned: int = 1

    @property
    def probed_steps(self) -> list[int]:
        """The steps that are probed."""
        return [*range(self.interval, self.num_steps, self.interval), self.num_steps]

    @property
    def finetuned_steps(self) -> list[int]:
        """The steps whose weights are fine-tuned, as evenly spread as probed steps allow."""
        steps, number = self.probed_steps, self.num_finetuned
        return [steps[len(steps) * (place + 1) // number - 1] for place in range(number)]

    def overrides(self, seed: int) -> dict[str, Any]:
        """Returns the keys of the config that are set for a run."""
        fifth = -(-self.interval // (5 * self.steps_per_loop)) * self.steps_per_loop
        kept = {"train.keep_every_steps": self.interval} if self.num_finetuned > 1 else {}
        return {
            **self.contender.changes,
            "train.num_steps": self.num_steps,
            "train.seed": seed,
            "train.steps_per_loop": self.steps_per_loop,
            "train.log_interval": fifth,
            "train.checkpoint_interval": self.interval if kept else fifth,
            "eval.interval": self.interval,
            **kept,
        }


@dataclasses.dataclass(frozen=True)
class Curve:
    """What was scored in the runs of one config.

    Attributes:
      plan: the runs.
      probed: by 'NAME/SCORE', [probed steps][seeds].
      finetuned: by 'NAME/SCORE', [fine-tuned steps][seeds of runs and of fine-tunings].
      random: as `finetuned`, of random weights: [seeds of fine-tunings].
    """

    plan: Plan
    probed: dict[str, list[list[float]]]
    finetuned: dict[str, list[list[float]]] = dataclasses.field(default_factory=dict)
    random: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def flops(self, steps: Sequence[int]) -> list[float]:
        """Returns the training FLOPs at steps."""
        return [step * self.plan.flops_per_step for step in steps]


def make_plans(contenders: Sequence[Contender], num_steps: int, vocab_size: int, num_finetuned: int = 1) -> list[Plan]:
    """Returns the runs of configs, with the FLOPs of `num_steps` steps of the first, to within half a step.

    Args:
      vocab_size: entries of the data's vocabulary.
    """

    def per_step(contender: Contender) -> float:
        changed = contender.settings.copy_and_resolve_references()
        changed.update_from_flattened_dict({**contender.changes, "train.num_steps": 1})
        return costs.training_flops(resolution.resolve(changed, vocab_size))

    flops = [per_step(contender) for contender in contenders]
    steps = [num_steps, *(max(1, round(num_steps * flops[0] / other)) for other in flops[1:])]
    # So many that rounding intervals up leaves as many probes in all.
    num_points = min(MOST_POINTS, math.isqrt(min(steps)))
    plans = []
    for contender, total, step_flops in zip(contenders, steps, flops, strict=True):
        steps_per_loop = max(1, total // num_points // 100)
        interval = -(-total // (num_points * steps_per_loop)) * steps_per_loop
        plan = Plan(contender, total, step_flops, steps_per_loop, interval)
        plans.append(dataclasses.replace(plan, num_finetuned=min(num_finetuned, len(plan.probed_steps))))
    return plans


def read_probes(plan: Plan, workdirs: Sequence[str]) -> dict[str, list[list[float]]]:
    """Reads what was probed in workdirs, one a seed, as `Curve.probed`.

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
    return values


def read_scores(workdir: str) -> dict[str, list[float]]:
    """Reads the scores of a fine-tuning by 'NAME/SCORE', the primary one first: [seeds], of its last labelled split."""
    with open(os.path.join(workdir, "scores.json")) as stream:
        summary = json.load(stream)
    scores = [*summary["splits"].values()][-1]["seeds"]
    names = sorted(next(iter(scores.values())), key=lambda name: name != summary["primary_score"])
    name = os.path.basename(workdir)
    return {f"{name}/{score}": [values[score] for values in scores.values()] for score in names}


def format_table(curves: Sequence[Curve], seeds: Sequence[int], command: str) -> str:
    """Returns the comparison as Markdown: means over seeds, with the least and the greatest value."""
    titles = [curve.plan.contender.title for curve in curves]
    lines = [f"# {', '.join(titles[:-1])} and {titles[-1]} at equal training FLOPs", "", f"    {command}", ""]
    of = "mean, least and greatest value of seeds" if len(seeds) > 1 else "seed"
    lines += [f"Scores of probes are those of held-out fifths: {of} {', '.join(map(str, seeds))}."]
    lines += ["Scores of fine-tuned weights are those of all its seeds, too."] * bool(curves[0].finetuned)
    lines += ["", "| | steps | FLOPs a step | training FLOPs |", "| --- | --: | --: | --: |"]
    for title, curve in zip(titles, curves, strict=True):
        plan, (flops,) = curve.plan, curve.flops([curve.plan.num_steps])
        lines.append(f"| {title} | {plan.num_steps:,} | {plan.flops_per_step:.4e} | {flops:.4e} |")
    random = [
        {name.removesuffix("_random"): points[0] for name, points in curve.probed.items() if name.endswith("_random")}
        for curve in curves
    ]
    lines += _format_scores("", curves, [curve.probed for curve in curves], random)
    finetuned = [curve.finetuned for curve in curves]
    lines += _format_scores(", fine-tuned", curves, finetuned, [curve.random for curve in curves])
    return "\n".join(lines) + "\n"


def _format_scores(
    suffix: str,
    curves: Sequence[Curve],
    values: Sequence[Mapping[str, list[list[float]]]],
    random: Sequence[Mapping[str, list[float]]],
) -> list[str]:
    lines: list[str] = []
    for file in dict.fromkeys(name.partition("/")[0] for name in values[0]):
        scores = [name for name in values[0] if name.startswith(f"{file}/") and not name.endswith("_random")]
        names = [curve.plan.contender.name for curve in curves]
        head = [*(f"{name}: FLOPs, step" for name in names)]
        head += [f"{score.partition('/')[2]}: {name}" for score in scores for name in names]
        lines += ["", f"## {file}{suffix}", "", _row(head)]
        lines.append(_row(["---"] * len(curves) + ["--:"] * (len(head) - len(curves))))
        starts = [_shown(of_curve[score]) for score in scores for of_curve in random]
        lines.append(_row(["random weights", *[""] * (len(curves) - 1), *starts]))
        for place in range(len(values[0][scores[0]])):
            where = []
            for curve in curves:
                step = (curve.plan.finetuned_steps if suffix else curve.plan.probed_steps)[place]
                where.append(f"{curve.flops([step])[0]:.3e}, {step:,}")
            lines.append(_row([*where, *(_shown(each[score][place]) for score in scores for each in values)]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4f} to {max(values):.4f})"


def draw(curves: Sequence[Curve]) -> Figure:
    """Returns a picture of the first score of each file and task over training FLOPs, with the range over seeds."""
    firsts: dict[tuple[str, bool], str] = {}
    for is_finetuned, names in ((False, curves[0].probed), (True, curves[0].finetuned)):
        for name in names:
            firsts.setdefault((name.partition("/")[0], is_finetuned), name)
    figure = Figure(figsize=(4.2 * len(firsts), 3.6), layout="constrained")
    for axes, ((file, is_finetuned), name) in zip(
        figure.subplots(1, len(firsts), squeeze=False)[0], firsts.items(), strict=True
    ):
        random: list[float] = []
        for curve, line, filling in zip(curves, LINES, _RANGES, strict=False):
            points = (curve.finetuned if is_finetuned else curve.probed)[name]
            flops = curve.flops(curve.plan.finetuned_steps if is_finetuned else curve.plan.probed_steps)
            lows, highs, means = [*map(min, points)], [*map(max, points)], [*map(statistics.fmean, points)]
            if len(points) > 1:
                axes.fill_between(flops, lows, highs, **filling)
            else:
                axes.vlines(flops, lows, highs, color=line["color"])
            axes.plot(flops, means, label=curve.plan.contender.title, **line)
            random += curve.random[name] if is_finetuned else curve.probed[f"{name}_random"][0]
        axes.axhline(statistics.fmean(random), color="black", linestyle=":", label="random weights")
        title = f"{file}, fine-tuned" if is_finetuned else file
        axes.set(title=title, xlabel="training FLOPs", ylabel=name.partition("/")[2])
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
