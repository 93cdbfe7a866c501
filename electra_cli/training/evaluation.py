"""Held-out evaluation, and the baselines that give its numbers a scale."""

import functools
from collections.abc import Callable

import numpy as np

from electra_cli.data.input_pipeline import evaluation_dataset
from electra_cli.data.phases import Phase
from electra_cli.data.source import DataSource, reading
from electra_cli.errors import UserError
from electra_cli.loggers.sample_texts import Sample
from electra_cli.objectives import metrics
from electra_cli.objectives.pretrainers import Pretrainer
from electra_cli.objectives.samples import Sampler
from electra_cli.objectives.step import build_eval_step
from electra_cli.training.distribution import Runtime
from electra_cli.training.optimization import Optimizer, averaged_weights


def check_validation(source: DataSource) -> None:
    """Raises a `UserError` when the data has no validation examples."""
    if source.validation is None or not source.validation.num_examples:
        raise UserError(
            f"{source.data_dir} has no validation examples: prepare it with --validation_fraction, or train with "
            f"--mode=train"
        )


class Evaluator:
    """Evaluates a model on the validation split: the same examples with the same masks every time.

    With `optimizer.ema_decay` it is the moving average of the weights that is evaluated.

    Args:
      model: the pretrainer.
      optimizer: its optimizer, which holds the average.
      runtime: strategy and compilation.
      phase: the data, which must have passed `check_validation`, and how it is masked.

    Attributes:
      phase: see there.
      num_examples: how many are evaluated.
    """

    def __init__(
        self,
        model: Pretrainer,
        optimizer: Optimizer,
        runtime: Runtime,
        phase: Phase,
    ):
        source, masking, config = phase.source, phase.masking, phase.config
        assert source.validation is not None
        self.phase = phase
        self._data_dir, self._split = source.data_dir, source.validation
        self._model, self._optimizer, self._objective = model, optimizer, config.objective
        baseline = (
            None if source.token_counts is None else unigram_log_probs(source.token_counts, masking.special_token_ids)
        )
        self._step = build_eval_step(model, runtime, config, baseline)
        self.num_examples = min(
            source.validation.num_examples, config.eval.num_examples or source.validation.num_examples
        )
        make_dataset = functools.partial(
            evaluation_dataset,
            source.validation,
            masking,
            pad_id=source.vocabulary.pad_id,
            max_seq_length=config.data.max_seq_length,
            global_batch_size=config.train.global_batch_size,
            num_examples=self.num_examples,
        )
        self._dataset = runtime.distribute(lambda part: make_dataset(part=part))
        self._sampler: Sampler | None = None
        if config.eval.num_samples:
            self._sampler = Sampler(model, config, source, masking, config.eval.num_samples, runtime.strategy)

    def run(self, before_batch: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Evaluates.

        Args:
          before_batch: called before every batch; may raise to end the evaluation.

        Returns:
          The metrics of `metrics.summarize`, and `unigram_masked_lm_loss` when token counts are known: the loss of
          guessing every masked token by its frequency in the training data, in nats; and `num_examples`.
        """
        totals: dict[str, np.ndarray] = {}
        averaged = averaged_weights(self._optimizer, self._model.trainable_variables)
        with reading(self._data_dir, "in evaluation", self._split), averaged:
            for batch in self._dataset:
                before_batch()
                for name, value in self._step(batch).items():
                    totals[name] = totals.get(name, 0.0) + value.numpy().astype(np.float64)
        result = metrics.summarize(totals, self._objective)
        if "unigram_loss" in totals:
            result["unigram_masked_lm_loss"] = float(totals["unigram_loss"] / totals["masked_lm_weight"])
        result["num_examples"] = self.num_examples
        return result

    def samples(self) -> list[Sample]:
        """Returns the first `eval.num_samples` examples as generator and discriminator see them."""
        if self._sampler is None:
            return []
        averaged = averaged_weights(self._optimizer, self._model.trainable_variables)
        with reading(self._data_dir, "in evaluation", self._split), averaged:
            return self._sampler.take()


def unigram_log_probs(token_counts: np.ndarray, special_token_ids: tuple[int, ...]) -> np.ndarray:
    """Returns the log-probabilities, float32 [vocab_size], of the unigram distribution of maskable tokens.

    Args:
      token_counts: int64 [vocab_size], counts in the training data; one is added to each (Laplace), so that a token
        seen only in held-out text costs finitely much.
      special_token_ids: ids that are never masked, which get no share.
    """
    counts = token_counts.astype(np.float64) + 1.0
    counts[list(special_token_ids)] = 0.0
    with np.errstate(divide="ignore"):
        log_probs = np.log(counts / counts.sum())
    # Weights of 0 meet these ids (unused slots), and 0 x -inf would be NaN.
    log_probs[list(special_token_ids)] = 0.0
    return log_probs.astype(np.float32)


def unigram_entropy(token_counts: np.ndarray, special_token_ids: tuple[int, ...]) -> float:
    """Returns the loss, in nats, of guessing masked tokens by their frequency; arguments as of `unigram_log_probs`."""
    log_probs: np.ndarray = unigram_log_probs(token_counts, special_token_ids).astype(np.float64)
    shares = np.exp(log_probs)
    return float(-(shares * log_probs).sum())  # those without a share have a logarithm of 0


def format_table(result: dict[str, float], step: int) -> str:
    """Returns a table of held-out metrics beside their baselines, for people."""
    unigram = result.get("unigram_masked_lm_loss")
    baselines = {
        "masked_lm_loss": f"{unigram:.4f}  unigram distribution of the training data" if unigram is not None else ""
    }
    if "replaced_fraction" in result:
        all_original = 1.0 - result["replaced_fraction"]
        baselines["rtd_auc"] = "0.5000  chance"
        baselines["rtd_accuracy"] = f"{all_original:.4f}  calling every token original"
    lines = [
        f"Held-out evaluation at step {step:,} on {result['num_examples']:,} examples:",
        f"  {'metric':<28}{'value':>9}   baseline",
    ]
    for name, value in result.items():
        if name not in ("unigram_masked_lm_loss", "num_examples", "phase"):
            lines.append(f"  {name:<28}{value:>9.4f}   {baselines.get(name, '')}".rstrip())
    return "\n".join(lines)
