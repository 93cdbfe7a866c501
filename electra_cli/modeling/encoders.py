"""Generator and discriminator networks, with the embeddings that they share."""

import inspect
from typing import Any

import ml_collections
import tensorflow as tf
import tf_keras

from electra_cli.modeling import features
from electra_cli.modeling.layers import Dense, ElectraEmbeddings, Encoder, TransformerBlock, truncated_normal


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


def build_generator(config: ml_collections.FrozenConfigDict) -> ElectraEncoder:
    """Builds the generator of a resolved config."""
    sizes = {name: config.derived[f"generator_{name}"] for name in _SIZES}
    return _build_encoder(config, "generator", sizes, _build_embeddings(config, "generator_embeddings"))


def build_discriminator(
    config: ml_collections.FrozenConfigDict, generator_embeddings: ElectraEmbeddings | None = None
) -> ElectraEncoder:
    """Builds the discriminator of a resolved config, sharing embeddings by `model.embedding_sharing` if given some."""
    sharing = config.model.embedding_sharing
    if generator_embeddings is not None and sharing == "all":
        embeddings = generator_embeddings
    else:
        embeddings = _build_embeddings(
            config,
            "embeddings",
            word_embeddings_of=generator_embeddings if sharing == "word" else None,
            added_to=generator_embeddings if sharing == "gradient_disentangled" else None,
        )
    return _build_encoder(config, "discriminator", {name: config.model[name] for name in _SIZES}, embeddings)


_SIZES = ("hidden_size", "num_layers", "num_attention_heads", "intermediate_size")
_EMBEDDING_SETTINGS = ("embedding_size", "max_position_embeddings", "type_vocab_size", "initializer_range")
_SETTINGS = ("hidden_dropout", "attention_dropout", "initializer_range", "remat")


def _build_encoder(
    config: ml_collections.FrozenConfigDict, name: str, sizes: dict[str, int], embeddings: ElectraEmbeddings
) -> ElectraEncoder:
    settings: dict[str, Any] = {**sizes, **{setting: config.model[setting] for setting in _SETTINGS}}
    return ElectraEncoder(embeddings, **settings, name=name)


def _build_embeddings(config: ml_collections.FrozenConfigDict, name: str, **sharing: Any) -> ElectraEmbeddings:
    settings: dict[str, Any] = {key: config.model[key] for key in _EMBEDDING_SETTINGS}
    return ElectraEmbeddings(config.derived.vocab_size, **settings, **sharing, name=name)
