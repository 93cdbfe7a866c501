"""TensorFlow 1 checkpoints of google-research/electra: their hyperparameters and weights to ours."""

from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli.config import default_config, num_predictions
from electra_cli.errors import UserError
from electra_cli.modeling.electra_pretrainer import ElectraPretrainer
from electra_cli.modeling.layers import TransformerBlock

# The original's names of hyperparameters (configure_pretraining.py) and our keys.
_HPARAMS = {
    "max_seq_length": "data.max_seq_length",
    "mask_prob": "data.mask_prob",
    "vocab_size": "model.vocab_size",
    "embedding_size": "model.embedding_size",
    "generator_hidden_size": "model.generator_size",
    "generator_layers": "model.generator_layers",
    "gen_weight": "objective.generator_loss_weight",
    "disc_weight": "objective.discriminator_loss_weight",
    "temperature": "objective.sampling_temperature",
    "disallow_correct": "objective.disallow_correct",
    "uniform_generator": "objective.uniform_generator",
    "learning_rate": "optimizer.learning_rate",
    "num_warmup_steps": "optimizer.warmup_steps",
    "weight_decay_rate": "optimizer.weight_decay_rate",
    "num_train_steps": "train.num_steps",
    "train_batch_size": "train.global_batch_size",
}
# Those of its Transformer (model/modeling.py: BertConfig), under `model_hparam_overrides`.
_MODEL_HPARAMS = {
    "hidden_size": "model.hidden_size",
    "num_hidden_layers": "model.num_layers",
    "num_attention_heads": "model.num_attention_heads",
    "intermediate_size": "model.intermediate_size",
    "max_position_embeddings": "model.max_position_embeddings",
    "type_vocab_size": "model.type_vocab_size",
    "hidden_dropout_prob": "model.hidden_dropout",
    "attention_probs_dropout_prob": "model.attention_dropout",
    "initializer_range": "model.initializer_range",
}
# A variable of ours and the names of its parts there, joined along the last axis.
_Pair = tuple[tf.Variable, tuple[str, ...]]


def config_from_hparams(hparams: dict[str, Any]) -> ml_collections.ConfigDict:
    """Returns our config of a run of the original.

    Args:
      hparams: the original's hyperparameters under its own names. Absent ones are those of its small model, but for
        heads and feed-forward size, which follow from `hidden_size`.

    Raises:
      UserError: a hyperparameter that has no counterpart here and could change the result.
    """
    config = default_config()
    flat = dict(hparams)
    overrides = dict(flat.pop("model_hparam_overrides", {}))
    if "hidden_size" in overrides:
        # What follows from the width there (util/training_utils.get_bert_config).
        overrides.setdefault("num_attention_heads", max(1, overrides["hidden_size"] // 64))
        overrides.setdefault("intermediate_size", 4 * overrides["hidden_size"])
    num_slots = flat.pop("max_predictions_per_seq", None)
    config.objective.tied_generator = not flat.pop("untied_generator", True)
    for names, values in ((_HPARAMS, flat), (_MODEL_HPARAMS, overrides)):
        unknown = sorted(values.keys() - names.keys())
        if unknown:
            raise UserError(f"hyperparameters of google-research/electra without a counterpart: {', '.join(unknown)}")
        config.update_from_flattened_dict({names[name]: value for name, value in values.items()})
    derived_slots = num_predictions(config.data.mask_prob, config.data.max_seq_length)
    if num_slots not in (None, derived_slots):
        raise UserError(f"max_predictions_per_seq={num_slots}: here it follows from mask_prob and max_seq_length, "
                        f"which give {derived_slots}")  # fmt: skip
    return config


def load_weights(model: ElectraPretrainer, checkpoint: str) -> None:
    """Loads generator, discriminator and their heads, of any size.

    Args:
      model: a pretrainer of `build_pretrainer` whose sizes are those of the checkpoint.
      checkpoint: prefix of a checkpoint of google-research/electra, as 'electra_small/electra_small'.

    Raises:
      UserError: the checkpoint cannot be read, lacks a weight, or has one of another shape. The model is unchanged.
    """
    try:
        reader = tf.train.load_checkpoint(checkpoint)
    except (tf.errors.OpError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{checkpoint} is no checkpoint that can be read: {reason}") from error
    stored_shapes = reader.get_variable_to_shape_map()
    loaded = []
    for variable, names in named_weights(model):
        missing = [name for name in names if name not in stored_shapes]
        if missing:
            raise UserError(f"{checkpoint} has no weight {missing[0]}: the config has other layers, or sizes, than it")
        value = np.concatenate([reader.get_tensor(name) for name in names], axis=-1)
        if value.shape != tuple(variable.shape):
            raise UserError(
                f"{checkpoint}: {names[0]} has shape {list(stored_shapes[names[0]])}, which does not make the "
                f"{variable.shape.as_list()} that the config asks for"
            )
        loaded.append((variable, value))
    for variable, value in loaded:
        variable.assign(value)


def named_weights(model: ElectraPretrainer) -> Iterator[_Pair]:
    """Yields every weight of a pretrainer of `build_pretrainer` with its names in a checkpoint of the original.

    Query, key and value are three weights there and one here.

    Raises:
      UserError: the networks do not share all embeddings, as those of the original do.
    """
    generator = model.generator_network
    if generator is not None and generator.embeddings is not model.discriminator_network.embeddings:
        raise UserError("the networks of google-research/electra share all embeddings: set model.embedding_sharing=all")
    embeddings = model.discriminator_network.embeddings
    yield embeddings.word_embeddings, ("electra/embeddings/word_embeddings",)
    yield embeddings.position_embeddings, ("electra/embeddings/position_embeddings",)
    yield embeddings.type_embeddings, ("electra/embeddings/token_type_embeddings",)
    yield from _layer_norm(embeddings.layer_norm, "electra/embeddings/LayerNorm")
    yield from _encoder(model.discriminator_network, "electra")
    if model.masked_lm is not None:
        if model.generator_network is not model.discriminator_network:
            yield from _encoder(model.generator_network, "generator")
        yield from _dense(model.masked_lm.dense, "generator_predictions/dense")
        yield from _layer_norm(model.masked_lm.layer_norm, "generator_predictions/LayerNorm")
        yield model.masked_lm.bias, ("generator_predictions/output_bias",)
    yield from _dense(model.discriminator_projection, "discriminator_predictions/dense")
    yield from _dense(model.discriminator_head, "discriminator_predictions/dense_1")


def _encoder(encoder: Any, scope: str) -> Iterator[_Pair]:
    if encoder.embedding_projection is not None:
        yield from _dense(encoder.embedding_projection, f"{scope}/embeddings_project")
    for index, block in enumerate(encoder.transformer_layers):
        yield from _block(block, f"{scope}/encoder/layer_{index}")


def _block(block: TransformerBlock, scope: str) -> Iterator[_Pair]:
    yield from _dense(block.query_key_value, *(f"{scope}/attention/self/{part}" for part in ("query", "key", "value")))
    yield from _dense(block.attention_output, f"{scope}/attention/output/dense")
    yield from _layer_norm(block.attention_norm, f"{scope}/attention/output/LayerNorm")
    yield from _dense(block.intermediate, f"{scope}/intermediate/dense")
    yield from _dense(block.output_dense, f"{scope}/output/dense")
    yield from _layer_norm(block.output_norm, f"{scope}/output/LayerNorm")


def _dense(layer: Any, *scopes: str) -> Iterator[_Pair]:
    yield layer.kernel, tuple(f"{scope}/kernel" for scope in scopes)
    yield layer.bias, tuple(f"{scope}/bias" for scope in scopes)


def _layer_norm(layer: Any, scope: str) -> Iterator[_Pair]:
    yield layer.gamma, (f"{scope}/gamma",)
    yield layer.beta, (f"{scope}/beta",)
