"""Settings of a fine-tuning: presets and overrides in; checked, and with the paper's values where none were given, out.

TensorFlow is not imported here.
"""

from typing import Any

import ml_collections

from electra_cli import files
from electra_cli.config import flatten
from electra_cli.config_checks import JIT_CHOICES, PRECISIONS, STRATEGIES, requirement
from electra_cli.config_presets import Presets
from electra_cli.errors import UserError
from electra_cli.finetuning.base import KINDS
from electra_cli.finetuning.config_defaults import default_config
from electra_cli.finetuning.data_defaults import SCORES, validate
from electra_cli.finetuning.glue import TASKS
from electra_cli.finetuning.labeled_files import FORMATS
from electra_cli.suggestions import did_you_mean

# What stands for an encoder whose weights are drawn.
RANDOM = "random"
# Keys that a started run may change: where it computes, where its files lie (their content may not change), and which
# seeds come next.
CHANGEABLE_KEYS = ("train.seeds", "runtime.strategy", "runtime.tpu", "runtime.jit_compile", "runtime.logical_cpus",
                   "data.dir", "data.train", "data.validation", "data.test")  # fmt: skip
_CHOICES = {
    "model.network": ("discriminator", "generator"),
    "optimizer.schedule": ("linear", "cosine"),
    "runtime.strategy": tuple(name for name in STRATEGIES if name != "multi_worker_mirrored"),
    "runtime.precision": PRECISIONS,
    "runtime.jit_compile": JIT_CHOICES,
}
# And of keys whose values depend on the task, or may be empty.
_KNOWN = {
    "task": (*KINDS, *TASKS),
    "primary_score": tuple(dict.fromkeys(score for scores in SCORES.values() for score in scores)),
    "data.format": FORMATS,
}
FINETUNING = Presets(
    "finetune", default_config, "electra_cli.finetuning.config_defaults.default_config", {**_CHOICES, **_KNOWN}
)
_FRACTIONS = ("model.hidden_dropout", "model.attention_dropout", "model.head_dropout", "optimizer.warmup_fraction",
              "optimizer.beta_1", "optimizer.beta_2")  # fmt: skip
_POSITIVE = ("optimizer.learning_rate", "optimizer.epsilon", "optimizer.clip_norm", "train.num_epochs",
             "train.global_batch_size")  # fmt: skip
# Of the paper's Table 7: from which width of the encoder on, learning rate and decay from layer to layer.
_RATES = ((1024, 5e-5, 0.9), (768, 1e-4, 0.8), (0, 3e-4, 0.8))
_EPOCHS, _EPOCHS_OF_ANSWERS, _EPOCHS_OF_SMALL_TASKS, _SMALL_TASKS = 3, 2, 10, ("rte", "stsb")


def check(config: ml_collections.ConfigDict) -> None:
    """Raises a `UserError` for the first value that cannot be trained with, whatever the data and the encoder."""
    flat = flatten(config)
    require = requirement(flat)
    for key, choices in _CHOICES.items():
        require(key, flat[key] in choices, f"choose one of {', '.join(choices)}{did_you_mean(flat[key], choices)}")
    for key in _FRACTIONS:
        require(key, 0 <= flat[key] < 1, "must be a fraction, at least 0 and less than 1")
    for key in _POSITIVE:
        require(key, flat[key] is None or flat[key] > 0, "must be greater than 0")
    decay = config.optimizer.layerwise_lr_decay
    require("optimizer.layerwise_lr_decay", decay is None or 0 < decay <= 1, "is a factor: more than 0, at most 1")
    require("optimizer.weight_decay_rate", config.optimizer.weight_decay_rate >= 0, "must not be negative")
    require("runtime.logical_cpus", config.runtime.logical_cpus >= 0, "must not be negative")
    seeds = config.train.seeds
    are_seeds = all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds)
    require("train.seeds", bool(seeds) and are_seeds, "give one or more whole numbers from 0 on, as '(0,1,2)'")
    require("train.seeds", len(set(seeds)) == len(seeds), "a seed is there twice")
    validate(config)


def check_start(init: str | None, like: str | None) -> None:
    """Raises a `UserError` when there is no encoder of that name, or when `init` and `like` do not go together."""
    if not init:
        raise UserError(f"--init is missing: give a workdir of electra-pretrain, an export, or {RANDOM}")
    if init == RANDOM and not like:
        raise UserError(f"--init={RANDOM} needs --like=DIR: a workdir or export whose sizes and vocabulary are taken")
    if like and init != RANDOM:
        raise UserError(f"--like={like} is read with --init={RANDOM} only: leave it out")
    flag, path = ("--like", like) if like else ("--init", init)
    files.check_checkpoint(flag, path, "give a workdir, one of its checkpoints, or an export")


def fill_in(config: ml_collections.ConfigDict, kind: str, hidden_size: int) -> ml_collections.FrozenConfigDict:
    """Returns a checked config with the paper's values for keys that are unset.

    Args:
      config: the config.
      kind: the kind of its task.
      hidden_size: width of the encoder.
    """
    filled = ml_collections.ConfigDict(config.to_dict())
    _, rate, decay = next(row for row in _RATES if hidden_size >= row[0])
    epochs = _EPOCHS_OF_ANSWERS if kind == "question_answering" else _EPOCHS
    epochs = _EPOCHS_OF_SMALL_TASKS if config.task in _SMALL_TASKS else epochs
    for section, key, value in (
        ("optimizer", "learning_rate", rate),
        ("optimizer", "layerwise_lr_decay", decay),
        ("train", "num_epochs", epochs),
    ):
        if filled[section][key] is None:
            filled[section][key] = value
    return ml_collections.FrozenConfigDict(filled)


def differences(old: dict[str, Any], config: ml_collections.FrozenConfigDict) -> list[str]:
    """Returns 'key: old -> new' for each key that may not change within a run.

    Args:
      old: the config of the run, as JSON has it.
      config: the config that goes on.
    """
    flat_old, flat_new = {**flatten(default_config()), **flatten(old)}, flatten(config)
    as_json = {key: list(value) if isinstance(value, tuple) else value for key, value in flat_new.items()}
    return [
        f"{key}: {flat_old.get(key)!r} -> {as_json.get(key)!r}"
        for key in sorted(flat_old.keys() | as_json.keys())
        if key not in CHANGEABLE_KEYS and flat_old.get(key) != as_json.get(key)
    ]
