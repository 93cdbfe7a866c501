"""Held-out examples and a model in; what generator and discriminator make of them, token by token, out."""

from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli.data.input_pipeline import evaluation_dataset
from electra_cli.data.masking import MaskingSettings
from electra_cli.data.source import DataSource
from electra_cli.data.vocabulary import WORD_BEGIN, Vocabulary
from electra_cli.loggers.sample_texts import Sample, Token
from electra_cli.modeling import features
from electra_cli.objectives.corruption import put_at_positions, sample_tokens
from electra_cli.objectives.pretrainers import Pretrainer


class Sampler:
    """Takes the first held-out examples through a model, with the masks and draws of every evaluation.

    Args:
      model: the pretrainer, made in the strategy's scope.
      config: the resolved config of the phase.
      source: its data, with a validation split.
      masking: how it is masked.
      num_samples: examples; fewer where the split has fewer.
      strategy: the strategy; None: the default one.
    """

    def __init__(
        self,
        model: Pretrainer,
        config: ml_collections.FrozenConfigDict,
        source: DataSource,
        masking: MaskingSettings,
        num_samples: int,
        strategy: tf.distribute.Strategy | None = None,
    ):
        assert source.validation is not None
        self._vocabulary = source.vocabulary
        self._num_samples = min(num_samples, source.validation.num_examples)
        self._dataset = evaluation_dataset(
            source.validation,
            masking,
            pad_id=source.vocabulary.pad_id,
            max_seq_length=config.data.max_seq_length,
            global_batch_size=self._num_samples,
            # As in evaluation, since masks are drawn for groups of examples.
            num_examples=config.eval.num_examples,
        )
        self._strategy = strategy or tf.distribute.get_strategy()
        self._compute = _build_compute(model, config.objective, self._strategy)

    def take(self) -> list[Sample]:
        """Returns the examples. Every worker must call it at once.

        Raises:
          tf.errors.DataLossError, tf.errors.FailedPreconditionError: a shard is damaged; see `source.reading`.
        """
        batch = next(iter(self._dataset))
        # Each replica computes all of them; the first here tells.
        outputs = {
            name: self._strategy.experimental_local_results(value)[0].numpy()
            for name, value in self._compute(batch).items()
        }
        outputs |= {name: batch[name].numpy() for name in (features.INPUT_MASK, *_SLOTS)}
        rows = [{name: value[index] for name, value in outputs.items()} for index in range(self._num_samples)]
        shown = _shown_tokens(self._vocabulary)
        return [_to_sample(row, shown, self._vocabulary.continues_word) for row in rows]


_SLOTS = (features.MASKED_LM_POSITIONS, features.MASKED_LM_WEIGHTS)


def _build_compute(model: Pretrainer, objective: Any, strategy: tf.distribute.Strategy):
    def compute(batch):
        outputs = model(batch, training=False)
        logits = outputs["lm_outputs"]
        ids = tf.cast(batch[features.MASKED_LM_IDS], tf.int32)
        if "disc_logits" in outputs:
            # As the model draws; it returns labels, not what it drew.
            choices = sample_tokens(
                logits,
                batch[features.SAMPLING_UNIFORM],
                ids if objective.disallow_correct else None,
                objective.sampling_temperature,
            )
            replaced = {"replaced": tf.sigmoid(tf.cast(outputs["disc_logits"], tf.float32))}
        else:
            choices, replaced = tf.argmax(logits, axis=-1, output_type=tf.int32), {}
        probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
        originals = put_at_positions(
            tf.cast(batch[features.INPUT_WORD_IDS], tf.int32),
            batch[features.MASKED_LM_POSITIONS],
            ids,
            batch[features.MASKED_LM_WEIGHTS],
        )
        return {
            "originals": originals,
            "choices": choices,
            "choice_probabilities": tf.gather(probabilities, choices, batch_dims=2),
            "original_probabilities": tf.gather(probabilities, ids, batch_dims=2),
            **replaced,
        }

    return tf.function(lambda batch: strategy.run(compute, args=(batch,)))


def _to_sample(row: dict[str, np.ndarray], shown: list[str], continues_word: np.ndarray) -> Sample:
    slots = {
        int(position): slot
        for slot, position in enumerate(row[features.MASKED_LM_POSITIONS])
        if row[features.MASKED_LM_WEIGHTS][slot] > 0
    }
    tokens = []
    for place in np.flatnonzero(row[features.INPUT_MASK]).tolist():
        original = int(row["originals"][place])
        slot = slots.get(place)
        choice = None if slot is None else int(row["choices"][slot])
        tokens.append(
            Token(
                text=shown[original],
                continues_word=bool(continues_word[original]),
                choice=None if choice is None else shown[choice],
                is_replaced=choice is not None and choice != original,
                choice_probability=None if slot is None else float(row["choice_probabilities"][slot]),
                original_probability=None if slot is None else float(row["original_probabilities"][slot]),
                replaced_probability=float(row["replaced"][place]) if "replaced" in row else None,
            )
        )
    return Sample(tuple(tokens))


def _shown_tokens(vocabulary: Vocabulary) -> list[str]:
    if vocabulary.is_sentencepiece:
        return [token.removeprefix(WORD_BEGIN) or token for token in vocabulary.tokens]
    return [token.removeprefix("##") or token for token in vocabulary.tokens]
