"""Metrics, samples of text, histograms of weights, and the config as hparams, for TensorBoard."""

import collections
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

import ml_collections
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from electra_cli import files
from electra_cli.config.fields import flatten
from electra_cli.config.pretraining import BEST_METRICS
from electra_cli.loggers.logger import Logger
from electra_cli.loggers.sample_texts import Sample, markdown_legend, to_markdown

_DIRECTORY = "tensorboard"


class TensorBoard(Logger):
    """Writes below a workdir, in a run for each split; raises a `ResumableError` where it cannot."""

    def __init__(self, workdir: str):
        self._workdir = workdir
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        for writer in self._writers.values():
            writer.close()

    def metrics(self, split: str, step: int, values: Mapping[str, float], line: str) -> None:
        with self._writing(f"metrics of step {step:,}", split, step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        with self._writing(f"samples of step {step:,}", "validation", step):
            tf.summary.text("samples", [*map(to_markdown, samples), markdown_legend(samples)])

    def histograms(self, step: int, variables: Sequence[tf.Variable]) -> None:
        # Names are numbered where earlier variables have the same.
        seen: collections.Counter[str] = collections.Counter()
        with self._writing(f"histograms of step {step:,}", "weights", step):
            for variable in variables:
                name = variable.name.removesuffix(":0")
                tf.summary.histogram(f"{name}_{seen[name]}" if seen[name] else name, variable)
                seen[name] += 1

    def hparams(self, config: ml_collections.FrozenConfigDict) -> None:
        """For the plugin HParams, which compares runs by config and held-out metrics."""
        values = {
            key: value if isinstance(value, (bool, int, float, str)) else str(value)
            for key, value in flatten(config).items()
            if not key.startswith("derived.")
        }
        with self._writing("hparams", "", 0):
            hparams.hparams_config(
                hparams=[hparams.HParam(key) for key in values],
                metrics=[hparams.Metric(name, group="validation") for name in BEST_METRICS[config.objective.name]],
            )
            hparams.hparams(values)

    @contextlib.contextmanager
    def _writing(self, what: str, split: str, step: int) -> Iterator[None]:
        with files.writing(what, to=self._workdir):
            if split not in self._writers:
                directory = tf.io.gfile.join(self._workdir, _DIRECTORY, split)
                self._writers[split] = tf.summary.create_file_writer(directory)
            with self._writers[split].as_default(step=step):
                yield
            self._writers[split].flush()
