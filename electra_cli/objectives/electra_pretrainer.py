"""`ElectraPretrainer`: generator, sampling and discriminator as one model, from masked batch to logits and labels."""

import math
from collections.abc import Callable

import tensorflow as tf
import tf_keras
from absl import logging

from electra_cli.modeling import features, randomness
from electra_cli.modeling.encoders import encode
from electra_cli.modeling.layers import sub_seed, truncated_normal
from electra_cli.modeling.tf_models import ClassificationHead
from electra_cli.objectives.base import Pretrainer

Activation = str | Callable[[tf.Tensor], tf.Tensor] | None


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class ElectraPretrainer(Pretrainer):
    """ELECTRA (Clark et al., ICLR 2020): a generator that corrupts and a discriminator that detects.

    Replaces the class of the same name in tf-models-official, with its arguments and names of layers in a checkpoint.
    Networks are called on a dict of `features.UNMASKED` and return a dict with `sequence_output`; they have
    `get_embedding_table()` and `get_config()['hidden_size']`, as ours and those of tf-models-official have. Where they
    have `new_prediction_head()`, it makes their heads, and activations and initializer below are not used.

    Args:
      generator_network: the masked language model's encoder; may be `discriminator_network` itself (tied weights);
        None with `uniform_generator`.
      discriminator_network: the encoder that is kept.
      num_classes: classes of a head on the generator's first token (next-sentence prediction); 0: no such head, as in
        the original.
      num_token_predictions: masked slots of an example.
      mlm_activation: of the masked-LM head.
      mlm_initializer: of all heads.
      output_type: 'logits', or 'predictions' for log-probabilities as `lm_outputs`.
      disallow_correct: whether the generator may not sample the original token.
      discriminator_activation: of the discriminator's head; None: `mlm_activation`.
      sampling_temperature: of the softmax that replacements are sampled from.
      uniform_generator: whether replacements are drawn uniformly from the vocabulary, without a generator;
        `lm_outputs` are 0, the logits of that distribution.
    """

    def __init__(
        self,
        generator_network: tf_keras.layers.Layer | None,
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
        uniform_generator: bool = False,
        name: str | None = None,
    ):
        # Keras would cast the float features, whose float32 digits count, to the compute dtype.
        super().__init__(name=name, autocast=False)
        if (generator_network is None) != uniform_generator or (uniform_generator and num_classes):
            raise ValueError("uniform_generator replaces generator_network and its sentence head")
        for role, network in (("generator", generator_network), ("discriminator", discriminator_network)):
            table_rows = vocab_size if network is None else network.get_embedding_table().shape[0]
            if table_rows != vocab_size:
                raise ValueError(f"vocab_size={vocab_size} but the {role}'s word table has {table_rows} rows")
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
        self.uniform_generator = uniform_generator
        self.discriminator_activation = tf_keras.activations.get(discriminator_activation or mlm_activation)

        self.masked_lm = None
        if generator_network is not None:
            self.masked_lm = self.new_masked_lm(
                generator_network, self.mlm_activation, self._new_initializer(), "generator_masked_lm"
            )
        self.classification = None
        if generator_network is not None and num_classes:
            self.classification = ClassificationHead(
                inner_dim=generator_network.get_config()["hidden_size"],
                num_classes=num_classes,
                initializer=self._new_initializer(),
                name="generator_classification_head",
            )
        hidden_size = discriminator_network.get_config()["hidden_size"]
        if hasattr(discriminator_network, "new_prediction_head"):
            self.discriminator_projection = discriminator_network.new_prediction_head()
            initializer = truncated_normal(hidden_size**-0.5)
        else:
            self.discriminator_projection = tf_keras.layers.Dense(
                units=hidden_size,
                activation=self.discriminator_activation,
                kernel_initializer=self._new_initializer(),
                name="discriminator_projection_head",
            )
            # The original starts this one kernel, unlike all others, from Glorot's uniform distribution.
            initializer = "glorot_uniform"
        # Float32 in every precision: one logit a token costs nothing, and is compared with others to many digits.
        self.discriminator_head = tf_keras.layers.Dense(
            units=1, kernel_initializer=initializer, dtype=tf.float32, name="discriminator_head"
        )

    def call(self, inputs, training=None, seed=None, before_discriminator=None):
        """Returns the outputs of both networks.

        Args:
          inputs: dict of int [batch, seq_length] `input_word_ids` (masked), `input_mask`, `input_type_ids`, and
            [batch, num_token_predictions] `masked_lm_positions`, `masked_lm_ids`, `masked_lm_weights` (absent: slots at
            position 0 are unused); optionally `sampling_uniform`, the draws to sample with, and
            `sampling_temperature`, float32 scalar, in place of the constructor's.
          training: whether to drop out.
          seed: int32 [2] that dropout, and sampling where `sampling_uniform` is absent, follow from; None: drawn from
            TensorFlow's global generator.
          before_discriminator: called with the generator's outputs and what the discriminator will see, dicts of
            tensors, and returns the latter.

        Returns:
          Dict of `lm_outputs` float32 [batch, num_token_predictions, vocab_size], `sentence_outputs` float32
          [batch, num_classes], `disc_logits` float32 [batch, seq_length], `disc_label` int32 [batch, seq_length]
          (1 where the token that the discriminator saw differs from the original).
        """
        inputs = self._complete(inputs)
        lm_logits, sentence_outputs = self._generate(inputs, training, sub_seed(seed, 0))
        generated = {
            "lm_outputs": lm_logits if self.output_type == "logits" else tf.nn.log_softmax(lm_logits),
            "sentence_outputs": sentence_outputs,
        }
        corrupted, labels = self._corrupt(inputs, lm_logits, seed)
        if before_discriminator is not None:
            corrupted = before_discriminator(generated, corrupted)
        return {**generated, **self._judge(inputs, corrupted, training, seed), "disc_label": labels}

    def _complete(self, inputs):
        """Returns the inputs as int32, and the weights of slots where they are absent."""
        inputs = {name: value if name in _FLOATS else tf.cast(value, tf.int32) for name, value in inputs.items()}
        if features.MASKED_LM_WEIGHTS not in inputs:
            inputs[features.MASKED_LM_WEIGHTS] = tf.cast(inputs[features.MASKED_LM_POSITIONS] > 0, tf.float32)
        return inputs

    def _corrupt(self, inputs, lm_logits, seed):
        """Returns the corrupted batch, with samples of the generator, and its labels (`corrupt`)."""
        sampled_ids = sample_tokens(
            lm_logits,
            self._sampling_uniform(inputs, sub_seed(seed, 1)),
            inputs[features.MASKED_LM_IDS] if self.disallow_correct else None,
            inputs.get(features.SAMPLING_TEMPERATURE, self.sampling_temperature),
        )
        return corrupt(inputs, sampled_ids)

    def _judge(self, inputs, corrupted, training, seed):
        """Returns what the discriminator makes of the corrupted batch, `disc_logits`."""
        return {"disc_logits": self._discriminate(corrupted, training, sub_seed(seed, 2))}

    def _discriminate(self, corrupted, training, seed):
        """Returns what the discriminator's head has of each token, float32 [batch, seq_length]."""
        return self._detect(encode(self.discriminator_network, corrupted, training, seed))

    def _detect(self, encoded):
        return tf.squeeze(self.discriminator_head(self.discriminator_projection(encoded)), axis=-1)

    def _generate(self, inputs, training, seed):
        """Returns (logits of the masked slots, outputs of the sentence head), float32."""
        positions = inputs[features.MASKED_LM_POSITIONS]
        no_classes = tf.zeros([tf.shape(positions)[0], 0], tf.float32)
        if self.generator_network is None or self.masked_lm is None:
            return tf.zeros([*tf.unstack(tf.shape(positions)), self.vocab_size], tf.float32), no_classes
        # What does not learn needs no dropout, which would only blur its samples.
        encoded = encode(self.generator_network, inputs, training and self.generator_network.trainable, seed)
        lm_logits = tf.cast(self.masked_lm(encoded, positions), tf.float32)
        if self.classification is None:
            return lm_logits, no_classes
        return lm_logits, tf.cast(self.classification(encoded), tf.float32)

    def _sampling_uniform(self, inputs, seed):
        if features.SAMPLING_UNIFORM in inputs:
            return inputs[features.SAMPLING_UNIFORM]
        shape = tf.shape(inputs[features.MASKED_LM_IDS])
        return tf.random.uniform(shape) if seed is None else randomness.uniform(shape, seed)

    def _new_initializer(self) -> tf_keras.initializers.Initializer:
        return self.mlm_initializer.__class__.from_config(self.mlm_initializer.get_config())

    @property
    def networks(self) -> dict[str, tf_keras.layers.Layer]:
        """Discriminator and, where there is one, generator."""
        networks = {"discriminator": self.discriminator_network, "generator": self.generator_network}
        return {role: network for role, network in networks.items() if network is not None}

    @property
    def checkpoint_items(self) -> dict[str, tf_keras.layers.Layer]:
        """The discriminator as trained, not its average, as 'encoder'."""
        return {"encoder": self.discriminator_network}

    def get_config(self):
        """Returns the constructor's arguments; JSON can hold them. A copy's networks share no embeddings."""
        generator = self.generator_network
        if generator is not None:
            is_tied = generator is self.discriminator_network
            generator = _TIED if is_tied else tf_keras.layers.serialize(generator)
        return {
            "generator_network": generator,
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
            "uniform_generator": self.uniform_generator,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Builds the model again from `get_config()`.

        Encoders of tf-models-official write their default activation, the tanh form of GELU, without a name. Every
        nameless activation is taken for it, with a warning.
        """
        if "<lambda>" in str(config):
            logging.warning("nameless activations in the config of a network are taken for the tanh form of GELU")
        config = dict(config)
        nameless = {"<lambda>": lambda x: tf.nn.gelu(x, approximate=True)}
        with tf_keras.utils.custom_object_scope({**nameless, **(custom_objects or {})}):
            discriminator = tf_keras.layers.deserialize(config.pop("discriminator_network"))
            generator = config.pop("generator_network")
            if generator == _TIED:
                generator = discriminator
            elif generator is not None:
                generator = tf_keras.layers.deserialize(generator)
        return cls(generator, discriminator, **config)


# Stands for the generator in `get_config` where the discriminator is both.
_TIED = "discriminator_network"
_FLOATS = (features.MASKED_LM_WEIGHTS, features.SAMPLING_UNIFORM, features.SAMPLING_TEMPERATURE)


def sample_tokens(
    logits: tf.Tensor, uniform: tf.Tensor, disallowed_ids: tf.Tensor | None = None, temperature: float | tf.Tensor = 1.0
) -> tf.Tensor:
    """Samples one token a slot from softmax(logits / temperature), by inverting the cumulative distribution.

    One uniform number decides a slot, so that the sample depends on the example and not on the replica that draws it.
    The cumulative sum runs over blocks of about sqrt(vocab_size) entries and then within one block, so that float32
    sums stay short and only the weights have the logits' size. Blocks are multiples of a TPU's 128 lanes, to which it
    would pad a copy of them.

    Args:
      logits: float [batch, num_token_predictions, vocab_size].
      uniform: float32 [batch, num_token_predictions], in [0, 1).
      disallowed_ids: int [batch, num_token_predictions] or [batch, num_token_predictions, n], the ids at each slot that
        must not be drawn; None: all may.

    Returns int32 [batch, num_token_predictions], through which no gradient flows.
    """
    vocab_size = logits.shape[-1]
    shape, uniform = tf.shape(uniform), tf.reshape(tf.cast(uniform, tf.float32), [-1])
    block_size = 128 * math.ceil(math.sqrt(vocab_size) / 128)
    num_blocks = math.ceil(vocab_size / block_size)
    # A row for each slot of the batch, since TPUs would pad the slots of each example. The vocabulary is padded first:
    # what follows can then overwrite this one copy of the logits.
    logits = tf.reshape(tf.stop_gradient(tf.cast(logits, tf.float32)), [-1, vocab_size])
    logits = tf.pad(logits, [[0, 0], [0, num_blocks * block_size - vocab_size]], constant_values=-math.inf)
    if tf.is_tensor(temperature) or temperature != 1.0:
        logits /= temperature
    if disallowed_ids is not None:
        indices, num_ids = tf.range(num_blocks * block_size), math.prod(disallowed_ids.shape[2:])
        for ids in tf.split(tf.reshape(tf.cast(disallowed_ids, tf.int32), [-1, num_ids]), num_ids, axis=1):
            logits = tf.where(tf.equal(indices, ids), -math.inf, logits)
    weights = tf.exp(logits - tf.reduce_max(logits, axis=-1, keepdims=True))
    blocks = tf.reshape(weights, [-1, num_blocks, block_size])
    block_ends = tf.cumsum(tf.reduce_sum(blocks, axis=-1), axis=-1)
    threshold = uniform * block_ends[..., -1]
    block = _first_above(block_ends, threshold)
    before = tf.reduce_sum(
        tf.where(tf.equal(tf.range(num_blocks), block[..., tf.newaxis] - 1), block_ends, 0.0), axis=-1
    )
    ends = tf.cumsum(tf.gather(blocks, block, batch_dims=1), axis=-1)
    sampled = block * block_size + _first_above(ends, tf.maximum(threshold - before, 0.0))
    return tf.reshape(sampled, shape)


def _first_above(ends: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Returns int32 [...], the index of the first of ascending `ends` [..., n] that is greater than `threshold` [...].

    Where rounding puts the threshold at or above the last end, the index where that end is first reached.
    """
    below = tf.minimum(threshold, tf.math.nextafter(ends[..., -1], -1.0))[..., tf.newaxis]
    return tf.reduce_sum(tf.cast(ends <= below, tf.int32), axis=-1)


def put_at_positions(sequence: tf.Tensor, positions: tf.Tensor, values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns `sequence`, int32 [batch, seq_length], with `values` at `positions`.

    Args:
      positions: int [batch, n]; any position may be written, 0 too. Of values for one position the greatest is taken.
      values: int [batch, n], none negative.
      weights: float [batch, n]; slots of weight 0 write nothing.
    """
    indices = tf.range(sequence.shape[1])[tf.newaxis, tf.newaxis, :]
    hits = tf.equal(tf.cast(positions, tf.int32)[..., tf.newaxis], indices) & (weights > 0)[..., tf.newaxis]
    # A comparison and a maximum instead of a scatter: exact and reproducible on every device, and static for XLA.
    written = tf.reduce_max(tf.where(hits, tf.cast(values, tf.int32)[..., tf.newaxis], -1), axis=1)
    return tf.where(written >= 0, written, sequence)


def unmask(inputs: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns the original tokens of a masked batch, int32 [batch, seq_length]."""
    masked_ids = tf.cast(inputs[features.INPUT_WORD_IDS], tf.int32)
    slots = (features.MASKED_LM_POSITIONS, features.MASKED_LM_IDS, features.MASKED_LM_WEIGHTS)
    return put_at_positions(masked_ids, *(inputs[name] for name in slots))


def corrupt(inputs: dict[str, tf.Tensor], sampled_ids: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Replaces the masked tokens of a batch by sampled ones, int32 [batch, num_token_predictions].

    Returns the encoder's inputs of the corrupted batch, and labels int32 [batch, seq_length], 1 where a token differs
    from the original.
    """
    positions, weights = inputs[features.MASKED_LM_POSITIONS], inputs[features.MASKED_LM_WEIGHTS]
    original_ids = unmask(inputs)
    corrupted_ids = put_at_positions(original_ids, positions, sampled_ids, weights)
    corrupted = {name: inputs[name] for name in features.encoder_inputs(inputs)}
    corrupted[features.INPUT_WORD_IDS] = corrupted_ids
    return corrupted, tf.cast(tf.not_equal(corrupted_ids, original_ids), tf.int32)
