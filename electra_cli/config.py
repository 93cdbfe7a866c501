"""Every setting of a pre-training run: declared once, overridden by presets and flags, validated and derived here.

`default_config()` declares the keys. The files in `configs/` override some of them; `--config.section.key=value`
overrides both. `resolve()` checks the whole and computes what follows from it. TensorFlow is not imported here.
"""

import json
import pathlib
from typing import Any

import ml_collections
from ml_collections import config_dict

from electra_cli.errors import UserError

PRECISIONS = ("float32", "bfloat16")
STRATEGIES = ("auto", "one_device", "mirrored")
JIT_CHOICES = ("auto", "true", "false")

# Keys that a started run may change: they decide what is watched, kept and computed on, not what is learned.
CHANGEABLE_KEYS = (
    "data.dir",
    "train.log_interval",
    "train.checkpoint_interval",
    "train.steps_per_loop",
    "train.keep_checkpoints",
    "eval.",
    "runtime.strategy",
    "runtime.logical_cpus",
    "runtime.jit_compile",
)


def default_config() -> ml_collections.ConfigDict:
    """Returns all keys with their defaults: ELECTRA-Small of the paper (Clark et al., ICLR 2020, Table 6)."""
    config = ml_collections.ConfigDict()

    config.data = data = ml_collections.ConfigDict()
    # Directory written by electra-prepare, or of TFRecords of google-research/electra or tf-models-official.
    data.dir = ""
    # Tokens of one example, padding included; must be that of the data.
    data.max_seq_length = 128
    # Fraction of an example's real tokens that is masked.
    data.mask_prob = 0.15
    # Fraction of the masked slots that shows [MASK]; the others keep their token (the original's choice).
    data.mask_token_prob = 0.85

    config.model = model = ml_collections.ConfigDict()
    # Entries of the vocabulary; unset: the data's. When set it must be the data's.
    model.vocab_size = config_dict.placeholder(int)
    # Width of the word, position and type embeddings, which both networks share.
    model.embedding_size = 128
    # Discriminator: layers, width, heads, width of the feed-forward layer.
    model.num_layers = 12
    model.hidden_size = 256
    model.num_attention_heads = 4
    model.intermediate_size = 1024
    # Generator: its width as a fraction of the discriminator's; heads of 64, feed-forward of 4 times its width.
    model.generator_size = 0.25
    # Generator: its layers as a fraction of the discriminator's.
    model.generator_layers = 1.0
    # Longest sequence, in tokens, that the position table serves.
    model.max_position_embeddings = 512
    # Segment types of the type table.
    model.type_vocab_size = 2
    # Dropout rate of embeddings, attention output and feed-forward output (fraction).
    model.hidden_dropout = 0.1
    # Dropout rate of attention probabilities (fraction).
    model.attention_dropout = 0.1
    # Standard deviation of the truncated normal that weights start from.
    model.initializer_range = 0.02

    config.objective = objective = ml_collections.ConfigDict()
    # total loss = generator_loss_weight x masked LM + discriminator_loss_weight x RTD (paper, section 2).
    objective.generator_loss_weight = 1.0
    objective.discriminator_loss_weight = 50.0
    # Temperature of the softmax that replacements are sampled from (the original's `temperature`).
    objective.sampling_temperature = 1.0

    config.optimizer = optimizer = ml_collections.ConfigDict()
    # Learning rate at the end of warm-up, before decay.
    optimizer.learning_rate = 5e-4
    # Steps of linear warm-up.
    optimizer.warmup_steps = 10_000
    # Decoupled weight decay of all weights but biases and LayerNorm.
    optimizer.weight_decay_rate = 0.01
    # Adam's moments and epsilon; there is no bias correction, as in the original.
    optimizer.beta_1 = 0.9
    optimizer.beta_2 = 0.999
    optimizer.epsilon = 1e-6
    # Global norm that gradients are clipped to.
    optimizer.clip_norm = 1.0

    config.train = train = ml_collections.ConfigDict()
    # Optimizer updates in the whole run; the learning rate reaches 0 there.
    train.num_steps = 1_000_000
    # Examples of one step over all replicas.
    train.global_batch_size = 128
    # Everything random follows from this number and the step.
    train.seed = 0
    # Steps of one host call; must divide every *_interval.
    train.steps_per_loop = 20
    # Steps between two lines of metrics.
    train.log_interval = 100
    # Steps between two checkpoints; one more is written at the end.
    train.checkpoint_interval = 2000
    # Newest checkpoints that are kept.
    train.keep_checkpoints = 3

    config.eval = evaluation = ml_collections.ConfigDict()
    # Steps between two evaluations; 0: only at the end.
    evaluation.interval = 10_000
    # Held-out examples of one evaluation, always the same ones with the same masks; 0: all.
    evaluation.num_examples = 10_000

    config.runtime = runtime = ml_collections.ConfigDict()
    # auto (all local GPUs, or the CPU), one_device, or mirrored (all local GPUs or logical CPUs).
    runtime.strategy = "auto"
    # float32, or bfloat16 for matrix multiplications (weights, losses and LayerNorm stay float32).
    runtime.precision = "float32"
    # Compile steps with XLA: auto (GPU: true, CPU: false), true or false.
    runtime.jit_compile = "auto"
    # Split the CPU into that many devices, to try data parallelism without GPUs; 0: leave it whole.
    runtime.logical_cpus = 0
    return config


def preset_directory() -> pathlib.Path:
    """Returns the directory of the shipped presets: installed with the package, or beside it in a checkout."""
    package = pathlib.Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def preset_names() -> list[str]:
    """Returns the names that `--config=` takes besides file names."""
    return sorted(path.stem for path in preset_directory().glob("*.py") if not path.stem.startswith("_"))


def preset_path(name: str) -> str:
    """Returns the config file that `--config=name` means: a preset's, or the file `name` itself.

    Raises:
      UserError: neither a preset nor a file.
    """
    if name in preset_names():
        return str(preset_directory() / f"{name}.py")
    if not pathlib.Path(name).is_file():
        raise UserError(
            f"--config={name}: no such file and no preset of that name; presets: {', '.join(preset_names())}"
        )
    return name


def describe_keys(config: ml_collections.ConfigDict, path: str) -> str:
    """Says which keys exist where `path` ('train.num_stepz') goes wrong."""
    section: Any = config
    where: list[str] = []
    for part in path.split("."):
        if not isinstance(section, ml_collections.ConfigDict):
            return f"config.{'.'.join(where)} is a value and has no keys"
        if part not in section:
            place = ".".join(["config", *where])
            return f"{place} has no key {part!r}; its keys: {', '.join(sorted(section.keys()))}"
        section = section[part]
        where.append(part)
    if isinstance(section, ml_collections.ConfigDict):
        return f"config.{path} is a section; its keys: {', '.join(sorted(section.keys()))}"
    return f"config.{path} is of type {config_type(config, path)}"


def config_type(config: ml_collections.ConfigDict, path: str) -> str:
    """Returns the name of the type that the key `path` takes."""
    section_name, _, key = path.rpartition(".")
    section = config
    for part in filter(None, section_name.split(".")):
        section = section[part]
    return section.get_type(key).__name__


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns {'section.key': value} of a nested config or dict."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def resolve(config: ml_collections.ConfigDict, vocab_size: int) -> ml_collections.FrozenConfigDict:
    """Validates `config` and returns it frozen, with a section `derived` of all that follows from it.

    Args:
      config: what `default_config()` returns, with overrides.
      vocab_size: entries of the data's vocabulary.

    Returns:
      The config with `derived.vocab_size`, `derived.max_predictions_per_seq` (masked slots of an example) and the
      generator's `derived.generator_{hidden_size,num_layers,num_attention_heads,intermediate_size}`.

    Raises:
      UserError: a value that cannot be trained with, named by key, with the remedy.
    """
    validate(config)
    if config.model.vocab_size is not None and config.model.vocab_size != vocab_size:
        raise UserError(
            f"config.model.vocab_size={config.model.vocab_size} but the vocabulary of {config.data.dir} has "
            f"{vocab_size} entries: leave the key unset, or prepare the data with a vocabulary of that size"
        )
    resolved = ml_collections.ConfigDict(config.to_dict())
    hidden_size = round(config.model.hidden_size * config.model.generator_size)
    length, mask_prob = config.data.max_seq_length, config.data.mask_prob
    resolved.derived = ml_collections.ConfigDict(
        {
            "vocab_size": vocab_size,
            # The original's number of slots (configure_pretraining.py): room for rounding up.
            "max_predictions_per_seq": min(length, max(1, int((mask_prob + 0.005) * length))),
            "generator_hidden_size": hidden_size,
            "generator_num_layers": max(1, round(config.model.num_layers * config.model.generator_layers)),
            # The original's rule: heads of 64 units, feed-forward of 4 times the width.
            "generator_num_attention_heads": max(1, hidden_size // 64),
            "generator_intermediate_size": 4 * hidden_size,
        }
    )
    return ml_collections.FrozenConfigDict(resolved)


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises a `UserError` that names key, value and remedy for the first value that cannot be trained with."""
    flat = flatten(config)

    def require(key: str, is_valid: bool, remedy: str) -> None:
        if not is_valid:
            raise UserError(f"config.{key}={flat[key]!r}: {remedy}")

    require("data.dir", bool(config.data.dir), "give the directory that electra-prepare wrote, --config.data.dir=DIR")
    for key in _POSITIVE_KEYS:
        require(key, flat[key] > 0, "must be greater than 0")
    for key in _NON_NEGATIVE_KEYS:
        require(key, flat[key] >= 0, "must not be negative")
    for key in _FRACTION_KEYS:
        require(key, 0 <= flat[key] < 1, "is a fraction: at least 0, less than 1")
    require("data.mask_token_prob", 0 <= flat["data.mask_token_prob"] <= 1, "is a fraction from 0 to 1")
    for key in ("model.generator_size", "model.generator_layers"):
        require(key, 0 < flat[key] <= 1, "is a fraction of the discriminator's: greater than 0, at most 1")
    require("runtime.strategy", flat["runtime.strategy"] in STRATEGIES, f"is one of {', '.join(STRATEGIES)}")
    require("runtime.precision", flat["runtime.precision"] in PRECISIONS, f"is one of {', '.join(PRECISIONS)}")
    require("runtime.jit_compile", flat["runtime.jit_compile"] in JIT_CHOICES, f"is one of {', '.join(JIT_CHOICES)}")
    _validate_sizes(config, require)
    _validate_schedule(config, require)


def _validate_sizes(config: ml_collections.ConfigDict, require: Any) -> None:
    model = config.model
    require("model.hidden_size", model.hidden_size % model.num_attention_heads == 0,
            f"must be a multiple of config.model.num_attention_heads={model.num_attention_heads}")  # fmt: skip
    generator_width = round(model.hidden_size * model.generator_size)
    heads = max(1, generator_width // 64)
    require("model.generator_size", generator_width > 0 and generator_width % heads == 0,
            f"makes a generator of width {generator_width}, which {heads} attention heads do not divide")  # fmt: skip
    require("data.max_seq_length", config.data.max_seq_length >= 8, "must be at least 8 tokens")
    require("data.max_seq_length", config.data.max_seq_length <= model.max_position_embeddings,
            f"is longer than config.model.max_position_embeddings={model.max_position_embeddings}")  # fmt: skip
    require("model.type_vocab_size", model.type_vocab_size >= 2, "must be at least 2: examples have two segments")
    if model.vocab_size is not None:
        require("model.vocab_size", model.vocab_size > 5, "must be greater than the 5 special tokens")


def _validate_schedule(config: ml_collections.ConfigDict, require: Any) -> None:
    train = config.train
    require("train.seed", 0 <= train.seed < 2**31, "must be at least 0 and less than 2**31")
    for key, interval in (
        ("train.log_interval", train.log_interval),
        ("train.checkpoint_interval", train.checkpoint_interval),
        ("eval.interval", config.eval.interval),
    ):
        require(key, interval % train.steps_per_loop == 0,
                f"must be a multiple of config.train.steps_per_loop={train.steps_per_loop}")  # fmt: skip


def notices(config: Any) -> list[str]:
    """Returns what is allowed but seldom meant, a line each."""
    found = []
    warmup_steps, num_steps = config.optimizer.warmup_steps, config.train.num_steps
    if warmup_steps > num_steps:
        found.append(
            f"config.optimizer.warmup_steps={warmup_steps:,} is longer than the run of {num_steps:,} steps: "
            f"the learning rate will never reach its peak"
        )
    return found


def differing_keys(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Compares two resolved configs as nested dicts.

    Returns:
      Two lists of 'key: old -> new': the differences that make another run, and those that a run may have.
    """
    # A key that came with a later version had, in effect, its default.
    flat_old, flat_new = {**flatten(default_config()), **flatten(old)}, flatten(new)
    forbidden: list[str] = []
    allowed: list[str] = []
    for key in sorted(flat_old.keys() | flat_new.keys()):
        if key.startswith("derived."):
            continue  # follows from the others and from the data, whose fingerprint is compared
        before, after = flat_old.get(key), flat_new.get(key)
        if before != after:
            is_changeable = any(
                key == name or (name.endswith(".") and key.startswith(name)) for name in CHANGEABLE_KEYS
            )
            (allowed if is_changeable else forbidden).append(f"{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return forbidden, allowed


_POSITIVE_KEYS = (
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
    "data.mask_prob",
    "train.num_steps",
    "train.global_batch_size",
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
    "runtime.logical_cpus",
)
_FRACTION_KEYS = (
    "data.mask_prob",
    "model.hidden_dropout",
    "model.attention_dropout",
    "optimizer.beta_1",
    "optimizer.beta_2",
)
