"""Which values of a config can be trained with. TensorFlow is not imported here."""

from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from electra_cli.config.labeled_files import parse_probes
from electra_cli.config.suggestions import did_you_mean
from electra_cli.errors import UserError

OBJECTIVES = ("electra", "mlm")
MASK_UNITS = ("token", "word")
EMBEDDING_SHARING = ("all", "word", "none", "gradient_disentangled")
OPTIMIZERS = ("adam_weight_decay", "adamw", "lamb")
SCHEDULES = ("linear", "cosine", "warmup_stable_decay")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker_mirrored", "tpu")
INIT_OPTIMIZERS = ("fresh", "restored")
INIT_POSITIONS = ("copy", "interpolate")
JIT_CHOICES = ("auto", "true", "false")
# Fewer would leave less than four in a fold.
LEAST_PROBE_EXAMPLES = 20
# Held-out metrics of which one is better than another: of every objective, and those that only electra has.
_MASKED_LM_METRICS = ("total_loss", "masked_lm_loss", "masked_lm_accuracy")
_RTD_METRICS = ("sampled_masked_lm_accuracy", "rtd_loss", "rtd_accuracy", "rtd_auc", "rtd_precision", "rtd_recall")
BEST_METRICS = {"electra": (*_MASKED_LM_METRICS, *_RTD_METRICS), "mlm": _MASKED_LM_METRICS}
CHOICES = {
    "data.mask_unit": MASK_UNITS,
    "model.embedding_sharing": EMBEDDING_SHARING,
    "init.optimizer": INIT_OPTIMIZERS,
    "init.positions": INIT_POSITIONS,
    "objective.name": OBJECTIVES,
    "optimizer.name": OPTIMIZERS,
    "optimizer.schedule": SCHEDULES,
    "runtime.strategy": STRATEGIES,
    "runtime.precision": PRECISIONS,
    "runtime.jit_compile": JIT_CHOICES,
}


def requirement(flat: Mapping[str, Any]) -> Callable[[str, bool, str], None]:
    """Returns `require(key, is_valid, remedy)`: unless valid, a `UserError` names key, value and remedy.

    Args:
      flat: the values by key, {'section.key': value}.
    """

    def require(key: str, is_valid: bool, remedy: str) -> None:
        if not is_valid:
            raise UserError(f"config.{key}={flat[key]!r}: {remedy}")

    return require


def validate(config: ml_collections.ConfigDict, flat: dict[str, Any], generator: dict[str, int]) -> None:
    """Raises a `UserError` that names key, value and remedy for the first value that cannot be trained with.

    Args:
      config: the config.
      flat: the same as {'section.key': value}.
      generator: the generator's sizes that follow from it.
    """
    require = requirement(flat)
    for key in _OPTIONAL_KEYS:
        require(key, flat[key] is None or flat[key] > 0, "must be greater than 0, or left unset")
    for key in _POSITIVE_KEYS:
        require(key, flat[key] > 0, "must be greater than 0")
    for key in _NON_NEGATIVE_KEYS:
        require(key, flat[key] >= 0, "must not be negative")
    for key in _FRACTION_KEYS:
        require(key, 0 <= flat[key] < 1, "must be a fraction, at least 0 and less than 1")
    for key in ("data.mask_token_prob", "data.random_token_prob"):
        require(key, 0 <= flat[key] <= 1, "must be a fraction from 0 to 1")
    require("data.random_token_prob", config.data.mask_token_prob + config.data.random_token_prob <= 1 + 1e-9,
            f"and config.data.mask_token_prob={config.data.mask_token_prob} are shares of the same slots: "
            f"together at most 1")  # fmt: skip
    for key in ("model.generator_size", "model.generator_layers"):
        require(key, 0 < flat[key] <= 1, "must be a fraction of the discriminator's, greater than 0 and at most 1")
    for key, choices in CHOICES.items():
        require(key, flat[key] in choices, f"must be one of {', '.join(choices)}{did_you_mean(flat[key], choices)}")
    _validate_sizes(config, generator, require)
    _validate_objective(config, require)
    _validate_schedule(config, require)
    _validate_checkpoints(config, require)
    _validate_watch(config, require)
    parse_probes(config.eval.probes)
    require("eval.probe_examples", config.eval.probe_examples >= LEAST_PROBE_EXAMPLES,
            f"are too few to tell anything: {LEAST_PROBE_EXAMPLES} at least")  # fmt: skip


def _validate_sizes(config: ml_collections.ConfigDict, generator: dict[str, int], require: Any) -> None:
    model = config.model
    require("model.hidden_size", model.hidden_size % model.num_attention_heads == 0,
            f"must be a multiple of config.model.num_attention_heads={model.num_attention_heads}")  # fmt: skip
    width, heads = generator["hidden_size"], generator["num_attention_heads"]
    key = "model.generator_size" if model.generator_hidden_size is None else "model.generator_hidden_size"
    has_generator = config.objective.name == "electra" and not config.objective.uniform_generator
    require(key, not has_generator or (width > 0 and width % heads == 0),
            f"makes a generator of width {width}, which {heads} attention heads do not divide")  # fmt: skip
    require("data.max_seq_length", config.data.max_seq_length >= 8, "must be at least 8 tokens")
    require("data.max_seq_length", config.data.max_seq_length <= model.max_position_embeddings,
            f"must be config.model.max_position_embeddings={model.max_position_embeddings} at most")  # fmt: skip
    require("model.type_vocab_size", model.type_vocab_size >= 2, "must be at least 2: examples have two segments")
    if model.vocab_size is not None:
        require("model.vocab_size", model.vocab_size > 5, "must be greater than the 5 special tokens")


def _validate_objective(config: ml_collections.ConfigDict, require: Any) -> None:
    objective = config.objective
    for key in ("tied_generator", "uniform_generator"):
        if objective[key]:
            require(f"objective.{key}", objective.name == "electra", "the objective mlm has no generator")
            require("model.embedding_sharing", config.model.embedding_sharing == "all",
                    f"must be all with config.objective.{key}: there is one network only")  # fmt: skip
    require("objective.tied_generator", not (objective.tied_generator and objective.uniform_generator),
            "a uniform generator has no network to tie; set only one of the two")  # fmt: skip


def _validate_schedule(config: ml_collections.ConfigDict, require: Any) -> None:
    train = config.train
    require(
        "optimizer.decay_fraction", config.optimizer.decay_fraction <= 1, "must be a fraction of the run, at most 1"
    )
    require("train.gradient_accumulation_steps", train.global_batch_size % train.gradient_accumulation_steps == 0,
            f"must divide config.train.global_batch_size={train.global_batch_size}")  # fmt: skip
    require("train.seed", 0 <= train.seed < 2**31, "must be at least 0 and less than 2**31")
    for key, interval in (
        ("train.log_interval", train.log_interval),
        ("train.checkpoint_interval", train.checkpoint_interval),
        ("eval.interval", config.eval.interval),
        ("eval.probe_interval", config.eval.probe_interval),
    ):
        require(key, interval % train.steps_per_loop == 0,
                f"must be a multiple of config.train.steps_per_loop={train.steps_per_loop}")  # fmt: skip


def _validate_watch(config: ml_collections.ConfigDict, require: Any) -> None:
    factor = config.watch.spike_factor
    require("watch.spike_factor", factor == 0 or factor > 1, "is a multiple of the usual loss: greater than 1, or 0")
    reach = config.train.keep_checkpoints * config.train.checkpoint_interval
    needed = config.train.log_interval + config.train.checkpoint_interval
    require("watch.spike_factor", factor == 0 or reach >= needed,
            f"a roll-back needs a checkpoint from before the last {config.train.log_interval} steps "
            f"(config.train.log_interval): raise config.train.keep_checkpoints={config.train.keep_checkpoints} or "
            f"config.train.checkpoint_interval={config.train.checkpoint_interval}")  # fmt: skip


def _validate_checkpoints(config: ml_collections.ConfigDict, require: Any) -> None:
    train = config.train
    require("train.keep_every_steps", train.keep_every_steps % train.checkpoint_interval == 0,
            f"must be a multiple of config.train.checkpoint_interval={train.checkpoint_interval}")  # fmt: skip
    metrics = BEST_METRICS[config.objective.name]
    require("train.best_metric", train.best_metric in ("", *metrics),
            f"must be empty or one of {', '.join(metrics)}{did_you_mean(train.best_metric, metrics)}")  # fmt: skip


_OPTIONAL_KEYS = (
    "model.generator_num_layers",
    "model.generator_hidden_size",
    "model.generator_num_attention_heads",
    "model.generator_intermediate_size",
)
_POSITIVE_KEYS = (
    "data.max_ngram",
    "model.embedding_size",
    "model.num_layers",
    "model.hidden_size",
    "model.num_attention_heads",
    "model.intermediate_size",
    "model.initializer_range",
    "objective.sampling_temperature",
    "optimizer.learning_rate",
    "optimizer.epsilon",
    "optimizer.clip_norm",
    "optimizer.decay_fraction",
    "data.mask_prob",
    "train.num_steps",
    "train.global_batch_size",
    "train.gradient_accumulation_steps",
    "train.steps_per_loop",
    "train.log_interval",
    "train.checkpoint_interval",
    "train.keep_checkpoints",
)
_NON_NEGATIVE_KEYS = (
    "objective.generator_loss_weight",
    "objective.discriminator_loss_weight",
    "optimizer.warmup_steps",
    "optimizer.weight_decay_rate",
    "eval.interval",
    "eval.num_examples",
    "eval.num_samples",
    "eval.probe_interval",
    "runtime.logical_cpus",
    "train.keep_every_steps",
    "watch.max_nonfinite_steps",
    "watch.max_rollbacks",
)
_FRACTION_KEYS = (
    "data.mask_prob",
    "model.hidden_dropout",
    "model.attention_dropout",
    "optimizer.beta_1",
    "optimizer.beta_2",
    "optimizer.ema_decay",
)
