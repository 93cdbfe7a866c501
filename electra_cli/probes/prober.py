"""Probes: how well a linear model predicts labels from the encoder's output, while it is pre-trained.

The encoder is frozen: the weights of the run, or their moving averages, are copied to a second network, and the run
is not changed. The linear model is fitted on means over tokens of a middle and of the last layer. The same with random
weights is the baseline.
"""

from collections.abc import Callable, Mapping, Sequence

import ml_collections
import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.config.labeled_files import parse_probes
from electra_cli.data.source import Phase
from electra_cli.finetuning.base import cut_pair, to_features
from electra_cli.finetuning.scores import Scores
from electra_cli.modeling import features
from electra_cli.objectives.base import Pretrainer, build_pretrainer
from electra_cli.probes.linear_probe import ProbeExamples, read_probe_file, score_linear_model
from electra_cli.training.distribution import Runtime
from electra_cli.training.hooks import Hook, MetricsLines, Update
from electra_cli.training.optimization import Optimizer, evaluated_values
from electra_cli.training.run import Run, TrainingRun

# Of lines of metrics.
SPLIT = "probe"
_RANDOM = "_random"
# Texts of a batch, and tokens that the shorter ones are padded to; the next length is twice as much.
_BATCH_SIZE, _MIN_LENGTH = 64, 16


def read_probes(config: ml_collections.FrozenConfigDict) -> tuple[ProbeExamples, ...]:
    """Reads and checks the files of `config.eval.probes`; raises as `read_probe_file`."""
    return tuple(read_probe_file(file, config.eval.probe_examples) for file in parse_probes(config.eval.probes))


class Prober:
    """Probes the encoder of a run: the discriminator, or with the objective mlm its one network.

    It computes on one device, and in one process: of several workers one calls `run`. Texts are cut to the shortest
    length of the phases, whose positions are trained all along. Model and optimizer are only read.
    """

    def __init__(
        self,
        config: ml_collections.FrozenConfigDict,
        phases: Sequence[Phase],
        probes: Sequence[ProbeExamples],
        model: Pretrainer,
        optimizer: Optimizer,
        runtime: Runtime,
    ):
        self._config, self._probes, self._runtime = config, tuple(probes), runtime
        self._model, self._optimizer = model, optimizer
        self._length = min(phase.config.data.max_seq_length for phase in phases)
        tokenizer = phases[0].source.tokenizer
        self._vocabulary, encoder = tokenizer.vocabulary, tokenizer.build()
        lines = [[text for texts in probe.texts for text in texts] for probe in self._probes]
        # Of each file the tokens of each text; of pairs the first and the second, one after the other.
        self._ids = [[cut_pair(ids, None, self._length)[0] for ids in encoder.encode_lines(texts)] for texts in lines]
        self._copy: Pretrainer | None = None
        self._pool: Callable[[Mapping[str, tf.Tensor]], tf.Tensor] | None = None
        self._baseline: list[Scores] | None = None

    def run(self, is_stopped: Callable[[], bool] = lambda: False) -> dict[str, float] | None:
        """Probes the weights as they are now; `is_stopped` is called before every batch and every fit.

        Returns by 'NAME/SCORE' and 'NAME/SCORE_random' the scores of `score_linear_model`, of all files; the second
        with random weights, which are computed once. None: it was stopped.
        """
        try:
            if self._baseline is None:
                self._build()
                self._baseline = self._score(is_stopped)
            assert self._copy is not None
            values = evaluated_values(self._optimizer, self._model.trainable_variables)
            copied, of_model = self._copy.non_trainable_variables, self._model.non_trainable_variables
            pairs = [(self._copy.trainable_variables, values), (copied, of_model)]
            for variable, value in (pair for group in pairs for pair in zip(*group, strict=True)):
                variable.assign(tf.convert_to_tensor(value))
            scores_of_files = self._score(is_stopped)
        except _StoppedError:
            return None
        return {
            f"{probe.name}/{score}{ending}": value
            for probe, scores, baseline in zip(self._probes, scores_of_files, self._baseline, strict=True)
            for score in scores
            for ending, value in (("", scores[score]), (_RANDOM, baseline[score]))
        }

    def _build(self) -> None:
        tf_keras.utils.set_random_seed(self._config.train.seed)  # as `run.build_model` does
        self._copy = build_pretrainer(self._config)
        encoder = self._copy.checkpoint_items["encoder"]
        num_layers = self._config.model.num_layers
        layers = sorted({max(num_layers // 2, 1) - 1, num_layers - 1})

        @self._runtime.function
        def pool(inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
            """Returns means over real tokens, float32 [batch, layers * hidden_size]."""
            outputs = encoder(inputs, training=False)["encoder_outputs"]
            mask = tf.cast(inputs[features.INPUT_MASK], tf.float32)[:, :, tf.newaxis]
            sums = [tf.reduce_sum(tf.cast(outputs[layer], tf.float32) * mask, axis=1) for layer in layers]
            return tf.concat(sums, axis=-1) / tf.reduce_sum(mask, axis=1)

        self._pool = pool

    def _score(self, is_stopped: Callable[[], bool]) -> list[Scores]:
        scores = []
        for probe, ids in zip(self._probes, self._ids, strict=True):
            means = self._encode(ids, is_stopped)
            if len(probe.texts[0]) == 2:
                first, second = means[::2], means[1::2]
                means = np.concatenate([np.abs(first - second), first * second], axis=-1)
            _end_if(is_stopped)
            scores.append(score_linear_model(means, probe.targets, is_classification=probe.is_classification))
        return scores

    def _encode(self, ids: Sequence[Sequence[int]], is_stopped: Callable[[], bool]) -> np.ndarray:
        """Returns the pooled output of each text, float32 [texts, width]; batches have one of a few shapes."""
        assert self._pool is not None
        lengths = [self._padded(len(row) + 2) for row in ids]
        means: list[np.ndarray] = [np.empty(0)] * len(ids)
        for length in sorted(set(lengths)):
            rows = [row for row, padded in enumerate(lengths) if padded == length]
            for begin in range(0, len(rows), _BATCH_SIZE):
                _end_if(is_stopped)
                batch = rows[begin : begin + _BATCH_SIZE]
                filled = batch + batch[-1:] * (_BATCH_SIZE - len(batch))
                inputs = to_features([(ids[row], None) for row in filled], self._vocabulary, length)
                outputs = self._pool({name: tf.constant(value) for name, value in inputs.items()}).numpy()
                for row, output in zip(batch, outputs, strict=False):
                    means[row] = output
        return np.stack(means)

    def _padded(self, length: int) -> int:
        padded = _MIN_LENGTH
        while padded < length:
            padded *= 2
        return min(padded, self._length)


def describe(step: int, values: Mapping[str, float]) -> str:
    """Returns a line for the user: the first score of each file, next to that of random weights."""
    first_scores: dict[str, str] = {}
    for name, value in values.items():
        file, _, score = name.rpartition("/")
        if file not in first_scores:
            first_scores[file] = f"{file} {score} {value:.3f} (random weights {values[name + _RANDOM]:.3f})"
    return "  ".join([f"step {step:,} probes", *first_scores.values()])


class _StoppedError(Exception):
    """Ends a probe."""


def _end_if(is_stopped: Callable[[], bool]) -> None:
    if is_stopped():
        raise _StoppedError


class Probe(Hook):
    """Probes the encoder every `eval.probe_interval` steps or with each evaluation, and at the last step."""

    def __init__(self, probes: Sequence[ProbeExamples]):
        self._probes = probes
        self._prober: Prober | None = None

    def resume(self, run: TrainingRun, lines: MetricsLines) -> None:
        """Probes if it was stopped before: where `lines` lack the scores of a file."""
        at_step = [line for line in lines if (line["split"], line["step"]) == (SPLIT, run.step)]
        names = {name.rpartition("/")[0] for line in at_step for name in line}
        if self._is_due(run) and not names >= {probe.name for probe in self._probes}:
            self._probe(run)

    def after_update(self, run: TrainingRun, update: Update) -> None:
        """Probes if it is due."""
        if self._is_due(run):
            self._probe(run)
            run.throughput.restart(run.step)

    def _is_due(self, run: TrainingRun) -> bool:
        interval = run.config.eval.probe_interval
        if not interval:
            return run.is_evaluation_due()
        return run.step == run.config.train.num_steps or run.step % interval == 0

    def evaluate(self, run: Run) -> dict[str, float]:
        """Probes once."""
        with run.logger.status(f"Probing {len(self._probes)} labelled files"):
            scores = self._prober_of(run).run()
        assert scores is not None  # nothing stops it
        run.logger.result("probes", {"step": run.step, **scores}, describe(run.step, scores))
        return scores

    def _probe(self, run: TrainingRun) -> None:
        """Probes in the chief; other workers wait for it."""
        with run.logger.status(f"Probing the encoder of step {run.step:,}"):
            scores = self._prober_of(run).run(lambda: run.stop.requested) if run.runtime.is_chief else None
        if scores is not None:
            run.logger.metrics(SPLIT, run.step, scores, describe(run.step, scores))
        run.end_if_asked(f"while probing step {run.step:,}")

    def _prober_of(self, run: Run) -> Prober:
        if self._prober is None:
            self._prober = Prober(run.config, run.phases, self._probes, run.model, run.optimizer, run.runtime)
        return self._prober


def probe_hooks(config: ml_collections.FrozenConfigDict) -> list[Hook]:
    """Returns the hook that `eval.probes` asks for, none where it names no file; raises as `read_probes`."""
    probes = read_probes(config)
    return [Probe(probes)] if probes else []
