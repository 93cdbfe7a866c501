"""TensorFlow 1 checkpoints of google-research/electra: their hyperparameters and weights to ours, and weights back."""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli.config import default_config
from electra_cli.config.fields import flatten
from electra_cli.config.resolution import generator_sizes, num_predictions
from electra_cli.data.tokenization import find_vocab_file
from electra_cli.data.vocabulary import WordRules
from electra_cli.errors import Option, UserError
from electra_cli.files import list_directory, read_json, unescaped
from electra_cli.interop import external_files
from electra_cli.interop.delivery import write_texts
from electra_cli.interop.huggingface import SETTINGS
from electra_cli.interop.importing import ExternalModel
from electra_cli.interop.runs import LoadedRun
from electra_cli.objectives import weights as weights_module
from electra_cli.objectives.costs import outline_of
from electra_cli.objectives.weights import Weights
from electra_cli.workdir.checkpoint_files import latest_checkpoint

_SCOPES = ("electra/", "generator/", "discriminator_predictions/", "generator_predictions/")
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
    **SETTINGS,
}
_OTHER_HPARAMS = (
    "model_hparam_overrides", "max_predictions_per_seq", "untied_generator", "untied_generator_embeddings",
    "do_lower_case",  # which the tokenizer has
)  # fmt: skip
# Variables that are no weights: the step, and the moments of its Adam.
_NO_WEIGHT = re.compile(r"global_step|.*/adam_[mv]")


def config_from_hparams(hparams: dict[str, Any], file: str = "hyperparameters") -> ml_collections.ConfigDict:
    """Returns our config for the original's hyperparameters.

    Absent ones are those of its small model, but for heads and feed-forward size, which follow from `hidden_size`.
    `file` is for messages.

    Raises:
      UserError: a value that cannot be, or a hyperparameter that has no counterpart here and could change the result.
    """
    config = default_config()
    field = functools.partial(external_files.field, hparams, file=file)
    overrides = dict(field("model_hparam_overrides", dict, default={}))
    width = external_files.field(overrides, "hidden_size", int, file, 0)
    if width:  # others follow from it: util/training_utils.get_bert_config
        overrides.setdefault("num_attention_heads", max(1, width // 64))
        overrides.setdefault("intermediate_size", 4 * width)
    num_slots = hparams.get("max_predictions_per_seq")
    config.objective.tied_generator = not field("untied_generator", bool, default=True)
    if field("untied_generator_embeddings", bool, default=False):
        config.model.embedding_sharing = "none"
    flat = {name: value for name, value in hparams.items() if name not in _OTHER_HPARAMS}
    for names, values in ((_HPARAMS, flat), (_MODEL_HPARAMS, overrides)):
        unknown = sorted(values.keys() - names.keys())
        if unknown:
            raise UserError(f"{file}: hyperparameters without a counterpart here: {', '.join(unknown)}")
        config.update_from_flattened_dict(external_files.settings(values, names, file))
    derived_slots = num_predictions(config.data.mask_prob, config.data.max_seq_length)
    if num_slots not in (None, derived_slots):
        raise UserError(
            f"{file}: max_predictions_per_seq is {external_files.abbreviate(num_slots)}: here it follows from "
            f"mask_prob and max_seq_length, which give {derived_slots}"
        )
    return config


def read_weights(checkpoint: str) -> Weights:
    """Returns the float32 weights of a checkpoint, without the optimizer's moments and the step.

    Raises:
      UserError: it cannot be read, or is damaged.
    """
    external_files.check_checkpoint(checkpoint)
    with unescaped(checkpoint) as file:
        reader = tf.train.load_checkpoint(file)
        names = [name for name in reader.get_variable_to_shape_map() if not _NO_WEIGHT.fullmatch(name)]
        values = {name: np.asarray(reader.get_tensor(name)) for name in sorted(names)}
    return external_files.to_float32(values, checkpoint)[0]


def _find_checkpoint(source: str) -> str:
    """Returns the prefix of the checkpoint that `source` names: itself, or the last one in a directory."""
    if not tf.io.gfile.isdir(source):
        return source.removesuffix(".index")
    latest = latest_checkpoint(source)
    if latest is not None:
        return latest
    names = [name.removesuffix(".index") for name in list_directory(source) if name.endswith(".index")]
    option = Option("--source")
    if not names:
        raise UserError(option, f"={source} holds no checkpoint (NAME.index, NAME.data-*)")
    if len(names) > 1:
        message = f"={source} holds several checkpoints ({', '.join(names)}): give one, "
        raise UserError(option, message, option, f"={source}/NAME")
    return tf.io.gfile.join(source, names[0])


def read(source: str, hparams_file: str | None = None) -> ExternalModel:
    """Reads a checkpoint of google-research/electra, with its `vocab.txt` and its hyperparameters in `config.json`.

    Sizes follow from the weights; heads are those of its rule, one for 64 units of width, or of the hyperparameters.

    Args:
      source: prefix of a checkpoint, or a directory that holds one.
      hparams_file: JSON of the hyperparameters that differ from its defaults, in place of that `config.json`.

    Raises:
      UserError: no such checkpoint, a damaged one, or hyperparameters that contradict it.
    """
    checkpoint = _find_checkpoint(source)
    weights = read_weights(checkpoint)
    if "electra/embeddings/word_embeddings" not in weights:
        raise UserError(f"{checkpoint} is no checkpoint of google-research/electra: it has no "
                        f"electra/embeddings/word_embeddings")  # fmt: skip
    directory = os.path.dirname(checkpoint)
    hparams_file = hparams_file or external_files.find(directory, "config.json") or ""
    hparams = read_json(hparams_file) if hparams_file else {}
    config = config_from_hparams(hparams, hparams_file)
    biases = [weights.get(f"{scope}/encoder/layer_0/output/dense/bias") for scope in ("electra", "generator")]
    heads, generator_heads = (1 if bias is None else max(1, bias.size // 64) for bias in biases)
    if "model_hparam_overrides" in hparams:
        heads = config.model.num_attention_heads
    if biases[1] is None:  # it is tied, or there is none
        generator_heads = heads
    try:
        external = _from_weights(weights, checkpoint, heads, generator_heads)
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from error
    if hparams:
        settings = flatten(config)
        names = {**_HPARAMS, **_MODEL_HPARAMS}
        given = [names[name] for name in {**hparams, **(hparams.get("model_hparam_overrides") or {})} if name in names]
        external.settings = {key: settings[key] for key in given if not key.startswith("model.")}
        external.settings |= {key: settings[key] for key in SETTINGS.values()}
        _check_sizes(external, config, given, hparams_file)
    external.vocab_file = find_vocab_file(directory)
    if "do_lower_case" in hparams:
        external.rules = WordRules(bool(hparams["do_lower_case"]))
    return external


def _from_weights(weights: Weights, source: str, heads: int, generator_heads: int) -> ExternalModel:
    """Returns the networks that weights make, with their attention heads."""
    discriminator = weights_module.split(weights, "discriminator", heads)
    generator = weights_module.split(weights, "generator", generator_heads)
    is_tied = generator is not None and not any(name.startswith("generator/encoder/") for name in weights)
    if is_tied and discriminator is not None and not discriminator.has_head:
        discriminator = None  # of masked language modeling alone
    unexpected = {name for name in weights if not name.startswith(_SCOPES)}
    for network, scope in ((discriminator, "electra"), (generator, "electra" if is_tied else "generator")):
        if network is not None:
            unexpected |= {f"{scope}/{name}" for name in network.drop_unknown()}
    is_tied = is_tied and discriminator is not None
    return ExternalModel(source, discriminator, generator, is_tied, unexpected=sorted(unexpected))


def _check_sizes(external: ExternalModel, config: ml_collections.ConfigDict, given: list[str], file: str) -> None:
    """Compares the sizes that hyperparameters, those of the keys `given`, ask for with the weights."""
    if external.discriminator is None:
        return
    for name, size in dataclasses.asdict(external.discriminator.sizes).items():
        if f"model.{name}" in given and config.model[name] != size:
            raise UserError(f"{file} makes {name} {config.model[name]}, the weights have {size}")
    if external.generator is None or external.is_tied:
        return
    wanted, width = generator_sizes(config)["hidden_size"], external.generator.sizes.hidden_size
    if "model.hidden_size" in given and "model.generator_size" in given and wanted != width:
        raise UserError(f"{file} makes a generator of width {wanted}, that of the weights is {width} wide")


def write_run(run: LoadedRun, roles: list[str], directory: str) -> float:
    """Writes networks of a run with hyperparameters and vocabulary.

    Returns:
      0 if the written weights equal the run's bit for bit, otherwise infinity.

    Raises:
      UserError: the original has no hyperparameter for a value of the config.
    """
    weights = weights_module.read(run.model)
    if roles == ["discriminator"]:
        keep = ("electra/", "discriminator_predictions/")
        weights = {name: value for name, value in weights.items() if name.startswith(keep)}
    elif roles == ["generator"]:
        is_own = any(name.startswith("generator/encoder/") for name in weights)
        drop = ("discriminator_predictions/", *(("electra/encoder/", "electra/embeddings_project/") if is_own else ()))
        weights = {name: value for name, value in weights.items() if not name.startswith(drop)}
    prefix = os.path.join(directory, f"model.ckpt-{run.step}")
    write(weights, run.step, prefix)
    write_texts(directory, {"config.json": json.dumps(_hparams(run.config), indent=1, sort_keys=True) + "\n"})
    run.tokenizer.save(directory)
    return 0.0 if weights_module.are_equal(weights, read_weights(prefix)) else float("inf")


def write(weights: Mapping[str, np.ndarray], step: int, prefix: str) -> None:
    """Writes weights as a checkpoint that the original's code reads, with its `checkpoint` file.

    Args:
      step: becomes `global_step`, int64.
      prefix: of the files, in an existing local directory.
    """
    values = {**weights, "global_step": np.int64(step)}
    names = sorted(values)
    tensors = [tf.convert_to_tensor(values[name]) for name in names]
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
    directory, name = os.path.split(prefix)
    state = f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n'
    write_texts(directory, {"checkpoint": state})


def _hparams(config: ml_collections.FrozenConfigDict) -> dict[str, Any]:
    """Returns the original's hyperparameters for a resolved config, as its `--hparams` takes them."""
    flat = flatten(config)
    derived, model = config.derived, config.model
    rule = {
        "generator_num_attention_heads": max(1, derived.generator_hidden_size // 64),
        "generator_intermediate_size": 4 * derived.generator_hidden_size,
    }
    for name, wanted in rule.items():
        if derived[name] != wanted and not config.objective.tied_generator and outline_of(config).has_generator:
            raise UserError(f"the generator's {name.removeprefix('generator_')} is {derived[name]}; "
                            f"google-research/electra makes it {wanted}")  # fmt: skip
    return {
        **{name: flat[key] for name, key in _HPARAMS.items()},
        "vocab_size": derived.vocab_size,
        "generator_hidden_size": derived.generator_hidden_size / model.hidden_size,
        "generator_layers": derived.generator_num_layers / model.num_layers,
        "untied_generator": not config.objective.tied_generator,
        "untied_generator_embeddings": model.embedding_sharing != "all",
        "max_predictions_per_seq": num_predictions(config.data.mask_prob, config.data.max_seq_length),
        "model_hparam_overrides": {name: flat[key] for name, key in _MODEL_HPARAMS.items()},
    }
