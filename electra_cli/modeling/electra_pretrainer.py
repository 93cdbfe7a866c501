"""`ElectraPretrainer`: generator, sampling and discriminator as one model, from masked batch to logits and labels."""

import inspect
from collections.abc import Callable

import ml_collections
import tensorflow as tf
import tf_keras
from official.nlp.modeling.layers.cls_head import ClassificationHead
from official.nlp.modeling.layers.masked_lm import MaskedLM

from electra_cli import features
from electra_cli.modeling.corruption import corrupt, sample_tokens
from electra_cli.modeling.encoders import build_encoders
from electra_cli.modeling.layers import gelu, sub_seed, truncated_normal

Activation = str | Callable[[tf.Tensor], tf.Tensor] | None


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class ElectraPretrainer(tf_keras.Model):
    """ELECTRA (Clark et al., ICLR 2020): a generator that corrupts and a discriminator that detects.

    Takes the place of the class of the same name in tf-models-official: same arguments, same names of layers in a
    checkpoint. Networks are called on a dict of `features.UNMASKED` and return a dict with `sequence_output`; they
    have `get_embedding_table()` and `get_config()['hidden_size']`. Ours and those of tf-models-official will do.

    Args:
      generator_network: the masked language model's encoder.
      discriminator_network: the encoder that is kept.
      vocab_size: entries of the vocabulary.
      num_classes: classes of a head on the generator's first token (next-sentence prediction); 0: no such head, as in
        the original.
      num_token_predictions: masked slots of an example.
      mlm_activation: activation of the masked-LM head and, unless `discriminator_activation` is given, of the
        discriminator's head.
      mlm_initializer: initializer of the heads.
      output_type: 'logits', or 'predictions' for log-probabilities as `lm_outputs`.
      disallow_correct: whether the generator may not sample the original token.
      discriminator_activation: activation of the discriminator's head; None: `mlm_activation`.
      sampling_temperature: temperature of the softmax that replacements are sampled from.

    Raises:
      ValueError: sizes or `output_type` that do not fit.
    """

    def __init__(
        self,
        generator_network: tf_keras.layers.Layer,
        discriminator_network: tf_keras.layers.Layer,
        vocab_size: int,
        num_classes: int,
        num_token_predictions: int,
        mlm_activation: Activation = None,
        mlm_initializer: str | tf_keras.initializers.Initializer = "glorot_uniform",
        output_type: str = "logits",
        disallow_correct: bool = False,
        *,
        discriminator_activation: Activation = None,
        sampling_temperature: float = 1.0,
        name: str | None = None,
    ):
        # Keras would cast the float features, whose float32 digits count, to the compute dtype.
        super().__init__(name=name, autocast=False)
        table_rows = generator_network.get_embedding_table().shape[0]
        if table_rows != vocab_size:
            raise ValueError(f"vocab_size={vocab_size} but the generator's word table has {table_rows} rows")
        if output_type not in ("logits", "predictions"):
            raise ValueError(f"output_type={output_type!r}: is 'logits' or 'predictions'")
        self.generator_network = generator_network
        self.discriminator_network = discriminator_network
        self.vocab_size = vocab_size
        self.num_classes = num_classes
        self.num_token_predictions = num_token_predictions
        self.mlm_activation = tf_keras.activations.get(mlm_activation)
        self.mlm_initializer = tf_keras.initializers.get(mlm_initializer)
        self.output_type = output_type
        self.disallow_correct = disallow_correct
        self.sampling_temperature = sampling_temperature
        self.discriminator_activation = tf_keras.activations.get(discriminator_activation or mlm_activation)

        self.masked_lm = MaskedLM(
            embedding_table=generator_network.get_embedding_table(),
            activation=self.mlm_activation,
            initializer=self._new_initializer(),
            name="generator_masked_lm",
        )
        self.classification = None
        if num_classes:
            self.classification = ClassificationHead(
                inner_dim=generator_network.get_config()["hidden_size"],
                num_classes=num_classes,
                initializer=self._new_initializer(),
                name="generator_classification_head",
            )
        self.discriminator_projection = tf_keras.layers.Dense(
            units=discriminator_network.get_config()["hidden_size"],
            activation=self.discriminator_activation,
            kernel_initializer=self._new_initializer(),
            name="discriminator_projection_head",
        )
        # The original starts this one kernel, unlike all others, from Glorot's uniform distribution.
        self.discriminator_head = tf_keras.layers.Dense(
            units=1, kernel_initializer="glorot_uniform", name="discriminator_head"
        )

    def call(self, inputs, training=None, seed=None):
        """Runs both networks.

        Args:
          inputs: dict of int [batch, seq_length] `input_word_ids` (masked), `input_mask`, `input_type_ids`, and
            [batch, num_token_predictions] `masked_lm_positions`, `masked_lm_ids`, `masked_lm_weights`; optionally
            `sampling_uniform`, the draws to sample with.
          training: whether to drop out.
          seed: int32 [2] that dropout, and sampling where `sampling_uniform` is absent, follow from; None: drawn from
            TensorFlow's global generator.

        Returns:
          Dict of `lm_outputs` float32 [batch, num_token_predictions, vocab_size], `sentence_outputs` float32
          [batch, num_classes], `disc_logits` float32 [batch, seq_length], `disc_label` int32 [batch, seq_length]
          (1 where the token that the discriminator saw differs from the original).
        """
        inputs = {name: value if name in _FLOATS else tf.cast(value, tf.int32) for name, value in inputs.items()}
        generated = self._encode(self.generator_network, inputs, training, sub_seed(seed, 0))
        lm_logits = tf.cast(self.masked_lm(generated, inputs[features.MASKED_LM_POSITIONS]), tf.float32)

        sampled_ids = sample_tokens(
            lm_logits,
            self._sampling_uniform(inputs, sub_seed(seed, 1)),
            inputs[features.MASKED_LM_IDS] if self.disallow_correct else None,
            self.sampling_temperature,
        )
        corrupted, labels = corrupt(inputs, sampled_ids)
        encoded = self._encode(self.discriminator_network, corrupted, training, sub_seed(seed, 2))
        disc_logits = self.discriminator_head(self.discriminator_projection(encoded))
        return {
            "lm_outputs": lm_logits if self.output_type == "logits" else tf.nn.log_softmax(lm_logits),
            "sentence_outputs": self._sentence_outputs(generated),
            "disc_logits": tf.cast(tf.squeeze(disc_logits, axis=-1), tf.float32),
            "disc_label": labels,
        }

    def _encode(self, network, inputs, training, seed):
        encoder_inputs = {name: inputs[name] for name in features.UNMASKED}
        if "seed" in inspect.signature(network.call).parameters:
            output = network(encoder_inputs, training=training, seed=seed)["sequence_output"]
        else:
            output = network(encoder_inputs, training=training)["sequence_output"]
        # Encoders of tf-models-official may return the outputs of all layers.
        return output[-1] if isinstance(output, list) else output

    def _sampling_uniform(self, inputs, seed):
        if features.SAMPLING_UNIFORM in inputs:
            return inputs[features.SAMPLING_UNIFORM]
        shape = tf.shape(inputs[features.MASKED_LM_IDS])
        return tf.random.uniform(shape) if seed is None else tf.random.stateless_uniform(shape, seed)

    def _sentence_outputs(self, generated):
        if self.classification is None:
            return tf.zeros([tf.shape(generated)[0], 0], tf.float32)
        return tf.cast(self.classification(generated), tf.float32)

    def _new_initializer(self) -> tf_keras.initializers.Initializer:
        return self.mlm_initializer.__class__.from_config(self.mlm_initializer.get_config())

    @property
    def checkpoint_items(self) -> dict[str, tf_keras.layers.Layer]:
        """What a checkpoint for fine-tuning holds: the discriminator, as 'encoder'."""
        return {"encoder": self.discriminator_network}

    def get_config(self):
        """Returns the constructor's arguments; JSON can hold them. A copy's networks share no embeddings."""
        return {
            "generator_network": tf_keras.layers.serialize(self.generator_network),
            "discriminator_network": tf_keras.layers.serialize(self.discriminator_network),
            "vocab_size": self.vocab_size,
            "num_classes": self.num_classes,
            "num_token_predictions": self.num_token_predictions,
            "mlm_activation": tf_keras.activations.serialize(self.mlm_activation),
            "mlm_initializer": tf_keras.initializers.serialize(self.mlm_initializer),
            "output_type": self.output_type,
            "disallow_correct": self.disallow_correct,
            "discriminator_activation": tf_keras.activations.serialize(self.discriminator_activation),
            "sampling_temperature": self.sampling_temperature,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the model anew from `get_config()`."""
        networks = {
            name: tf_keras.layers.deserialize(config[name], custom_objects)
            for name in ("generator_network", "discriminator_network")
        }
        return cls(**{**config, **networks})


def build_pretrainer(config: ml_collections.FrozenConfigDict) -> ElectraPretrainer:
    """Builds the model of a resolved config (`config.resolve`), with all weights created.

    Must be called in the scope of the strategy that trains it.
    """
    generator, discriminator = build_encoders(config)
    model = ElectraPretrainer(
        generator,
        discriminator,
        vocab_size=config.derived.vocab_size,
        num_classes=0,
        num_token_predictions=config.derived.max_predictions_per_seq,
        mlm_activation=gelu,
        mlm_initializer=truncated_normal(config.model.initializer_range),
        sampling_temperature=config.objective.sampling_temperature,
        name="electra_pretrainer",
    )
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


_FLOATS = (features.MASKED_LM_WEIGHTS, features.SAMPLING_UNIFORM)
