"""The layers of ELECTRA's encoders: embeddings, self-attention block, and dropout that follows from a seed.

They compute what google-research/electra's do: exact GELU, LayerNorm with an epsilon of 1e-12, and -10000 added to the
scores of padding. Unlike Keras' layers they keep no random state: the caller gives the seed.
"""

import tensorflow as tf
import tf_keras

from electra_cli.modeling import fused, randomness

# Added to the attention scores of padded keys.
PADDING_SCORE = -10_000.0


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
def gelu(x: tf.Tensor) -> tf.Tensor:
    """The exact GELU (with erf, not its tanh approximation), of any float dtype and shape."""
    return fused.gelu(x)


def sub_seed(seed: tf.Tensor | None, index: int) -> tf.Tensor | None:
    """Returns the seed of part `index` of what `seed` (int32 [2] or None) is for."""
    return None if seed is None else randomness.fold_in(seed, index)


def truncated_normal(stddev: float) -> tf_keras.initializers.Initializer:
    """Returns a new initializer (Keras wants one for each weight)."""
    return tf_keras.initializers.TruncatedNormal(stddev=stddev)


class LayerNorm(tf_keras.layers.Layer):
    """LayerNorm over the last axis, computed in float32 whatever the compute dtype."""

    def build(self, input_shape):
        """Creates gamma and beta, float32 [width]."""
        width = input_shape[-1]
        self.gamma = self.add_weight("gamma", [width], tf.float32, "ones", experimental_autocast=False)
        self.beta = self.add_weight("beta", [width], tf.float32, "zeros", experimental_autocast=False)
        super().build(input_shape)

    def call(self, x, residual=None, rate=0.0, seed=None):
        """Normalizes `x` [..., width], or residual + dropout(x); keeps its dtype."""
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        if residual is None:
            return fused.layer_norm(x, gamma, beta)
        return fused.add_and_norm(x, residual, gamma, beta, rate, seed)


class Dense(tf_keras.layers.Dense):
    """Keras' layer without activation, with product and bias in one operation and a quicker gradient of the bias."""

    def call(self, x):
        """Returns `x` [batch, ..., inputs] @ kernel + bias."""
        return fused.affine(x, tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias))


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class ElectraEmbeddings(tf_keras.layers.Layer):
    """Sum of word, position and type embeddings, then LayerNorm.

    Args:
      initializer_range: standard deviation of the initial weights.
      word_embeddings_of: embeddings whose word table this layer uses as its own.
      added_to: embeddings to whose three sums this layer adds its own, which start at 0, without changing them: the
        gradient-disentangled sharing of DeBERTaV3 (arXiv 2111.09543, section 3.3, equation 5).
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        initializer_range: float = 0.02,
        word_embeddings_of: "ElectraEmbeddings | None" = None,
        added_to: "ElectraEmbeddings | None" = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.initializer_range = initializer_range

        if isinstance(added_to, dict):  # from_config
            added_to = tf_keras.layers.deserialize(added_to)
        self.added_to = added_to

        def table(name: str, rows: int) -> tf.Variable:
            if added_to is not None:
                return self.add_weight(f"{name}_difference", [rows, embedding_size], tf.float32, "zeros")
            return self.add_weight(name, [rows, embedding_size], tf.float32, truncated_normal(initializer_range))

        self.word_embeddings: tf.Variable = (
            word_embeddings_of.word_embeddings if word_embeddings_of else table("word_embeddings", vocab_size)
        )
        self.position_embeddings = table("position_embeddings", max_position_embeddings)
        self.type_embeddings = table("type_embeddings", type_vocab_size)
        self.layer_norm = LayerNorm(name="layer_norm")

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
        if position_ids is None:
            embedded += self.position_embeddings[: tf.shape(word_ids)[1]]
        else:
            embedded += tf.gather(self.position_embeddings, position_ids)
        # A product with one-hot rows has a dense gradient; the table has two rows.
        one_hot = tf.one_hot(type_ids, self.type_vocab_size, dtype=embedded.dtype)
        return embedded + tf.matmul(one_hot, self.type_embeddings)

    def get_config(self):
        """Returns the constructor's arguments; a word table of another layer's becomes one of its own."""
        names = ("vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size", "initializer_range")
        added_to = self.added_to and tf_keras.layers.serialize(self.added_to)
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, "added_to": added_to}


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
        self.head_size = hidden_size // num_attention_heads
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

    def call(self, x, padding_scores, seed=None, remat=False):
        """Transforms `x` [batch, seq_length, hidden_size] to the same shape and dtype.

        Args:
          x: input.
          padding_scores: float32 [batch, 1, 1 or seq_length, seq_length], added to the attention scores.
          seed: int32 [2] for dropout, None for none.
          remat: whether query, key, value, attention probabilities and GELU are computed again for the gradients
            instead of kept: most of the memory of a block, and a quarter of its products (arXiv 2205.05198 chooses
            by the same measure).
        """

        def attend(x):
            return self._attend(x, padding_scores, sub_seed(seed, 0))

        def transform(inner):
            # The product itself is not needed, and is not computed, again.
            return self.output_dense(gelu(inner))

        if remat:
            attend, transform = tf.recompute_grad(attend), tf.recompute_grad(transform)
        x = self.attention_norm(self.attention_output(attend(x)), x, self.hidden_dropout, sub_seed(seed, 1))
        return self.output_norm(transform(self.intermediate(x)), x, self.hidden_dropout, sub_seed(seed, 2))

    def _attend(self, x: tf.Tensor, padding_scores: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        batch_size, length = tf.shape(x)[0], tf.shape(x)[1]
        projected = tf.reshape(
            self.query_key_value(x), [batch_size, length, 3, self.num_attention_heads, self.head_size]
        )
        query, key, value = tf.unstack(tf.transpose(projected, [2, 0, 3, 1, 4]))
        scores = tf.matmul(query, key, transpose_b=True)
        probabilities = fused.attention_probabilities(
            scores, padding_scores, self.head_size**-0.5, self.attention_dropout, seed
        )
        context = tf.transpose(tf.matmul(probabilities, value), [0, 2, 1, 3])
        return tf.reshape(context, [batch_size, length, self.num_attention_heads * self.head_size])
