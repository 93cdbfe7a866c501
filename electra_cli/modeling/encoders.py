"""Generator and discriminator networks, with the embeddings that they share."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import tensorflow as tf
import tf_keras

from electra_cli.config.checks import MODERN_KEYS
from electra_cli.modeling import features
from electra_cli.modeling.layers import Dense, ElectraEmbeddings, Encoder, TransformerBlock, sub_seed, truncated_normal
from electra_cli.modeling.modern import ModernEncoder


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class ElectraEncoder(Encoder):
    """A stack of `TransformerBlock`s, which are BERT's, on embeddings that are projected to its width."""

    def __init__(
        self,
        embeddings: ElectraEmbeddings,
        hidden_size: int,
        num_layers: int,
        num_attention_heads: int,
        intermediate_size: int,
        hidden_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        initializer_range: float = 0.02,
        remat: bool = False,
        attention: str = "full",
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
            "direction": direction,
        }
        super().__init__(embeddings, settings, **kwargs)
        if self.embeddings.embedding_size != hidden_size:
            self.embedding_projection = Dense(
                hidden_size, kernel_initializer=truncated_normal(initializer_range), name="embedding_projection"
            )
        self.transformer_layers = [
            TransformerBlock(
                hidden_size,
                num_attention_heads,
                intermediate_size,
                hidden_dropout,
                attention_dropout,
                initializer_range,
                name=f"layer_{index}",
            )
            for index in range(num_layers)
        ]


def encode(
    network: tf_keras.layers.Layer, inputs: dict[str, tf.Tensor], training: bool | None, seed: tf.Tensor | None
) -> tf.Tensor:
    """Returns the last layer's output [batch, seq_length, hidden_size] of an encoder of ours or tf-models-official's.

    It is called on `features.UNMASKED` and, if given, `features.PACKED` of the inputs; with `seed`, int32 [2], if it
    takes one.
    """
    encoder_inputs = {name: inputs[name] for name in features.encoder_inputs(inputs)}
    if "seed" in inspect.signature(network.call).parameters:
        output = network(encoder_inputs, training=training, seed=seed)["sequence_output"]
    else:
        output = network(encoder_inputs, training=training)["sequence_output"]
    # Encoders of tf-models-official may return the outputs of all layers.
    return output[-1] if isinstance(output, list) else output


def build_generator(config: ml_collections.FrozenConfigDict, embeddings: ElectraEmbeddings | None = None) -> Encoder:
    """Builds the generator of a resolved config, with embeddings of its own unless given some."""
    model = _generator_model(config)
    return build_encoder(model, "generator", embeddings or build_embeddings(model, "generator_embeddings"))


class TwoTowers(tf_keras.layers.Layer):
    """The generator of Electric: two encoders, one that reads from left to right, one from right to left.

    At each position it has the left one's state of the token before, and the right one's of the token after, so that it
    does not see the token itself; zeros where that token belongs to no or another document.
    """

    def __init__(self, left: Encoder, right: Encoder, **kwargs):
        super().__init__(**kwargs)
        self.left, self.right = left, right
        self.embeddings = left.embeddings
        if hasattr(left, "new_prediction_head"):
            self.new_prediction_head = left.new_prediction_head

    def call(self, inputs, training=None, seed=None):
        """Returns `sequence_output` [batch, seq_length, 2 x hidden_size]; the arguments are those of `Encoder`."""
        left, right = (
            tower(inputs, training=training, seed=sub_seed(seed, index))["sequence_output"]
            for index, tower in enumerate((self.left, self.right))
        )
        segments = inputs.get(features.DOCUMENT_IDS, inputs[features.INPUT_MASK])
        follows = tf.cast(tf.equal(segments[:, 1:], segments[:, :-1]), left.dtype)[..., tf.newaxis]
        before = tf.pad(left[:, :-1] * follows, [[0, 0], [1, 0], [0, 0]])
        after = tf.pad(right[:, 1:] * follows, [[0, 0], [0, 1], [0, 0]])
        return {"sequence_output": tf.concat([before, after], axis=-1)}

    def get_embedding_table(self) -> tf.Variable:
        """Returns the word table, float32 [vocab_size, embedding_size]."""
        return self.embeddings.word_table()


def build_towers(config: ml_collections.FrozenConfigDict) -> TwoTowers:
    """Builds the two encoders of a resolved config, each of the generator's size."""
    model = _generator_model(config)
    embeddings = build_embeddings(model, "generator_embeddings")
    left, right = (
        build_encoder(model, name, embeddings, direction)
        for name, direction in (("left_to_right", 1), ("right_to_left", -1))
    )
    return TwoTowers(left, right, name="generator")


def build_discriminator(
    config: ml_collections.FrozenConfigDict,
    generator_embeddings: ElectraEmbeddings | None = None,
    name: str = "discriminator",
) -> Encoder:
    """Builds the discriminator of a resolved config, sharing embeddings by `model.embedding_sharing` if given some."""
    model, sharing = _model(config), config.model.embedding_sharing
    if generator_embeddings is not None and sharing == "all":
        embeddings = generator_embeddings
    else:
        embeddings = build_embeddings(
            model,
            "embeddings",
            word_embeddings_of=generator_embeddings if sharing == "word" else None,
            added_to=generator_embeddings if sharing == "gradient_disentangled" else None,
        )
    return build_encoder(model, name, embeddings)


def _generator_model(config: ml_collections.FrozenConfigDict) -> dict[str, Any]:
    return {**_model(config), **{name: config.derived[f"generator_{name}"] for name in _SIZES}}


def _model(config: ml_collections.FrozenConfigDict) -> dict[str, Any]:
    of_run = {"vocab_size": config.derived.vocab_size, "attention": config.runtime.attention}
    return {**config.model.to_dict(), **of_run}


@dataclasses.dataclass(frozen=True)
class _Architecture:
    """How the networks of a value of `model.architecture` are built from the keys of the section `model`."""

    encoder: Callable[..., Encoder]
    keys: tuple[str, ...]  # that the encoder takes beside those of all encoders
    embeddings: Callable[[Mapping[str, Any]], dict[str, Any]]  # arguments of `ElectraEmbeddings`


_ARCHITECTURES = {
    "electra": _Architecture(
        ElectraEncoder,
        keys=(),
        embeddings=lambda model: {
            name: model[name] for name in ("embedding_size", "max_position_embeddings", "type_vocab_size")
        },
    ),
    "modern": _Architecture(
        ModernEncoder,
        keys=MODERN_KEYS,
        embeddings=lambda model: {
            "embedding_size": model["hidden_size"],
            "max_position_embeddings": None,
            "type_vocab_size": None,
            "norm_epsilon": model["norm_epsilon"],
            "norm_has_bias": False,
        },
    ),
}
_SIZES = ("hidden_size", "num_layers", "num_attention_heads", "intermediate_size")
_SETTINGS = ("hidden_dropout", "attention_dropout", "initializer_range", "remat", "attention")


def build_encoder(model: Mapping[str, Any], name: str, embeddings: ElectraEmbeddings, direction: int = 0) -> Encoder:
    """Builds an encoder from values by the names of keys of the section `model`, all set, and of `attention`.

    `direction` is as of `layers.visible`.
    """
    architecture = _ARCHITECTURES[model["architecture"]]
    settings = {key: model[key] for key in (*_SIZES, *_SETTINGS, *architecture.keys)}
    return architecture.encoder(embeddings, **settings, direction=direction, name=name)


def build_embeddings(model: Mapping[str, Any], name: str, **sharing: Any) -> ElectraEmbeddings:
    """Builds the embeddings of an encoder; `sharing` are arguments of `ElectraEmbeddings`."""
    settings = _ARCHITECTURES[model["architecture"]].embeddings(model)
    return ElectraEmbeddings(
        model["vocab_size"], **settings, initializer_range=model["initializer_range"], **sharing, name=name
    )
