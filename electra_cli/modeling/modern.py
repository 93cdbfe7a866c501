"""The encoder of ModernBERT (arXiv 2412.13663, section 2.1), with its heads: `model.architecture=modern`.

It computes what `modernbert` of Hugging Face transformers does: blocks with LayerNorm in front (pre-norm) and without
biases, rotary positions (arXiv 2104.09864), GeGLU (arXiv 2002.05202), and layers that see a window only, between those
that see the complete document.
"""

import math

import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.modeling import features, fused
from electra_cli.modeling.layers import (
    NUM_DROPOUTS,
    Dense,
    ElectraEmbeddings,
    Encoder,
    LayerNorm,
    gelu,
    self_attention,
    truncated_normal,
    visible,
)


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class ModernEncoder(Encoder):
    """A stack of `ModernBlock`s and a final LayerNorm, on word embeddings of its own width.

    Args:
      embeddings: without position and type tables.
      global_attention_every: layer i attends to the complete document where i is a multiple, others to a window.
      local_attention: tokens that the window spans: half of it to each side.
      global_rope_theta: base of the angles of rotary positions in the first kind of layer.
      local_rope_theta: the same in the second kind.
      norm_epsilon: of all its `LayerNorm`s.

    The others are as of `ElectraEncoder`. Layers that write to the residual stream start smaller than the rest, by the
    square root of twice the number of layers.
    """

    def __init__(
        self,
        embeddings: ElectraEmbeddings,
        hidden_size: int,
        num_layers: int,
        num_attention_heads: int,
        intermediate_size: int,
        hidden_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        initializer_range: float = 0.02,
        remat: bool = False,
        attention: str = "full",
        global_attention_every: int = 3,
        local_attention: int = 128,
        global_rope_theta: float = 160_000.0,
        local_rope_theta: float = 10_000.0,
        norm_epsilon: float = 1e-5,
        direction: int = 0,
        **kwargs,
    ):
        settings = {
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_attention_heads": num_attention_heads,
            "intermediate_size": intermediate_size,
            "hidden_dropout": hidden_dropout,
            "attention_dropout": attention_dropout,
            "initializer_range": initializer_range,
            "remat": remat,
            "attention": attention,
            "global_attention_every": global_attention_every,
            "local_attention": local_attention,
            "global_rope_theta": global_rope_theta,
            "local_rope_theta": local_rope_theta,
            "norm_epsilon": norm_epsilon,
            "direction": direction,
        }
        super().__init__(embeddings, settings, **kwargs)
        if hidden_size % (2 * num_attention_heads):
            raise ValueError(f"{num_attention_heads} heads of width {hidden_size} have no halves to rotate")
        if self.embeddings.embedding_size != hidden_size:
            raise ValueError(f"embeddings of width {self.embeddings.embedding_size} do not fit {hidden_size}")
        self._output_range = initializer_range / math.sqrt(2.0 * num_layers)
        self.transformer_layers = [
            ModernBlock(
                hidden_size,
                num_attention_heads,
                intermediate_size,
                hidden_dropout,
                attention_dropout,
                initializer_range,
                self._output_range,
                norm_epsilon,
                has_attention_norm=index > 0,  # the embeddings' is in front of the first
                name=f"layer_{index}",
            )
            for index in range(num_layers)
        ]
        self.final_norm = LayerNorm(norm_epsilon, has_bias=False, name="final_layer_norm")

    def _contexts(self, inputs):
        """Returns what each block sees, and angles of positions for it."""
        word_ids = inputs[features.INPUT_WORD_IDS]
        # The minimum is 0, which TensorFlow cannot know: angles of constants would become literals of every layer.
        tokens = tf.range(tf.shape(word_ids)[1]) + tf.minimum(tf.cast(word_ids[:1, :1], tf.int32), 0)
        positions = inputs.get(features.POSITION_IDS, tokens)
        head_size = self._settings["hidden_size"] // self._settings["num_attention_heads"]
        window = self._settings["local_attention"] // 2
        of_global = (
            visible(inputs, self.attention, direction=self.direction),
            rotation(positions, head_size, self._settings["global_rope_theta"]),
        )
        of_local = (
            visible(inputs, self.attention, window, self.direction),
            rotation(positions, head_size, self._settings["local_rope_theta"]),
        )
        every = self._settings["global_attention_every"]
        return [of_local if index % every else of_global for index in range(self._settings["num_layers"])]

    def new_prediction_head(self) -> "PredictionHead":
        """Returns a new head to predict tokens, or labels of tokens, from its output."""
        return PredictionHead(
            self._settings["hidden_size"], self._output_range, self._settings["norm_epsilon"], name="prediction_head"
        )


class ModernBlock(tf_keras.layers.Layer):
    """Self-attention and feed-forward layer, each with LayerNorm in front, dropout and residual behind it (pre-norm).

    Query, key and value are one product, as in `TransformerBlock`; so are the two halves of the feed-forward layer,
    of which one, after GELU, gates the other.

    Args:
      initializer_range: standard deviation of the initial weights.
      output_range: the same, of those that write to the residual stream.
      has_attention_norm: whether there is a LayerNorm in front of self-attention.

    The others are as of `TransformerBlock`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        intermediate_size: int,
        hidden_dropout: float,
        attention_dropout: float,
        initializer_range: float,
        output_range: float,
        norm_epsilon: float,
        has_attention_norm: bool,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_attention_heads = num_attention_heads
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout

        def dense(name: str, units: int, stddev: float) -> Dense:
            return Dense(units, use_bias=False, kernel_initializer=truncated_normal(stddev), name=name)

        self.attention_norm = None
        if has_attention_norm:
            self.attention_norm = LayerNorm(norm_epsilon, has_bias=False, name="attention_layer_norm")
        self.query_key_value = dense("query_key_value", 3 * hidden_size, initializer_range)
        self.attention_output = dense("attention_output", hidden_size, output_range)
        self.intermediate_norm = LayerNorm(norm_epsilon, has_bias=False, name="intermediate_layer_norm")
        self.intermediate = dense("intermediate", 2 * intermediate_size, initializer_range)
        self.output_dense = dense("output", hidden_size, output_range)

    def call(self, x, seen, rotation, keys=(None,) * NUM_DROPOUTS, remat=False):
        """Transforms `x` [batch, seq_length, hidden_size] to the same shape and dtype.

        `seen` and `rotation` are as of `self_attention`, `keys` and `remat` as of `TransformerBlock`.
        """

        def attend(x):
            x = x if self.attention_norm is None else self.attention_norm(x)
            projected = self.query_key_value(x)
            return self_attention(projected, self.num_attention_heads, seen, self.attention_dropout, keys[0], rotation)

        def transform(inner):
            gated, gate = tf.split(inner, 2, axis=-1)
            return self.output_dense(gelu(gated) * gate)

        if remat:
            attend, transform = tf.recompute_grad(attend), tf.recompute_grad(transform)
        x += fused.dropout(self.attention_output(attend(x)), self.hidden_dropout, keys[1])
        transformed = transform(self.intermediate(self.intermediate_norm(x)))
        return x + fused.dropout(transformed, self.hidden_dropout, keys[2])


def rotation(positions: tf.Tensor, head_size: int, theta: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns cosine and sine of the angles of rotary positions, float32 [rows, 1, seq_length, head_size / 2].

    Args:
      positions: int32 [rows, seq_length].
      head_size: even.
      theta: base; pair i of a head turns by theta^(-2 i / head_size) from one position to the next, in radians.
    """
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    angles = tf.cast(positions, tf.float32)[:, tf.newaxis, :, tf.newaxis] * (1.0 / np.float32(theta) ** exponents)
    return tf.cos(angles), tf.sin(angles)


class PredictionHead(tf_keras.layers.Layer):
    """A layer without bias, GELU and LayerNorm: what predictions of tokens are made from."""

    def __init__(self, hidden_size: int, initializer_range: float, norm_epsilon: float, **kwargs):
        super().__init__(**kwargs)
        initializer = truncated_normal(initializer_range)
        self.dense = Dense(hidden_size, use_bias=False, kernel_initializer=initializer, name="dense")
        self.layer_norm = LayerNorm(norm_epsilon, has_bias=False, name="layer_norm")

    def call(self, x):
        """Transforms `x` [..., hidden_size] to the same shape and dtype."""
        return self.layer_norm(gelu(self.dense(x)))


class ModernMaskedLM(tf_keras.layers.Layer):
    """Predicts tokens by a `PredictionHead` and the word table [vocab_size, hidden_size], with a bias of each token.

    Called as `MaskedLM` of tf-models-official is, whose names of attributes it has.
    """

    def __init__(self, embedding_table: tf.Variable, head: PredictionHead, **kwargs):
        super().__init__(**kwargs)
        self.embedding_table = embedding_table
        self.head = head

    def build(self, input_shape):
        """Creates the bias, float32 [vocab_size]."""
        self.bias = self.add_weight("output_bias", [self.embedding_table.shape[0]], tf.float32, "zeros")
        super().build(input_shape)

    def call(self, encoded, positions):
        """Returns logits [batch, n, vocab_size] at `positions`, int [batch, n], in the compute dtype.

        `encoded` is [batch, seq_length, hidden_size].
        """
        x = self.head(tf.gather(encoded, positions, batch_dims=1))
        rows = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), self.embedding_table, transpose_b=True)
        return tf.reshape(tf.nn.bias_add(rows, self.bias), [-1, tf.shape(positions)[1], self.embedding_table.shape[0]])

    @property
    def dense(self) -> Dense:
        """The layer of the head."""
        return self.head.dense

    @property
    def layer_norm(self) -> LayerNorm:
        """The LayerNorm of the head."""
        return self.head.layer_norm
