"""Electric (Clark et al., EMNLP 2020, arXiv 2012.08561): an energy of each token, learned against noise.

A two-tower cloze model q learns to predict each token from those on both sides. The discriminator's head gives energies
E(x)_t: -E(x)_t stands for log p(x_t | the other tokens), unnormalized. They are learned by noise-contrastive
estimation: with a share k/n of tokens replaced by samples of q, a token is noise with the odds
k q / ((n - k) exp(-E)), so that the logit of the binary cross entropy is E(x)_t + log q(x_t | the other tokens) +
log(k / (n - k)). The share is `data.mask_prob`.
"""

import math
from typing import ClassVar

import numpy as np
import tensorflow as tf

from electra_cli.modeling import features
from electra_cli.modeling.encoders import build_discriminator, build_towers, encode
from electra_cli.modeling.layers import sub_seed
from electra_cli.objectives.base import Pretrainer, Tensors, ratio
from electra_cli.objectives.electra import ElectraObjective
from electra_cli.objectives.electra_pretrainer import (
    ElectraPretrainer,
    corrupt,
    put_at_positions,
    sample_tokens,
    unmask,
)
from electra_cli.objectives.mlm import MaskedLMObjective, cross_entropy


class ElectricPretrainer(ElectraPretrainer):
    """`ElectraPretrainer` of `TwoTowers` as `generator_network`; `noise_share` is the share of noise among tokens."""

    def __init__(self, *networks, noise_share: float, **more):
        super().__init__(*networks, **more)
        self.noise_share = noise_share

    def call(self, inputs, training=None, seed=None, before_discriminator=None):
        """Returns the outputs of the cloze model and of the discriminator on noise.

        Arguments are those of `ElectraPretrainer`.

        Returns:
          Dict of `lm_outputs` float32 [batch, num_token_predictions, vocab_size] and `sampled_ids` int32 [batch,
          num_token_predictions], of the slots; float32 [batch, seq_length] `cloze_losses`, nats, and `disc_logits`, the
          log-odds of noise; `disc_label` int32 [batch, seq_length], 1 for noise, also where it is the original token.
        """
        inputs = self._complete(inputs)
        original_ids = unmask(inputs)
        logits = self._cloze_logits({**inputs, features.INPUT_WORD_IDS: original_ids}, training, sub_seed(seed, 0))
        losses = cross_entropy(logits, original_ids)

        fixed, positions = tf.stop_gradient(logits), inputs[features.MASKED_LM_POSITIONS]
        at_slots = tf.gather(fixed, positions, batch_dims=1)
        sampled_ids = sample_tokens(at_slots, self._sampling_uniform(inputs, sub_seed(seed, 1)))
        corrupted, _ = corrupt(inputs, sampled_ids)
        # A token and its sample have the same context, the original one.
        log_q = -tf.stop_gradient(losses)
        log_q += tf.gather(fixed, corrupted[features.INPUT_WORD_IDS], batch_dims=2)
        log_q -= tf.gather(fixed, original_ids, batch_dims=2)
        generated = {"lm_outputs": at_slots, "sampled_ids": sampled_ids, "cloze_losses": losses}
        if before_discriminator is not None:
            corrupted = before_discriminator(generated, corrupted)
        energies = self._discriminate(corrupted, training, sub_seed(seed, 2))
        return {
            **generated,
            "disc_logits": energies + log_q + math.log(self.noise_share / (1.0 - self.noise_share)),
            "disc_label": put_at_positions(
                tf.zeros_like(original_ids), positions, tf.ones_like(positions), inputs[features.MASKED_LM_WEIGHTS]
            ),
        }

    def _cloze_logits(self, inputs, training, seed):
        """Returns float32 [batch, seq_length, vocab_size], of each token by the others."""
        encoded = encode(self.generator_network, inputs, training, seed)
        shape = tf.shape(inputs[features.INPUT_WORD_IDS])
        return tf.cast(self.masked_lm(encoded, tf.broadcast_to(tf.range(shape[1]), shape)), tf.float32)

    @property
    def networks(self):
        """The discriminator: no other library has two towers."""
        return {"discriminator": self.discriminator_network}


class ElectricObjective(ElectraObjective):
    """`generator_loss_weight` x the cloze model's loss + `discriminator_loss_weight` x that of detecting noise."""

    loss_names: ClassVar[tuple[str, ...]] = ("cloze_loss", "rtd_loss")

    def _build_model(self) -> Pretrainer:
        config = self._config
        generator = build_towers(config)
        return ElectricPretrainer(
            generator,
            build_discriminator(config, generator.embeddings),
            **self._settings(),
            noise_share=config.data.mask_prob,
            name="electric_pretrainer",
        )

    def sum_shapes(self) -> dict[str, list[int]]:
        """Those of ELECTRA, whose `masked_lm_` are of the slots, and of all tokens that might be masked."""
        return {**super().sum_shapes(), "cloze_loss": [], "cloze_weight": []}

    def batch_weights(self, inputs: Tensors) -> list[tf.Tensor]:
        """The numbers of masked slots, of real tokens, and of tokens that might be masked."""
        return [*super().batch_weights(inputs), tf.reduce_sum(tf.cast(inputs[features.MASKABLE], tf.float32))]

    def loss_and_sums(
        self, inputs: Tensors, outputs: Tensors, global_weights: list[tf.Tensor]
    ) -> tuple[tf.Tensor, Tensors]:
        """The weighted sum of the mean losses, and the sums of `sum_shapes`, of the networks with outputs."""
        _, sums = super().loss_and_sums(inputs, outputs, global_weights)
        loss, objective, (_, real_tokens, num_maskable) = tf.constant(0.0), self._config.objective, global_weights
        if "lm_outputs" in outputs:
            maskable = tf.cast(inputs[features.MASKABLE], tf.float32)
            sums["cloze_loss"] = tf.reduce_sum(outputs["cloze_losses"] * maskable)
            sums["cloze_weight"] = tf.reduce_sum(maskable)
            loss += objective.generator_loss_weight * sums["cloze_loss"] / tf.maximum(num_maskable, 1.0)
        if "disc_logits" in outputs:
            is_original = tf.cast(tf.equal(outputs["sampled_ids"], inputs[features.MASKED_LM_IDS]), tf.float32)
            sums["sampled_correct"] = tf.reduce_sum(is_original * inputs[features.MASKED_LM_WEIGHTS])
            loss += objective.discriminator_loss_weight * sums["rtd_loss"] / tf.maximum(real_tokens, 1.0)
        return loss, sums

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the metrics of ELECTRA, and the loss of the cloze model."""
        metrics, objective = super().summarize(sums), self._config.objective
        cloze_loss = ratio(sums["cloze_loss"], sums["cloze_weight"])
        total_loss = objective.generator_loss_weight * cloze_loss
        total_loss += objective.discriminator_loss_weight * metrics["rtd_loss"]
        return {**metrics, "total_loss": total_loss, "cloze_loss": cloze_loss}

    def baselines(self, metrics: dict[str, float]) -> dict[str, str]:
        """Those of ELECTRA, and knowing the share of noise, which is all that can be known of perfect noise."""
        share = metrics["replaced_fraction"]
        entropy = -sum(part * math.log(part) for part in (share, 1.0 - share) if part > 0)
        return super().baselines(metrics) | {"rtd_loss": f"{entropy:.4f}  knowing the share of noise alone"}

    def find_collapse(self, metrics: dict[str, float], unigram_loss: float | None) -> dict[str, str]:
        """The cloze model's; a discriminator near chance may be right, where noise is like the text."""
        return MaskedLMObjective.find_collapse(self, metrics, unigram_loss)

    def choices(self, inputs: Tensors, outputs: Tensors) -> Tensors:
        """The noise."""
        return {"choices": outputs["sampled_ids"], "replaced": tf.sigmoid(outputs["disc_logits"])}


OBJECTIVE = ElectricObjective
