"""Held-out evaluation: metrics with their baselines, and samples of predictions."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from electra_cli.data.input_pipeline import WHOLE, Part, evaluation_dataset, reading
from electra_cli.data.source import DataSource, Phase
from electra_cli.errors import UserError
from electra_cli.loggers.sample_texts import Sample, Token
from electra_cli.modeling import features
from electra_cli.objectives.base import Objective, Pretrainer, Tensors, objective_of, unigram_log_probs
from electra_cli.objectives.electra_pretrainer import unmask
from electra_cli.training.distribution import Runtime
from electra_cli.training.optimization import Optimizer, averaged_weights
from electra_cli.training.steps import build_eval_step


def check_validation(source: DataSource) -> None:
    """Raises a `UserError` when the data has no validation examples."""
    if source.validation is None or not source.validation.num_examples:
        raise UserError(
            f"{source.data_dir} has no validation examples: prepare it with --validation_fraction, or train with "
            f"--mode=train"
        )


class Evaluator:
    """Evaluates a model on the validation split of a phase: the same examples with the same masks every time.

    The phase must have passed `check_validation`. With `optimizer.ema_decay` the moving averages of the weights are
    evaluated.
    """

    def __init__(self, model: Pretrainer, optimizer: Optimizer, runtime: Runtime, phase: Phase):
        source, config = phase.source, phase.config
        assert source.validation is not None
        self.phase = phase
        self._data_dir, self._split = source.data_dir, source.validation
        self._model, self._optimizer, self._objective = model, optimizer, objective_of(config)
        counts, special = source.token_counts, phase.masking.special_token_ids
        baseline = None if counts is None else unigram_log_probs(counts, special)
        self._step = build_eval_step(model, runtime, config, baseline)
        num_there = source.validation.num_examples
        self.num_examples = min(num_there, config.eval.num_examples or num_there)
        batch_size = config.train.global_batch_size
        self._dataset = runtime.distribute(lambda part: _dataset(phase, batch_size, self.num_examples, part))
        self._sampler: Sampler | None = None
        if config.eval.num_samples:
            self._sampler = Sampler(model, phase, config.eval.num_samples, runtime)

    def run(self, before_batch: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Returns the metrics of `Objective.summarize`, of baselines when token counts are known, and `num_examples`.

        `before_batch` is called before every batch; it may raise to end the evaluation.
        """
        totals: dict[str, np.ndarray] = {}
        averaged = averaged_weights(self._optimizer, self._model.trainable_variables)
        with reading(self._data_dir, "in evaluation", self._split), averaged:
            for batch in self._dataset:
                before_batch()
                for name, value in self._step(batch).items():
                    totals[name] = totals.get(name, 0.0) + value.numpy().astype(np.float64)
        return {**self._objective.summarize(totals), "num_examples": self.num_examples}

    def samples(self) -> list[Sample]:
        """Returns predictions for the first `eval.num_samples` examples."""
        if self._sampler is None:
            return []
        averaged = averaged_weights(self._optimizer, self._model.trainable_variables)
        with reading(self._data_dir, "in evaluation", self._split), averaged:
            return self._sampler.take()


def _dataset(phase: Phase, batch_size: int, num_examples: int, part: Part = WHOLE) -> tf.data.Dataset:
    assert phase.source.validation is not None
    return evaluation_dataset(
        phase.source.validation,
        phase.masking,
        pad_id=phase.source.vocabulary.pad_id,
        max_seq_length=phase.config.data.max_seq_length,
        global_batch_size=batch_size,
        num_examples=num_examples,
        part=part,
    )


def format_table(objective: Objective, result: dict[str, float], step: int) -> str:
    """Returns a table of held-out metrics next to their baselines, for people."""
    baselines = objective.baselines(result)
    lines = [
        f"Held-out evaluation at step {step:,} on {result['num_examples']:,} examples:",
        f"  {'metric':<28}{'value':>9}   baseline",
    ]
    for name, value in result.items():
        if name not in ("unigram_masked_lm_loss", "num_examples", "phase"):
            lines.append(f"  {name:<28}{value:>9.4f}   {baselines.get(name, '')}".rstrip())
    return "\n".join(lines)


class Sampler:
    """Predicts for the first held-out examples, with the masks and draws of every evaluation.

    The phase must have passed `check_validation`. Without a runtime it is the default strategy, without XLA.
    """

    def __init__(self, model: Pretrainer, phase: Phase, num_samples: int, runtime: Runtime | None = None):
        assert phase.source.validation is not None
        self._vocabulary = phase.source.vocabulary
        self._num_samples = min(num_samples, phase.source.validation.num_examples)
        # As many examples as in evaluation, since masks are drawn for groups of them.
        self._dataset = _dataset(phase, self._num_samples, phase.config.eval.num_examples)
        runtime = runtime or Runtime(tf.distribute.get_strategy(), jit_compile=False, description="")
        self._strategy = strategy = runtime.strategy
        objective = objective_of(phase.config)

        @runtime.with_jit_regions
        def compute(inputs: Tensors) -> Tensors:
            return _sample_outputs(objective, inputs, model(inputs, training=False))

        self._compute = tf.function(lambda batch: strategy.run(compute, args=(batch,)), autograph=False)

    def take(self) -> list[Sample]:
        """Returns the examples, within `input_pipeline.reading`; all workers must call it at once."""
        batch = next(iter(self._dataset))
        # Each replica computes all of them.
        outputs = {
            name: self._strategy.experimental_local_results(value)[0].numpy()
            for name, value in self._compute(batch).items()
        }
        slots = (features.MASKED_LM_POSITIONS, features.MASKED_LM_WEIGHTS)
        outputs |= {name: batch[name].numpy() for name in (features.INPUT_MASK, *slots)}
        rows = [{name: value[index] for name, value in outputs.items()} for index in range(self._num_samples)]
        texts = self._vocabulary.texts
        return [_to_sample(row, texts, self._vocabulary.continues_word) for row in rows]


def _sample_outputs(objective: Objective, inputs: Tensors, outputs: Tensors) -> Tensors:
    chosen = objective.choices(inputs, outputs)
    ids = tf.cast(inputs[features.MASKED_LM_IDS], tf.int32)
    probabilities = tf.nn.softmax(tf.cast(outputs["lm_outputs"], tf.float32))
    return {
        "originals": unmask(inputs),
        "choice_probabilities": tf.gather(probabilities, chosen["choices"], batch_dims=2),
        "original_probabilities": tf.gather(probabilities, ids, batch_dims=2),
        **chosen,
    }


def _to_sample(row: dict[str, np.ndarray], texts: list[str], continues_word: np.ndarray) -> Sample:
    slots = {
        int(position): slot
        for slot, position in enumerate(row[features.MASKED_LM_POSITIONS])
        if row[features.MASKED_LM_WEIGHTS][slot] > 0
    }
    tokens = []
    for position in np.flatnonzero(row[features.INPUT_MASK]).tolist():
        original = int(row["originals"][position])
        slot = slots.get(position)
        choice = None if slot is None else int(row["choices"][slot])
        tokens.append(
            Token(
                text=texts[original],
                continues_word=bool(continues_word[original]),
                choice=None if choice is None else texts[choice],
                is_replaced=choice is not None and choice != original,
                choice_probability=None if slot is None else float(row["choice_probabilities"][slot]),
                original_probability=None if slot is None else float(row["original_probabilities"][slot]),
                replaced_probability=float(row["replaced"][position]) if "replaced" in row else None,
            )
        )
    return Sample(tuple(tokens))
