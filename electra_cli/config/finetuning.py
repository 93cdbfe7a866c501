"""Every key of a fine-tuning config, with checks, and the paper's values where none are given. No TensorFlow here."""

import ml_collections

from electra_cli import files
from electra_cli.config.fields import FRACTION, NOT_NEGATIVE, POSITIVE, ChangeableField, Field, Rule, Schema, require
from electra_cli.config.labeled_files import TABLE_FORMATS
from electra_cli.config.pretraining import MAX_BATCH_SIZE, MAX_LENGTH, PRECISIONS, PRETRAINING, STRATEGIES
from electra_cli.errors import UserError

KINDS = ("classification", "regression", "tagging", "question_answering")
GLUE_KINDS = {
    **dict.fromkeys(("cola", "sst2", "mrpc"), "classification"),
    "stsb": "regression",
    **dict.fromkeys(("qqp", "mnli", "qnli", "rte", "wnli"), "classification"),
}
# The scores of each kind that models can be compared by.
SCORES = {
    "classification": ("accuracy", "f1", "mcc"),
    "regression": ("spearman", "pearson"),
    "tagging": ("f1", "precision", "recall", "accuracy"),
    "question_answering": ("f1", "exact_match"),
}
FORMATS = (*TABLE_FORMATS, "conll", "conllu", "squad")
# What names an encoder whose weights are drawn.
RANDOM = "random"
# Of the paper's Table 7: from which width of the encoder on, learning rate and decay from layer to layer.
_RATES = ((1024, 5e-5, 0.9), (768, 1e-4, 0.8), (0, 3e-4, 0.8))
_EPOCHS, _EPOCHS_OF_ANSWERS, _EPOCHS_OF_SMALL_TASKS, _SMALL_TASKS = 3, 2, 10, ("rte", "stsb")

_SEEDS = Rule(
    lambda seeds: bool(seeds) and all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds),
    "give one or more whole numbers from 0 on, as '(0,1,2)'",
)
# Descriptions that keys share.
_FILES = (
    "Files of labelled examples. Empty: none; a fraction of the training file is held out for validation. For a GLUE "
    "task, the folder's own files, each of which can be overridden here."
)
_COLUMNS = (
    "Columns or fields: the text (first of a pair, words to tag), the second text, the label or tags. Names; or "
    "numbers from 0 (-1: the last), and if all are numbers the files have no header. Empty: the usual names "
    "(sentence, text, sentence1 and sentence2, ...; label); for CoNLL files 0 and -1, for CoNLL-U 1 and 3. Not read "
    "for a GLUE task."
)
_ADAM = "Decay of Adam's moments, and epsilon. The original's Adam has no bias correction."

_FIELDS = {
    "task": Field(
        "classification",
        "What is learned: classification, regression, tagging or question_answering; or a GLUE task by its name: "
        "cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb, wnli.",
        choices=(*KINDS, *GLUE_KINDS),
    ),
    "primary_score": Field(
        "",
        "Score that decides which model is best. Classification: accuracy, f1 or mcc; regression: spearman or "
        "pearson; tagging: f1, precision, recall or accuracy; question answering: f1 or exact_match. Empty: the first "
        "(for tags that mark no entities: accuracy), or GLUE's.",
        choices=tuple(dict.fromkeys(score for scores in SCORES.values() for score in scores)),
    ),
    "data.max_seq_length": Field(
        128,
        "Longest example, in tokens, special ones included; longer ones are cut (for question answering: divided into "
        "windows). Examples are padded to what the longest of them needs.",
        Rule(lambda value: value >= 8, "is too short: 8 tokens at least", MAX_LENGTH),
    ),
    "data.dir": ChangeableField(
        "",
        "Directory that the paths below are relative to; for GLUE, the download or the task's folder. Empty: the "
        "current directory.",
    ),
    "data.train": ChangeableField("", _FILES),
    "data.validation": ChangeableField("", _FILES),
    "data.test": ChangeableField("", _FILES),
    "data.format": Field(
        "",
        "tsv (no quoting), csv, jsonl, conll, conllu or squad; empty: by the extension of each file name.",
        choices=FORMATS,
    ),
    "data.text": Field("", _COLUMNS),
    "data.second_text": Field("", _COLUMNS),
    "data.label": Field("", _COLUMNS),
    "data.validation_fraction": Field(
        0.1, "Fraction of the training examples that is held out if there is no validation file; 0: none.", FRACTION
    ),
    "data.label_names": ChangeableField(
        "",
        "File with the names of labels and tags that are numbers: a name a line, the first that of 0, or JSON "
        "(.json), a list or id2label; then -1 stands for no label. Empty: labels are taken as they are.",
    ),
    "data.skip_bad_examples": ChangeableField(
        False,
        "Whether examples that cannot be right (broken lines, empty texts, answers that are not in their context) are "
        "skipped and counted. Files to predict are read as a whole.",
    ),
    "answers.doc_stride": Field(
        128, "Tokens between the starts of two windows of a context that is longer than an example.", POSITIVE
    ),
    "answers.max_answer_length": Field(30, "Longest answer that is predicted, in tokens.", POSITIVE),
    "answers.num_best": Field(20, "Candidates that are kept for each answer, including the best one.", POSITIVE),
    "model.network": Field(
        "discriminator",
        "Network that is fine-tuned: discriminator, or generator; a masked language model has only one.",
        choices=("discriminator", "generator"),
    ),
    "model.hidden_dropout": PRETRAINING.fields["model.hidden_dropout"],
    "model.attention_dropout": PRETRAINING.fields["model.attention_dropout"],
    "model.head_dropout": Field(0.1, "Dropout rate of the head (fraction).", FRACTION),
    "optimizer.learning_rate": Field(
        None,
        "Learning rate of the head before decay; unset: the paper's by the encoder's width, 3e-4 below 768, 1e-4 "
        "below 1024, otherwise 5e-5.",
        POSITIVE,
        value_type=float,
    ),
    "optimizer.layerwise_lr_decay": Field(
        None,
        "Factor of the learning rate from one layer to the one below; unset: the paper's by the encoder's width, 0.8 "
        "below 1024, otherwise 0.9.",
        Rule(lambda value: 0 < value <= 1, "is a factor: more than 0, at most 1"),
        value_type=float,
    ),
    "optimizer.schedule": Field(
        "linear", "linear (the original's product of warm-up and decay), or cosine.", choices=("linear", "cosine")
    ),
    "optimizer.warmup_fraction": Field(0.1, "Fraction of the run over which the learning rate rises.", FRACTION),
    "optimizer.weight_decay_rate": Field(
        0.0, "Decoupled weight decay of all weights except biases and LayerNorm.", NOT_NEGATIVE
    ),
    "optimizer.beta_1": Field(0.9, _ADAM, FRACTION),
    "optimizer.beta_2": Field(0.999, _ADAM, FRACTION),
    "optimizer.epsilon": Field(1e-6, _ADAM, POSITIVE),
    "optimizer.clip_norm": PRETRAINING.fields["optimizer.clip_norm"],
    "train.num_epochs": Field(
        None,
        "Passes over the training examples; unset: the paper's, 3, 10 for rte and stsb, 2 for question answering.",
        POSITIVE,
        value_type=int,
    ),
    "train.global_batch_size": Field(
        32, "Examples (for question answering: windows) of one step over all replicas.", POSITIVE.up_to(MAX_BATCH_SIZE)
    ),
    "train.seeds": ChangeableField(
        (0,),
        "One fine-tuning per seed, each with a different order of examples, dropout and head: "
        "--config.train.seeds='(0,1,2,3,4)'",
        _SEEDS,
    ),
    "runtime.strategy": ChangeableField(
        "auto",
        "auto (a TPU if there is one; all local GPUs; or the CPU), one_device, mirrored (all local GPUs or logical "
        "CPUs) or tpu. Single process.",
        choices=tuple(name for name in STRATEGIES if name != "multi_worker_mirrored"),
    ),
    "runtime.tpu": PRETRAINING.fields["runtime.tpu"],
    "runtime.precision": Field(
        "float32",
        "float32, mixed_bfloat16, or mixed_float16 (with dynamic loss scaling): the precision of matrix products.",
        choices=PRECISIONS,
    ),
    "runtime.jit_compile": PRETRAINING.fields["runtime.jit_compile"],
    "runtime.logical_cpus": PRETRAINING.fields["runtime.logical_cpus"],
}

FINETUNING = Schema(_FIELDS, "electra_cli.finetuning.config_defaults.default_config", "finetune")


def default_config() -> ml_collections.ConfigDict:
    """Returns all keys with their defaults: the paper's (Clark et al., ICLR 2020, Table 7)."""
    return FINETUNING.default_config()


def kind_of(task: str) -> str:
    """Returns the kind of `config.task`: that of GLUE's where it is one."""
    return GLUE_KINDS.get(task, task)


def check(config: ml_collections.ConfigDict) -> None:
    """Raises a `UserError` for the first value that cannot be trained with, whatever the data and the encoder."""
    FINETUNING.check_values(config)
    seeds = config.train.seeds
    require(config, "train.seeds", len(set(seeds)) == len(seeds), "a seed is there twice")
    names = SCORES[kind_of(config.task)]
    require(config, "primary_score", config.primary_score in ("", *names),
            f"must be empty or a score of {kind_of(config.task)}: {', '.join(names)}")  # fmt: skip
    _check_data(config, config.task, config.data)


def _check_data(config: ml_collections.ConfigDict, task: str, data: ml_collections.ConfigDict) -> None:
    require(config, "data.second_text", not data.second_text or bool(data.text),
            "is the second of two: give the first, --config.data.text=COLUMN")  # fmt: skip
    if task in GLUE_KINDS:
        require(config, "data.dir", bool(data.dir), f"give the folder of GLUE's download for config.task={task}")
        for key in ("text", "second_text", "label", "format", "label_names"):
            require(config, f"data.{key}", not data[key], f"config.task={task} knows its files: leave it empty")
        return
    require(config, "data.train", bool(data.train), "give the file of training examples, --config.data.train=FILE")
    for key in ("validation", "test"):
        require(config, f"data.{key}", not data[key] or data[key] != data.train,
                "is the training file: scores there mean nothing")  # fmt: skip
    if task == "question_answering":
        for key in ("text", "second_text", "label"):
            require(config, f"data.{key}", not data[key], "files of SQuAD have no columns: leave it empty")
    require(config, "data.label_names", not data.label_names or task in ("classification", "tagging"),
            f"{task} has no labels with names: leave it empty")  # fmt: skip
    if task == "tagging":
        require(config, "data.second_text", not data.second_text, "tagging has one text only: leave it empty")


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
    """Returns a checked config with the paper's values for unset keys, by the encoder's `hidden_size`."""
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
