"""Which metrics are drawn, and how many points of a curve. No TensorFlow here."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from electra_cli.report.records import RunRecord


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric that is drawn.

    Attributes:
      name: as in metrics.jsonl.
      title: for people.
      unit: of its values; '' for a fraction from 0 to 1.
      is_wide: whether values span orders of magnitude, so that they may be drawn on a logarithmic axis.
      baseline: what gives it a scale, in words; '' when nothing does.
    """

    name: str
    title: str
    unit: str = ""
    is_wide: bool = False
    baseline: str = ""


GROUPS: dict[str, tuple[Metric, ...]] = {
    "Losses": (
        Metric("total_loss", "Total loss", "nats", True),
        Metric("masked_lm_loss", "Masked LM loss (generator)", "nats", True, "unigram distribution"),
        Metric("rtd_loss", "RTD loss (discriminator)", "nats", True),
    ),
    "Generator": (
        Metric("masked_lm_accuracy", "Best guess is the original"),
        Metric("sampled_masked_lm_accuracy", "Sampled token is the original"),
        Metric("replaced_fraction", "Tokens replaced"),
    ),
    "Discriminator": (
        Metric("rtd_auc", "Area under the ROC curve", baseline="chance"),
        Metric("rtd_accuracy", "Accuracy", baseline="calling every token original"),
        Metric("rtd_precision", "Precision"),
        Metric("rtd_recall", "Recall"),
    ),
    "Optimization": (
        Metric("learning_rate", "Learning rate", "rate"),
        Metric("gradient_norm", "Gradient norm before clipping", "norm", True),
        Metric("loss_scale", "Loss scale", "factor", True),
        Metric("skipped_updates", "Updates left out", "updates a line"),
    ),
    "Speed": (
        Metric("tokens_per_second", "Throughput", "real tokens a second"),
        Metric("model_flops_utilization", "Model FLOPs utilization"),
        Metric("input_wait_fraction", "Time that steps wait for data"),
    ),
}
# Drawn with others, or not at all: counts, and the baseline of masked_lm_loss.
_NOT_DRAWN = ("real_tokens", "unigram_masked_lm_loss")


def other_metrics(runs: Iterable[RunRecord]) -> tuple[Metric, ...]:
    """Returns the metrics of training and held-out lines that no group names, as other programs or versions write."""
    known = {metric.name for group in GROUPS.values() for metric in group} | set(_NOT_DRAWN)
    names = (name for run in runs for split in ("train", "validation") for name in run.metric_names(split))
    return tuple(Metric(name, name, "value") for name in dict.fromkeys(names) if name not in known)


def baseline_of(run: RunRecord, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and values that a metric is measured against; empty when there are none."""
    if metric.name == "masked_lm_loss":
        return run.series("validation", "unigram_masked_lm_loss")
    if metric.name == "rtd_auc":
        steps = np.concatenate([run.series(split, "rtd_auc")[0] for split in ("train", "validation")])
        return (np.array([steps.min(), steps.max()]), np.array([0.5, 0.5])) if len(steps) else (steps, steps * 0.0)
    if metric.name == "rtd_accuracy":
        split = "validation" if run.lines["validation"] else "train"
        steps, replaced = run.series(split, "replaced_fraction")
        return steps, 1.0 - replaced
    return np.array([], np.int64), np.array([])


def coinciding(runs: Sequence[RunRecord], name: str, splits: Sequence[str]) -> list[list[str]]:
    """Returns the names of runs that have the same values of a metric at the same steps, as lists of two and more.

    Only the last of their curves is to be seen.

    Args:
      runs: the runs.
      name: of the metric.
      splits: those that are drawn, all of which must be equal.
    """
    groups: dict[tuple[bytes, ...], list[str]] = {}
    for run in runs:
        found = [run.series(split, name) for split in splits]
        if any(len(values) for _, values in found):
            points = tuple(array.tobytes() for steps_and_values in found for array in steps_and_values)
            groups.setdefault(points, []).append(run.name)
    return [names for names in groups.values() if len(names) > 1]


def thin(values: np.ndarray, limit: int) -> np.ndarray:
    """Returns the places, ascending, of at most `limit` (4 or more) of some values, so that a curve through them looks
    the same: the first, the last, and the lowest and highest of each of equal parts."""
    if len(values) <= limit:
        return np.arange(len(values))
    kept = {0, len(values) - 1}
    for part in np.array_split(np.arange(len(values)), (limit - 2) // 2):
        kept |= {int(part[np.argmin(values[part])]), int(part[np.argmax(values[part])])}
    return np.array(sorted(kept))


def spread(number: int, limit: int) -> list[int]:
    """Returns at most `limit` places of `number`, the first and the last among them, at even distances."""
    return sorted({round(place) for place in np.linspace(0, number - 1, min(number, limit))}) if number else []


def spark(values: Sequence[float] | np.ndarray, width: int) -> str:
    """Returns a curve of at most `width` block characters, each the mean of a part; '' without values."""
    if not len(values):
        return ""
    parts = [float(np.mean(part)) for part in np.array_split(np.asarray(values), min(width, len(values)))]
    low, high = min(parts), max(parts)
    blocks = "▁▂▃▄▅▆▇█"
    if high == low:
        return blocks[3] * len(parts)
    return "".join(blocks[round((part - low) / (high - low) * (len(blocks) - 1))] for part in parts)
