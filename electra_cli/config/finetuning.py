"""Settings of a fine-tuning: presets and overrides in; checked, and with the paper's values where none were given, out.

TensorFlow is not imported here.
"""

from typing import Any

import ml_collections
from ml_collections import config_dict

from electra_cli import files
from electra_cli.config.checks import JIT_CHOICES, PRECISIONS, STRATEGIES, requirement
from electra_cli.config.presets import Presets
from electra_cli.config.resolution import flatten
from electra_cli.config.suggestions import did_you_mean
from electra_cli.errors import UserError
from electra_cli.finetuning.base import KINDS
from electra_cli.finetuning.glue import TASKS
from electra_cli.finetuning.labeled_files import FORMATS


def answers_section() -> ml_collections.ConfigDict:
    """Returns the section `answers`, of question answering, with its defaults."""
    answers = ml_collections.ConfigDict()
    # Tokens between the starts of two windows of a context that is longer than an example.
    answers.doc_stride = 128
    # Longest answer that is predicted, in tokens.
    answers.max_answer_length = 30
    # Candidates that are kept for each answer, including the best one.
    answers.num_best = 20
    return answers


def data_section() -> ml_collections.ConfigDict:
    """Returns the section `data` with its defaults."""
    data = ml_collections.ConfigDict()
    # Longest example, in tokens, special ones included; longer ones are cut (for question answering: divided into
    # windows). Examples are padded to what the longest of them needs.
    data.max_seq_length = 128
    # Directory that the paths below are relative to; for GLUE, the download or the task's folder. Empty: the current
    # directory.
    data.dir = ""
    # Files of labelled examples. Empty: none; a fraction of the training file is held out for validation. For a GLUE
    # task, the folder's own files, each of which can be overridden here.
    data.train = ""
    data.validation = ""
    data.test = ""
    # tsv (no quoting), csv, jsonl, conll, conllu or squad; empty: by the extension of each file name.
    data.format = ""
    # Columns or fields: the text (first of a pair, words to tag), the second text, the label or tags. Names; or numbers
    # from 0 (-1: the last), and if all are numbers the files have no header. Empty: the usual names (sentence, text,
    # sentence1 and sentence2, ...; label); for CoNLL files 0 and -1, for CoNLL-U 1 and 3. Not read for a GLUE task.
    data.text = ""
    data.second_text = ""
    data.label = ""
    # Fraction of the training examples that is held out if there is no validation file; 0: none.
    data.validation_fraction = 0.1
    return data


# The scores of each kind that models can be compared by.
SCORES = {
    "classification": ("accuracy", "f1", "mcc"),
    "regression": ("spearman", "pearson"),
    "tagging": ("f1", "precision", "recall", "accuracy"),
    "question_answering": ("f1", "exact_match"),
}


def kind_of(task: str) -> str:
    """Returns the kind of `config.task`: that of GLUE's where it is one."""
    return TASKS[task].kind if task in TASKS else task


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises a `UserError` that names key, value and remedy for the first value that cannot be meant.

    Reads `task`, `primary_score`, `data` and `answers` of a config.
    """
    task, data, answers = config.task, config.data, config.answers
    require = requirement(flatten(config))
    known = (*KINDS, *TASKS)
    require("task", task in known,
            f"must be one of {', '.join(KINDS)}, or of GLUE {', '.join(TASKS)}{did_you_mean(task, known)}")  # fmt: skip
    names = SCORES[kind_of(task)]
    require("primary_score", config.primary_score in ("", *names),
            f"must be empty or a score of {kind_of(task)}: {', '.join(names)}")  # fmt: skip
    for key, value in answers.items():
        require(f"answers.{key}", value > 0, "must be greater than 0")
    require("data.max_seq_length", data.max_seq_length >= 8, "is too short: 8 tokens at least")
    require("data.format", data.format in ("", *FORMATS), f"must be empty or one of {', '.join(FORMATS)}")
    require("data.validation_fraction", 0 <= data.validation_fraction < 1,
            "must be a fraction, at least 0 and less than 1")  # fmt: skip
    require("data.second_text", not data.second_text or bool(data.text),
            "is the second of two: give the first, --config.data.text=COLUMN")  # fmt: skip
    if task in TASKS:
        require("data.dir", bool(data.dir), f"give the folder of GLUE's download for config.task={task}")
        for key in ("text", "second_text", "label", "format"):
            require(f"data.{key}", not data[key], f"config.task={task} knows its files: leave it empty")
        return
    require("data.train", bool(data.train), "give the file of training examples, --config.data.train=FILE")
    for key in ("validation", "test"):
        require(f"data.{key}", not data[key] or data[key] != data.train,
                "is the training file: scores there tell nothing")  # fmt: skip
    if task == "question_answering":
        for key in ("text", "second_text", "label"):
            require(f"data.{key}", not data[key], "files of SQuAD have no columns: leave it empty")
    if task == "tagging":
        require("data.second_text", not data.second_text, "tagging has one text only: leave it empty")


def default_config() -> ml_collections.ConfigDict:
    """Returns all keys with their defaults: the paper's."""
    return ml_collections.ConfigDict(
        {
            # What is learned: classification, regression, tagging or question_answering; or a GLUE task by its name:
            # cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb, wnli.
            "task": "classification",
            # Score that decides which model is best. Classification: accuracy, f1 or mcc; regression: spearman or
            # pearson; tagging: f1, precision, recall or accuracy; question answering: f1 or exact_match. Empty: the
            # first (for tags that mark no entities: accuracy), or GLUE's.
            "primary_score": "",
            "data": data_section(),
            "answers": answers_section(),
            "model": _model_section(),
            "optimizer": _optimizer_section(),
            "train": _train_section(),
            "runtime": _runtime_section(),
        }
    )


def _model_section() -> ml_collections.ConfigDict:
    model = ml_collections.ConfigDict()
    # Network that is fine-tuned: discriminator, or generator; a masked language model has only one.
    model.network = "discriminator"
    # Dropout rate of embeddings, attention output and feed-forward output (fraction).
    model.hidden_dropout = 0.1
    # Dropout rate of attention probabilities (fraction).
    model.attention_dropout = 0.1
    # Dropout rate of the head (fraction).
    model.head_dropout = 0.1
    return model


def _optimizer_section() -> ml_collections.ConfigDict:
    optimizer = ml_collections.ConfigDict()
    # Learning rate of the head before decay; unset: the paper's by the encoder's width, 3e-4 below 768, 1e-4 below
    # 1024, otherwise 5e-5.
    optimizer.learning_rate = config_dict.placeholder(float)
    # Factor of the learning rate from one layer to the one below; unset: the paper's by the encoder's width, 0.8 below
    # 1024, otherwise 0.9.
    optimizer.layerwise_lr_decay = config_dict.placeholder(float)
    # linear (the original's product of warm-up and decay), or cosine.
    optimizer.schedule = "linear"
    # Fraction of the run over which the learning rate rises.
    optimizer.warmup_fraction = 0.1
    # Decoupled weight decay of all weights except biases and LayerNorm.
    optimizer.weight_decay_rate = 0.0
    # Decay of Adam's moments, and epsilon. The original's Adam has no bias correction.
    optimizer.beta_1 = 0.9
    optimizer.beta_2 = 0.999
    optimizer.epsilon = 1e-6
    # Global norm that gradients are clipped to.
    optimizer.clip_norm = 1.0
    return optimizer


def _train_section() -> ml_collections.ConfigDict:
    train = ml_collections.ConfigDict()
    # Passes over the training examples; unset: the paper's, 3, 10 for rte and stsb, 2 for question answering.
    train.num_epochs = config_dict.placeholder(int)
    # Examples (for question answering: windows) of one step over all replicas.
    train.global_batch_size = 32
    # One fine-tuning per seed, each with a different order of examples, dropout and head:
    # --config.train.seeds='(0,1,2,3,4)'
    train.seeds = (0,)
    return train


def _runtime_section() -> ml_collections.ConfigDict:
    runtime = ml_collections.ConfigDict()
    # auto (a TPU if there is one; all local GPUs; or the CPU), one_device, mirrored (all local GPUs or logical CPUs) or
    # tpu. Single process.
    runtime.strategy = "auto"
    # The TPU's name or address; '': the one that TPU_NAME names, or the one attached to this machine.
    runtime.tpu = ""
    # float32, mixed_bfloat16, or mixed_float16 (with dynamic loss scaling): the precision of matrix products.
    runtime.precision = "float32"
    # Compile steps with XLA: auto (GPU: true; CPU: only the operations between matrix products), true or false.
    runtime.jit_compile = "auto"
    # Split the CPU into this many devices, to try data parallelism without GPUs; 0: do not split.
    runtime.logical_cpus = 0
    return runtime


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
