"""From a resolved config to the model that it trains."""

import ml_collections
import tensorflow as tf

from electra_cli.modeling import features
from electra_cli.modeling.encoders import build_discriminator, build_generator
from electra_cli.modeling.layers import gelu, truncated_normal
from electra_cli.objectives.electra_pretrainer import ElectraPretrainer
from electra_cli.objectives.masked_lm_pretrainer import MaskedLMPretrainer

Pretrainer = ElectraPretrainer | MaskedLMPretrainer


def build_pretrainer(config: ml_collections.FrozenConfigDict) -> Pretrainer:
    """Builds the model of a resolved config (`config.resolve`), with all weights created.

    Must be called in the scope of the strategy that trains it.
    """
    initializer = truncated_normal(config.model.initializer_range)
    if config.objective.name == "mlm":
        model = MaskedLMPretrainer(build_discriminator(config), gelu, initializer, name="masked_lm_pretrainer")
    else:
        model = _build_electra(config, initializer)
    tokens = tf.zeros([1, config.data.max_seq_length], tf.int32)
    slots = tf.zeros([1, config.derived.max_predictions_per_seq], tf.int32)
    model(
        {
            **dict.fromkeys(features.UNMASKED, tokens),
            features.MASKED_LM_POSITIONS: slots,
            features.MASKED_LM_IDS: slots,
            features.MASKED_LM_WEIGHTS: tf.cast(slots, tf.float32),
            features.SAMPLING_UNIFORM: tf.cast(slots, tf.float32),
        }
    )
    return model


def _build_electra(config: ml_collections.FrozenConfigDict, initializer) -> ElectraPretrainer:
    objective = config.objective
    if objective.uniform_generator or objective.tied_generator:
        discriminator = build_discriminator(config)
        generator = None if objective.uniform_generator else discriminator
    else:
        generator = build_generator(config)
        discriminator = build_discriminator(config, generator.embeddings)
    return ElectraPretrainer(
        generator,
        discriminator,
        vocab_size=config.derived.vocab_size,
        num_classes=0,
        num_token_predictions=config.derived.max_predictions_per_seq,
        mlm_activation=gelu,
        mlm_initializer=initializer,
        disallow_correct=objective.disallow_correct,
        sampling_temperature=objective.sampling_temperature,
        uniform_generator=objective.uniform_generator,
        name="electra_pretrainer",
    )
