"""Every setting of a pre-training run: declared once, overridden by presets and flags, validated and derived here.

`default_config()` declares the keys. The files in `configs/` override some of them; `--config.section.key=value`
overrides both. `resolve()` checks the whole (`config_checks.py`) and computes what follows from it. TensorFlow is not
imported here.
"""

import json
import pathlib
from typing import Any

import ml_collections
from ml_collections import config_dict

from electra_cli.config_checks import validate
from electra_cli.errors import UserError

# Keys that a started run may change: they decide what is watched, kept and computed on, not what is learned.
CHANGEABLE_KEYS = (
    "data.dir",
    "train.log_interval",
    "train.checkpoint_interval",
    "train.steps_per_loop",
    "train.keep_checkpoints",
    "train.keep_every_steps",
    "train.best_metric",
    "train.async_checkpoints",
    "eval.",
    "runtime.strategy",
    "runtime.worker_addresses",
    "runtime.worker_index",
    "runtime.tpu",
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
    # Fraction of the masked slots that shows [MASK], and fraction that shows a random token; the others keep their
    # token. The original's choice; BERT's is 0.8 and 0.1.
    data.mask_token_prob = 0.85
    data.random_token_prob = 0.0
    # What is masked as one: token, or word (WordPiece's "##", or the segmentation that the data was prepared with).
    data.mask_unit = "token"
    # Longest span, in units, that is masked as one; a length n is drawn in proportion to 1/n (ALBERT, section 4.1).
    data.max_ngram = 1

    config.model = model = ml_collections.ConfigDict()
    # Entries of the vocabulary; unset: the data's. When set it must be the data's.
    model.vocab_size = config_dict.placeholder(int)
    # Width of the word, position and type embeddings.
    model.embedding_size = 128
    # What the networks share: all (word, position and type embeddings and their LayerNorm: the original), word (the
    # word embeddings), none, or gradient_disentangled (the discriminator adds its own to the generator's, which it
    # does not change: DeBERTaV3, section 3.3).
    model.embedding_sharing = "all"
    # Discriminator: layers, width, heads, width of the feed-forward layer.
    model.num_layers = 12
    model.hidden_size = 256
    model.num_attention_heads = 4
    model.intermediate_size = 1024
    # Generator: its width as a fraction of the discriminator's; heads of 64, feed-forward of 4 times its width.
    model.generator_size = 0.25
    # Generator: its layers as a fraction of the discriminator's.
    model.generator_layers = 1.0
    # Generator by numbers, each in place of what the two fractions give; unset: the fractions decide.
    model.generator_num_layers = config_dict.placeholder(int)
    model.generator_hidden_size = config_dict.placeholder(int)
    model.generator_num_attention_heads = config_dict.placeholder(int)
    model.generator_intermediate_size = config_dict.placeholder(int)
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
    # electra, or mlm: masked language modeling alone (BERT without next-sentence prediction), which trains the network
    # of the discriminator's size and reads no other key of this section.
    objective.name = "electra"
    # total loss = generator_loss_weight x masked LM + discriminator_loss_weight x RTD (paper, section 2).
    objective.generator_loss_weight = 1.0
    objective.discriminator_loss_weight = 50.0
    # Temperature of the softmax that replacements are sampled from (the original's `temperature`).
    objective.sampling_temperature = 1.0
    # Never sample the original token (the original's `disallow_correct`).
    objective.disallow_correct = False
    # Draw replacements uniformly from the vocabulary; there is no generator (the original's `uniform_generator`).
    objective.uniform_generator = False
    # One network for both, of the discriminator's size, with two heads (paper, section 3.2: tying all weights).
    objective.tied_generator = False

    config.optimizer = optimizer = ml_collections.ConfigDict()
    # adam_weight_decay (the original's: no bias correction), adamw (with bias correction), or lamb.
    optimizer.name = "adam_weight_decay"
    # Learning rate at the end of warm-up, before decay.
    optimizer.learning_rate = 5e-4
    # linear (the original's product of warm-up and decay), cosine, or warmup_stable_decay.
    optimizer.schedule = "linear"
    # Steps of linear warm-up.
    optimizer.warmup_steps = 10_000
    # warmup_stable_decay: fraction of the run, at its end, in which the rate falls to 0.
    optimizer.decay_fraction = 0.1
    # Decoupled weight decay of all weights but biases and LayerNorm.
    optimizer.weight_decay_rate = 0.01
    # Decay of Adam's moments, and epsilon.
    optimizer.beta_1 = 0.9
    optimizer.beta_2 = 0.999
    optimizer.epsilon = 1e-6
    # Global norm that gradients are clipped to.
    optimizer.clip_norm = 1.0
    # Decay of the exponential moving average of the weights that evaluation uses; 0: none is kept.
    optimizer.ema_decay = 0.0

    config.train = train = ml_collections.ConfigDict()
    # Optimizer updates in the whole run; the learning rate reaches 0 there.
    train.num_steps = 1_000_000
    # Examples of one step over all replicas.
    train.global_batch_size = 128
    # Parts that a replica divides its share of a step's examples into, one after the other, to save memory.
    train.gradient_accumulation_steps = 1
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
    # Steps between two checkpoints that are kept for good, beside the newest; 0: none.
    train.keep_every_steps = 0
    # Held-out metric by which the best checkpoint is kept, beside the others: the lowest of a loss, the highest of any
    # other; empty: none.
    train.best_metric = ""
    # Write checkpoints in the background while training goes on; takes memory for a copy of what is written.
    train.async_checkpoints = False

    config.eval = evaluation = ml_collections.ConfigDict()
    # Steps between two evaluations; 0: only at the end.
    evaluation.interval = 10_000
    # Held-out examples of one evaluation, always the same ones with the same masks; 0: all.
    evaluation.num_examples = 10_000

    config.runtime = runtime = ml_collections.ConfigDict()
    # auto (TPUs if there are any; several workers where TF_CONFIG, Slurm or runtime.worker_addresses name them; all
    # local GPUs; or the CPU), one_device, mirrored (all local GPUs or logical CPUs), multi_worker_mirrored, or tpu.
    runtime.strategy = "auto"
    # Of several workers (processes, with all their GPUs each): host:port of each, comma-separated, the same everywhere;
    # and which of them this process is, from 0. Not needed under Slurm (srun) or with TF_CONFIG.
    runtime.worker_addresses = ""
    runtime.worker_index = -1
    # The TPU's name or address; '': the one that TPU_NAME names, or the one attached to this machine.
    runtime.tpu = ""
    # float32, mixed_bfloat16, or mixed_float16 (with dynamic loss scaling): what matrix products are computed in.
    # Weights, softmax, sampling, LayerNorm and losses are float32 in all of them.
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


def check(config: ml_collections.ConfigDict) -> None:
    """Raises a `UserError` for the first value that cannot be trained with, whatever the data."""
    validate(config, flatten(config), generator_sizes(config))


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
    check(config)
    if config.model.vocab_size is not None and config.model.vocab_size != vocab_size:
        raise UserError(
            f"config.model.vocab_size={config.model.vocab_size} but the vocabulary of {config.data.dir} has "
            f"{vocab_size} entries: leave the key unset, or prepare the data with a vocabulary of that size"
        )
    resolved = ml_collections.ConfigDict(config.to_dict())
    resolved.derived = ml_collections.ConfigDict(
        {
            "vocab_size": vocab_size,
            "max_predictions_per_seq": num_predictions(config.data.mask_prob, config.data.max_seq_length),
            **{f"generator_{name}": size for name, size in generator_sizes(config).items()},
        }
    )
    return ml_collections.FrozenConfigDict(resolved)


def num_predictions(mask_prob: float, max_seq_length: int) -> int:
    """Returns the masked slots of an example, as the original derives them (configure_pretraining.py)."""
    return min(max_seq_length, max(1, int((mask_prob + 0.005) * max_seq_length)))  # 0.005: room for rounding up


def generator_sizes(config: ml_collections.ConfigDict) -> dict[str, int]:
    """Returns the generator's `hidden_size`, `num_layers`, `num_attention_heads` and `intermediate_size`."""
    model = config.model
    if config.objective.tied_generator:
        return {name: model[name] for name in ("hidden_size", "num_layers", "num_attention_heads", "intermediate_size")}
    hidden_size = model.generator_hidden_size or round(model.hidden_size * model.generator_size)
    return {
        "hidden_size": hidden_size,
        "num_layers": model.generator_num_layers or max(1, round(model.num_layers * model.generator_layers)),
        # The original's rule: heads of 64 units, feed-forward of 4 times the width.
        "num_attention_heads": model.generator_num_attention_heads or max(1, hidden_size // 64),
        "intermediate_size": model.generator_intermediate_size or 4 * hidden_size,
    }


def notices(config: Any, with_evaluation: bool = True) -> list[str]:
    """Returns what is allowed but seldom meant, a line each.

    Args:
      config: a config.
      with_evaluation: whether the run evaluates.
    """
    found = []
    warmup_steps, num_steps = config.optimizer.warmup_steps, config.train.num_steps
    if warmup_steps > num_steps:
        found.append(
            f"config.optimizer.warmup_steps={warmup_steps:,} is longer than the run of {num_steps:,} steps: "
            f"the learning rate will never reach its peak"
        )
    if config.train.best_metric and not with_evaluation:
        found.append("config.train.best_metric is not used: --mode=train evaluates nothing")
    return found + [f"config.{key} is not used: {reason}" for key, reason in _unused_keys(config)]


def _unused_keys(config: Any) -> list[tuple[str, str]]:
    """Returns the keys that were set and are not read, each with the reason."""
    default, flat = flatten(default_config()), flatten(config)
    groups: list[tuple[bool, str, tuple[str, ...]]] = [
        (config.objective.name == "mlm", "the objective mlm has no generator and no discriminator",
         ("model.generator_", "model.embedding_sharing", "objective.")),
        (config.objective.uniform_generator, "a uniform generator has no network",
         ("model.generator_", "objective.sampling_temperature")),
        (config.objective.tied_generator, "a tied generator has the discriminator's sizes", ("model.generator_",)),
        (config.optimizer.schedule != "warmup_stable_decay", "it belongs to config.optimizer.schedule="
         "warmup_stable_decay", ("optimizer.decay_fraction",)),
    ]  # fmt: skip
    return [
        (key, reason)
        for is_so, reason, prefixes in groups
        if is_so
        for key in sorted(flat)
        if key != "objective.name" and key.startswith(prefixes) and flat[key] != default.get(key, flat[key])
    ]


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
