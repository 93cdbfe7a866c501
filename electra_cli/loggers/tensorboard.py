"""What a run writes for TensorBoard: metrics, samples of text, histograms of weights, and its config as hparams."""

import collections
from collections.abc import Iterable, Sequence

import ml_collections
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from electra_cli.config.checks import BEST_METRICS
from electra_cli.config.resolution import flatten
from electra_cli.loggers.sample_texts import Sample, markdown_legend, to_markdown

_DIRECTORY = "tensorboard"


class TensorBoard:
    """Writes for TensorBoard below a workdir, in a run for each split.

    Args:
      workdir: its path.
    """

    def __init__(self, workdir: str):
        self._directory = tf.io.gfile.join(workdir, _DIRECTORY)
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def close(self) -> None:
        """Ends all files."""
        for writer in self._writers.values():
            writer.close()

    def write_metrics(self, split: str, step: int, values: dict[str, float]) -> None:
        """Writes scalars under the names that they have in metrics.jsonl."""
        with self._writer(split).as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writers[split].flush()

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Writes held-out examples as text `samples`, the last line a legend."""
        with self._writer("validation").as_default(step=step):
            tf.summary.text("samples", [*map(to_markdown, samples), markdown_legend(samples)])
        self._writers["validation"].flush()

    def write_histograms(self, step: int, variables: Iterable[tf.Variable]) -> None:
        """Writes a histogram of each variable under its name, with a number where others before it have the same."""
        seen: collections.Counter[str] = collections.Counter()
        with self._writer("weights").as_default(step=step):
            for variable in variables:
                name = variable.name.removesuffix(":0")
                tf.summary.histogram(f"{name}_{seen[name]}" if seen[name] else name, variable)
                seen[name] += 1
        self._writers["weights"].flush()

    def write_hparams(self, config: ml_collections.FrozenConfigDict) -> None:
        """Writes the config, so that the plugin HParams compares runs by it and by held-out metrics.

        Args:
          config: a resolved config.
        """
        values = {key: value for key, value in flatten(config).items() if not key.startswith("derived.")}
        values = {
            key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in values.items()
        }
        with self._writer("").as_default(step=0):
            hparams.hparams_config(
                hparams=[hparams.HParam(key) for key in values],
                metrics=[hparams.Metric(name, group="validation") for name in BEST_METRICS[config.objective.name]],
            )
            hparams.hparams(values)
        self._writers[""].flush()

    def _writer(self, split: str) -> tf.summary.SummaryWriter:
        if split not in self._writers:
            self._writers[split] = tf.summary.create_file_writer(tf.io.gfile.join(self._directory, split))
        return self._writers[split]
