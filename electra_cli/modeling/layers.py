"""The layers of ELECTRA's encoders: embeddings, self-attention block, and dropout that follows from a seed.

They compute what google-research/electra's do: exact GELU, LayerNorm with an epsilon of 1e-12, and -10000 added to the
scores of padding; `modern.py` makes others of the same parts. Unlike Keras' layers they keep no random state: the
caller gives the seed.
"""

from typing import Any

import tensorflow as tf
import tf_keras

from electra_cli.config.pretraining import attends_in_blocks
from electra_cli.modeling import blockwise, features, fused, randomness

NUM_DROPOUTS = 3  # in a block


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
def gelu(x: tf.Tensor) -> tf.Tensor:
    """The exact GELU (with erf, not its tanh approximation), of any float dtype and shape."""
    return fused.gelu(x)


def sub_seed(seed: tf.Tensor | None, index: int) -> tf.Tensor | None:
    """Returns the seed of part `index` of what `seed` (int32 [2] or None) is for."""
    return None if seed is None else randomness.fold_in(seed, index)


def dropout_keys(seed: tf.Tensor | None, count: int) -> list[tf.Tensor | None]:
    """Returns keys, uint32 [2], for `count` dropouts, that follow from `seed`, int [2]; None each if there is none."""
    return [None] * count if seed is None else tf.unstack(randomness.draw_keys(seed, count))


def truncated_normal(stddev: float) -> tf_keras.initializers.Initializer:
    """Returns a new initializer (Keras wants one for each weight)."""
    return tf_keras.initializers.TruncatedNormal(stddev=stddev)


def _to_tensor(variable: tf.Variable | None) -> tf.Tensor | None:
    return None if variable is None else tf.convert_to_tensor(variable)


class LayerNorm(tf_keras.layers.Layer):
    """LayerNorm over the last axis, computed in float32 whatever the compute dtype; `has_bias`: with an offset."""

    def __init__(self, epsilon: float = fused.LAYER_NORM_EPSILON, has_bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.has_bias = has_bias

    def build(self, input_shape):
        """Creates gamma and, if it has a bias, beta, float32 [width]."""
        width = input_shape[-1]
        self.gamma = self.add_weight("gamma", [width], tf.float32, "ones", experimental_autocast=False)
        self.beta = None
        if self.has_bias:
            self.beta = self.add_weight("beta", [width], tf.float32, "zeros", experimental_autocast=False)
        super().build(input_shape)

    def call(self, x, residual=None, rate=0.0, key=None):
        """Normalizes `x` [..., width], or residual + dropout(x); keeps its dtype."""
        gamma, beta = tf.convert_to_tensor(self.gamma), _to_tensor(self.beta)
        if residual is None:
            return fused.layer_norm(x, gamma, beta, self.epsilon)
        return fused.add_and_norm(x, residual, gamma, beta, rate, key, self.epsilon)


class Dense(tf_keras.layers.Dense):
    """Keras' layer without activation, with product and bias in one operation and a quicker gradient of the bias."""

    def call(self, x):
        """Returns `x` [batch, ..., inputs] @ kernel + bias, if it has one."""
        return fused.affine(x, tf.convert_to_tensor(self.kernel), _to_tensor(self.bias))


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class ElectraEmbeddings(tf_keras.layers.Layer):
    """Sum of word embeddings and, where there are such tables, position and type embeddings, then LayerNorm.

    Args:
      max_position_embeddings: rows of the position table; None: there is none.
      type_vocab_size: rows of the type table; None: there is none.
      initializer_range: standard deviation of the initial weights.
      word_embeddings_of: embeddings whose word table this layer uses as its own.
      added_to: embeddings to whose three sums this layer adds its own, which start at 0, without changing them: the
        gradient-disentangled sharing of DeBERTaV3 (arXiv 2111.09543, section 3.3, equation 5).
      norm_epsilon, norm_has_bias: of the `LayerNorm`.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        max_position_embeddings: int | None = 512,
        type_vocab_size: int | None = 2,
        initializer_range: float = 0.02,
        word_embeddings_of: "ElectraEmbeddings | None" = None,
        added_to: "ElectraEmbeddings | None" = None,
        norm_epsilon: float = fused.LAYER_NORM_EPSILON,
        norm_has_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.initializer_range = initializer_range
        self.norm_epsilon = norm_epsilon
        self.norm_has_bias = norm_has_bias

        if isinstance(added_to, dict):  # from_config
            added_to = tf_keras.layers.deserialize(added_to)
        self.added_to = added_to

        def table(name: str, rows: int | None) -> tf.Variable | None:
            if rows is None:
                return None
            if added_to is not None:
                return self.add_weight(f"{name}_difference", [rows, embedding_size], tf.float32, "zeros")
            return self.add_weight(name, [rows, embedding_size], tf.float32, truncated_normal(initializer_range))

        self.word_embeddings: tf.Variable = (
            word_embeddings_of.word_embeddings if word_embeddings_of else table("word_embeddings", vocab_size)
        )
        self.position_embeddings = table("position_embeddings", max_position_embeddings)
        self.type_embeddings = table("type_embeddings", type_vocab_size)
        self.layer_norm = LayerNorm(norm_epsilon, norm_has_bias, name="layer_norm")

    def call(self, word_ids, type_ids, position_ids=None):
        """Embeds int32 [batch, seq_length] ids, types and positions: [batch, seq_length, embedding_size].

        Without positions they are 0, 1, 2, ...
        """
        embedded = self._look_up(word_ids, type_ids, position_ids)
        if self.added_to is not None:
            embedded += tf.stop_gradient(self.added_to._look_up(word_ids, type_ids, position_ids))
        return self.layer_norm(embedded)

    def word_table(self) -> tf.Variable | tf.Tensor:
        """Returns the word table, float32 [vocab_size, embedding_size], that `call` looks ids up in."""
        if self.added_to is None:
            return self.word_embeddings
        return self.word_embeddings + tf.stop_gradient(self.added_to.word_table())

    def _look_up(self, word_ids: tf.Tensor, type_ids: tf.Tensor, position_ids: tf.Tensor | None) -> tf.Tensor:
        embedded = tf.gather(self.word_embeddings, word_ids)
        if self.position_embeddings is not None and position_ids is None:
            embedded += self.position_embeddings[: tf.shape(word_ids)[1]]
        elif self.position_embeddings is not None:
            embedded += tf.gather(self.position_embeddings, position_ids)
        if self.type_embeddings is None:
            return embedded
        # A product with one-hot rows has a dense gradient; the table has two rows.
        one_hot = tf.one_hot(type_ids, self.type_vocab_size, dtype=embedded.dtype)
        return embedded + tf.matmul(one_hot, self.type_embeddings)

    def get_config(self):
        """Returns the constructor's arguments; a word table of another layer's becomes one of its own."""
        sizes = ("vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size")
        names = (*sizes, "initializer_range", "norm_epsilon", "norm_has_bias")
        added_to = self.added_to and tf_keras.layers.serialize(self.added_to)
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, "added_to": added_to}


def visible(
    inputs: dict[str, tf.Tensor], attention: str, window: int | None = None, direction: int = 0
) -> "tf.Tensor | blockwise.Segments":
    """Returns which tokens each token attends to, as of `self_attention`.

    Args:
      inputs: as of the encoders.
      attention: as `runtime.attention`; full where the length is not known when a step is traced, as in a SavedModel.
      window: greatest distance; None: any.
      direction: 1: a token sees itself and those before it; -1: itself and those after it; 0: both sides.
    """
    length = inputs[features.INPUT_WORD_IDS].shape[1]
    if length is not None and window is not None and window >= length - 1:
        window = None
    if length is not None and attends_in_blocks(attention, length, window):
        documents, mask = inputs.get(features.DOCUMENT_IDS), inputs[features.INPUT_MASK]
        segments = (tf.ones_like(mask), mask) if documents is None else (documents, documents)
        return blockwise.Segments(*segments, window, direction)
    return _padding_scores(inputs, window, direction)


def _padding_scores(inputs: dict[str, tf.Tensor], window: int | None, direction: int) -> tf.Tensor:
    """Returns float32 [batch, 1, 1 or seq_length, seq_length], negative for keys that a query must not see."""
    if features.DOCUMENT_IDS in inputs:
        documents = inputs[features.DOCUMENT_IDS]
        is_other = tf.not_equal(documents[:, :, tf.newaxis], documents[:, tf.newaxis, :])
        scores = fused.PADDING_SCORE * tf.cast(is_other, tf.float32)[:, tf.newaxis]
    else:
        is_padding = 1.0 - tf.cast(inputs[features.INPUT_MASK], tf.float32)
        scores = fused.PADDING_SCORE * is_padding[:, tf.newaxis, tf.newaxis, :]
    if window is None and not direction:
        return scores
    tokens = tf.range(tf.shape(inputs[features.INPUT_WORD_IDS])[1])
    distances = tokens[:, tf.newaxis] - tokens
    if window is not None:
        scores = tf.minimum(scores, fused.PADDING_SCORE * tf.cast(tf.abs(distances) > window, tf.float32))
    if direction:
        scores = tf.minimum(scores, fused.PADDING_SCORE * tf.cast(direction * distances < 0, tf.float32))
    return scores


def self_attention(
    projected: tf.Tensor,
    num_heads: int,
    seen: "tf.Tensor | blockwise.Segments",
    rate: float,
    dropout_key: tf.Tensor | None,
    rotation: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> tf.Tensor:
    """Returns what each position gathers from those it attends to, [batch, seq_length, hidden_size].

    Args:
      projected: [batch, seq_length, 3 x hidden_size]: query, key, value, each head by head.
      num_heads: attention heads.
      seen: which tokens each attends to: float32 [batch, 1, 1 or seq_length, seq_length], added to the attention
        scores; or segments, for attention in blocks, which keeps no scores.
      rate: of the dropout of attention probabilities.
      dropout_key: uint32 [2], None for no dropout.
      rotation: cosine and sine, float32 [1 or batch, 1, seq_length, head_size / 2], of the angles that queries and keys
        are rotated by; None: they are not.
    """
    batch_size, length, hidden_size = tf.shape(projected)[0], tf.shape(projected)[1], projected.shape[-1] // 3
    head_size = hidden_size // num_heads
    projected = tf.reshape(projected, [batch_size, length, 3, num_heads, head_size])
    query, key, value = tf.unstack(tf.transpose(projected, [2, 0, 3, 1, 4]))
    if rotation is not None:
        query, key = fused.rotate(query, *rotation), fused.rotate(key, *rotation)
    if isinstance(seen, blockwise.Segments):
        context = blockwise.attention(query, key, value, seen, head_size**-0.5, rate, dropout_key)
    else:
        scores = tf.matmul(query, key, transpose_b=True)
        probabilities = fused.attention_probabilities(scores, seen, head_size**-0.5, rate, dropout_key)
        context = tf.matmul(probabilities, value)
    return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [batch_size, length, hidden_size])


class TransformerBlock(tf_keras.layers.Layer):
    """Self-attention and feed-forward layer, each with dropout, residual and LayerNorm behind it (post-norm).

    Query, key and value are one product. The kernel's columns are query, key, value, each head by head.

    Args:
      hidden_size: must be a multiple of the number of heads.
      hidden_dropout: rate after attention and after the feed-forward layer.
      attention_dropout: rate of the attention probabilities.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        intermediate_size: int,
        hidden_dropout: float,
        attention_dropout: float,
        initializer_range: float,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_attention_heads = num_attention_heads
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout

        def dense(name: str, units: int) -> Dense:
            return Dense(units, kernel_initializer=truncated_normal(initializer_range), name=name)

        self.query_key_value = dense("query_key_value", 3 * hidden_size)
        self.attention_output = dense("attention_output", hidden_size)
        self.attention_norm = LayerNorm(name="attention_layer_norm")
        self.intermediate = dense("intermediate", intermediate_size)
        self.output_dense = dense("output", hidden_size)
        self.output_norm = LayerNorm(name="output_layer_norm")

    def call(self, x, seen, keys=(None,) * NUM_DROPOUTS, remat=False):
        """Transforms `x` [batch, seq_length, hidden_size] to the same shape and dtype.

        Args:
          x: input.
          seen: as of `self_attention`.
          keys: uint32 [2] for each dropout, None for none.
          remat: whether query, key, value, attention probabilities and GELU are computed again for the gradients
            instead of kept: most of the memory of a block, and a quarter of its products (arXiv 2205.05198 chooses
            by the same measure).
        """

        def attend(x):
            return self._attend(x, seen, keys[0])

        def transform(inner):
            # The product itself is not needed, and is not computed, again.
            return self.output_dense(gelu(inner))

        if remat:
            attend, transform = tf.recompute_grad(attend), tf.recompute_grad(transform)
        x = self.attention_norm(self.attention_output(attend(x)), x, self.hidden_dropout, keys[1])
        return self.output_norm(transform(self.intermediate(x)), x, self.hidden_dropout, keys[2])

    def _attend(self, x, seen, dropout_key):
        projected = self.query_key_value(x)
        return self_attention(projected, self.num_attention_heads, seen, self.attention_dropout, dropout_key)


class Encoder(tf_keras.layers.Layer):
    """A stack of blocks on embeddings, which another encoder may use too.

    A subclass sets `transformer_layers`, and may set `embedding_projection`, from embeddings to the width of the
    blocks, and `final_norm`, behind the last block.

    Args:
      settings: the other arguments of the subclass; `hidden_dropout` is also the rate for the embeddings, `remat` holds
        in training, `attention` and `direction` are as of `visible`. See `TransformerBlock`.
    """

    transformer_layers: list[tf_keras.layers.Layer]

    def __init__(self, embeddings: ElectraEmbeddings | dict, settings: dict[str, Any], **kwargs):
        super().__init__(**kwargs)
        self._settings = settings
        self.embeddings: ElectraEmbeddings = (
            tf_keras.layers.deserialize(embeddings) if isinstance(embeddings, dict) else embeddings  # of get_config
        )
        self.embedding_projection: Dense | None = None
        self.hidden_dropout = settings["hidden_dropout"]
        self.remat = settings["remat"]
        self.attention, self.direction = settings["attention"], settings["direction"]
        self.final_norm: LayerNorm | None = None

    def call(self, inputs, training=None, seed=None, lower=None):
        """Returns `sequence_output` [batch, seq_length, hidden_size] and `encoder_outputs`, a list of every layer's.

        The last of them is `sequence_output`, behind the final norm, if there is one.

        Args:
          inputs: dict of `features.UNMASKED` and, where an example holds several documents, `features.PACKED`; int32
            [batch, seq_length]. Documents of an example do not attend to each other.
          training: whether to drop out.
          seed: int32 [2] that dropout follows from; None: drawn from TensorFlow's global generator.
          lower: outputs of the first layers, of which the last is resumed from; None: all layers are computed.
        """
        if not training:
            seed = None
        elif seed is None:
            seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
        # All in one draw: each would be some hundred scalar operations, which accelerators compute one by one.
        first_key, *keys = dropout_keys(seed, 1 + NUM_DROPOUTS * len(self.transformer_layers))
        outputs = list(lower or ())
        x = outputs[-1] if outputs else self._embed(inputs, first_key)
        layers = list(enumerate(zip(self.transformer_layers, self._contexts(inputs), strict=True)))
        for index, (layer, context) in layers[len(outputs) :]:
            of_layer = keys[NUM_DROPOUTS * index : NUM_DROPOUTS * (index + 1)]
            x = layer(x, *context, keys=of_layer, remat=self.remat and training)
            outputs.append(x)
        if self.final_norm is not None:
            outputs[-1] = x = self.final_norm(x)
        return {"sequence_output": x, "encoder_outputs": outputs}

    def _embed(self, inputs: dict[str, tf.Tensor], key: tf.Tensor | None) -> tf.Tensor:
        position_ids = inputs.get(features.POSITION_IDS)
        x = self.embeddings(inputs[features.INPUT_WORD_IDS], inputs[features.INPUT_TYPE_IDS], position_ids)
        x = fused.dropout(x, self.hidden_dropout, key)
        return x if self.embedding_projection is None else self.embedding_projection(x)

    def share_layers(self, other: "Encoder", number: int) -> None:
        """Makes its first layers, and the projection of embeddings, those of another of its width; neither is built."""
        self.embedding_projection = other.embedding_projection
        self.transformer_layers = [*other.transformer_layers[:number], *self.transformer_layers[number:]]

    def _contexts(self, inputs: dict[str, tf.Tensor]) -> list[tuple]:
        """Returns for each block its arguments between its input and the keys."""
        return [(visible(inputs, self.attention, direction=self.direction),)] * len(self.transformer_layers)

    def get_embedding_table(self) -> tf.Variable:
        """Returns the word table, float32 [vocab_size, embedding_size]."""
        return self.embeddings.word_table()

    def get_config(self):
        """Returns the constructor's arguments; JSON can hold them."""
        return {**super().get_config(), **self._settings, "embeddings": tf_keras.layers.serialize(self.embeddings)}
