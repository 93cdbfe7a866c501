"""Checks and notices that relate several keys of a pre-training config. No TensorFlow here."""

import functools
from collections.abc import Callable
from typing import Any

import ml_collections

from electra_cli.config.fields import flatten, require
from electra_cli.config.labeled_files import parse_probes
from electra_cli.config.pretraining import BEST_METRICS, PRETRAINING
from electra_cli.config.suggestions import did_you_mean
from electra_cli.errors import UserError

# The keys of the section `model` that the architecture modern has beside the sizes.
MODERN_KEYS = ("global_attention_every", "local_attention", "global_rope_theta", "local_rope_theta", "norm_epsilon")
# The keys of `config.phases` that hold a value for each phase, and the key that it takes the place of.
PHASE_KEYS = {
    "data_dir": "data.dir",
    "max_seq_length": "data.max_seq_length",
    "global_batch_size": "train.global_batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation_steps",
    "learning_rate": "optimizer.learning_rate",
}
_Require = Callable[[str, bool, str], None]


def check_relations(config: ml_collections.ConfigDict, generator: dict[str, int]) -> None:
    """Raises a `UserError` for the first value that does not fit others; each is valid by itself.

    `generator`: the sizes that `resolution.generator_sizes` derives.
    """
    check: _Require = functools.partial(require, config)
    data = config.data
    check("data.random_token_prob", data.mask_token_prob + data.random_token_prob <= 1 + 1e-9,
          f"and config.data.mask_token_prob={data.mask_token_prob} are shares of the same slots: together at most 1",
    )  # fmt: skip
    _check_sizes(config, generator, check)
    _check_objective(config, check)
    _check_steps(config, check)
    _check_checkpoints(config, check)
    parse_probes(config.eval.probes)


def _check_sizes(config: ml_collections.ConfigDict, generator: dict[str, int], check: _Require) -> None:
    model = config.model
    check("model.hidden_size", model.hidden_size % model.num_attention_heads == 0,
          f"must be a multiple of config.model.num_attention_heads={model.num_attention_heads}")  # fmt: skip
    width, heads = generator["hidden_size"], generator["num_attention_heads"]
    key = "model.generator_size" if model.generator_hidden_size is None else "model.generator_hidden_size"
    has_generator = config.objective.name != "mlm" and not config.objective.uniform_generator
    check(key, not has_generator or (width > 0 and width % heads == 0),
          f"makes a generator of width {width}, which {heads} attention heads do not divide")  # fmt: skip
    if model.architecture == "modern":
        _check_modern(config, generator if has_generator else None, key, check)
    else:
        for name in MODERN_KEYS:
            default = PRETRAINING.fields[f"model.{name}"].default
            check(f"model.{name}", model[name] == default,
                  f"belongs to config.model.architecture=modern: set that, or leave it at {default!r}")  # fmt: skip
        check("data.max_seq_length", config.data.max_seq_length <= model.max_position_embeddings,
              f"must be config.model.max_position_embeddings={model.max_position_embeddings} at most")  # fmt: skip


def _check_modern(
    config: ml_collections.ConfigDict, generator: dict[str, int] | None, generator_key: str, check: _Require
) -> None:
    """Checks the sizes of the architecture modern; `generator_key` decides the generator's width, if there is one."""
    model, name = config.model, "config.model.architecture=modern"
    check("model.embedding_size", model.embedding_size == model.hidden_size,
          f"must be config.model.hidden_size={model.hidden_size} with {name}: it projects no embeddings")  # fmt: skip
    check("model.type_vocab_size", model.type_vocab_size == PRETRAINING.fields["model.type_vocab_size"].default,
          f"{name} has no segment types: leave the key unset")  # fmt: skip
    networks = {"model.num_attention_heads": (model.hidden_size, model.num_attention_heads)}
    if generator is not None:
        width, heads = generator["hidden_size"], generator["num_attention_heads"]
        networks["model.generator_num_attention_heads"] = (width, heads)
        check(generator_key, width == model.hidden_size or model.embedding_sharing == "none",
              f"makes a generator of width {width}; with {name} networks of equal width alone share embeddings: make "
              f"it {model.hidden_size}, or set config.model.embedding_sharing=none")  # fmt: skip
    for key, (width, heads) in networks.items():
        check(key, width // heads % 2 == 0,
              f"makes {heads} heads of width {width // heads}; with {name} it must be even, for rotary positions: "
              f"choose another number of heads")  # fmt: skip


def _check_objective(config: ml_collections.ConfigDict, check: _Require) -> None:
    objective = config.objective
    for key in ("tied_generator", "uniform_generator"):
        if objective[key]:
            check(f"objective.{key}", objective.name != "mlm", "the objective mlm has no generator")
            check("model.embedding_sharing", config.model.embedding_sharing == "all",
                  f"must be all with config.objective.{key}: there is one network only")  # fmt: skip
    has_own = objective.name == "electra" and not (objective.tied_generator or objective.uniform_generator)
    for key, is_set in (("init.generator", config.init.generator != ""),
                        ("objective.frozen_generator", objective.frozen_generator)):  # fmt: skip
        check(key, has_own or not is_set, "leave it out: it is for a generator of config.objective.name=electra "
              "that is neither tied nor uniform")  # fmt: skip
    separate = ("none", "gradient_disentangled")
    check("model.embedding_sharing", not objective.frozen_generator or config.model.embedding_sharing in separate,
          f"must be {' or '.join(separate)} with config.objective.frozen_generator: the discriminator trains what the "
          f"two share")  # fmt: skip
    check("objective.tied_generator", not (objective.tied_generator and objective.uniform_generator),
          "a uniform generator has no network to tie; set only one of the two")  # fmt: skip
    if objective.name == "electric":
        for key in ("tied_generator", "uniform_generator", "disallow_correct", "sampling_temperature"):
            default = PRETRAINING.fields[f"objective.{key}"].default
            check(f"objective.{key}", objective[key] == default,
                  f"must be {default!r} with config.objective.name=electric, which learns against what its two towers "
                  f"predict, as they predict it")  # fmt: skip
        for key, value in flatten(config).items():
            check(key, value is None or not key.endswith("_end"),
                  "must be unset with config.objective.name=electric, whose noise and weights stay as they are",
            )  # fmt: skip
    if objective.name == "teams":
        for key in ("tied_generator", "uniform_generator"):
            check(f"objective.{key}", not objective[key], "belongs to config.objective.name=electra")
        num_layers = config.model.num_layers
        check("objective.task_layers", objective.task_layers < num_layers,
              f"must be less than config.model.num_layers={num_layers}: the layers below have both tasks")  # fmt: skip
        check("model.embedding_sharing", config.model.embedding_sharing == "all",
              "must be all with config.objective.name=teams: the networks share layers, too")  # fmt: skip
    _check_weights(config, check)
    metrics, best = BEST_METRICS[objective.name], config.train.best_metric
    check("train.best_metric", best in ("", *metrics),
          f"must be empty or one of {', '.join(metrics)}{did_you_mean(best, metrics)}")  # fmt: skip


def _check_weights(config: ml_collections.ConfigDict, check: _Require) -> None:
    """Checks that some loss has a weight, at first or at the end; that of a fixed generator changes nothing."""
    objective = config.objective
    unlearned = ["generator"] if objective.uniform_generator or objective.frozen_generator else []
    unlearned += ["selection"] if objective.name != "teams" else []
    weights = {key: value for key, value in flatten(objective).items()
               if "_loss_weight" in key and not key.startswith(tuple(unlearned))}  # fmt: skip
    check("objective.discriminator_loss_weight", objective.name == "mlm" or any(weights.values()),
          f"nothing would be learned: give a loss that trains a network a weight greater than 0 "
          f"({', '.join(key for key in weights if key.endswith('weight'))})")  # fmt: skip


def require_energies(objective: str, workdir: str) -> None:
    """Raises a `UserError` where a run of an objective, `config.objective.name`, cannot score texts."""
    if objective != "electric":
        raise UserError(
            f"{workdir} is of config.objective.name={objective}, which scores no texts: give a run of electric"
        )


def _check_steps(config: ml_collections.ConfigDict, check: _Require) -> None:
    train = config.train
    check("train.gradient_accumulation_steps", train.global_batch_size % train.gradient_accumulation_steps == 0,
          f"must divide config.train.global_batch_size={train.global_batch_size}")  # fmt: skip
    flat = flatten(config)
    for key in ("train.log_interval", "train.checkpoint_interval", "eval.interval", "eval.probe_interval"):
        check(key, flat[key] % train.steps_per_loop == 0,
              f"must be a multiple of config.train.steps_per_loop={train.steps_per_loop}")  # fmt: skip


def _check_checkpoints(config: ml_collections.ConfigDict, check: _Require) -> None:
    train = config.train
    check("train.keep_every_steps", train.keep_every_steps % train.checkpoint_interval == 0,
          f"must be a multiple of config.train.checkpoint_interval={train.checkpoint_interval}")  # fmt: skip
    reach, needed = train.keep_checkpoints * train.checkpoint_interval, train.log_interval + train.checkpoint_interval
    check("watch.spike_factor", config.watch.spike_factor == 0 or reach >= needed,
          f"a roll-back needs a checkpoint from before the last {train.log_interval} steps "
          f"(config.train.log_interval): raise config.train.keep_checkpoints={train.keep_checkpoints} or "
          f"config.train.checkpoint_interval={train.checkpoint_interval}")  # fmt: skip


def notices(config: Any, with_evaluation: bool = True) -> list[str]:
    """Returns what is allowed in a config but seldom meant, a line each."""
    lines = []
    warmup_steps, num_steps = config.optimizer.warmup_steps, config.train.num_steps
    if warmup_steps > num_steps:
        lines.append(
            f"config.optimizer.warmup_steps={warmup_steps:,} is longer than the run of {num_steps:,} steps: "
            f"the learning rate will never reach its peak"
        )
    elif 2 * warmup_steps > num_steps:
        lines.append(
            f"config.optimizer.warmup_steps={warmup_steps:,} is more than half of the run of {num_steps:,} steps: "
            f"is that meant?"
        )
    longest = max(config.phases.max_seq_length or [config.data.max_seq_length])
    if config.model.architecture == "modern" and config.model.local_attention // 2 >= longest - 1:
        lines.append(
            f"config.model.local_attention={config.model.local_attention} reaches all of {longest} tokens "
            f"(config.data.max_seq_length): every layer attends to the complete text"
        )
    for key, value in (("train.best_metric", config.train.best_metric), ("eval.probes", config.eval.probes)):
        if value and not with_evaluation:
            lines.append(f"config.{key} is not used: --mode=train evaluates nothing")
    return lines + [f"config.{key} is not used: {reason}" for key, reason in _unused_keys(config)]


def _unused_keys(config: Any) -> list[tuple[str, str]]:
    """Returns the keys that were set and are not read, each with the reason."""
    flat = flatten(config)
    groups: list[tuple[bool, str, tuple[str, ...]]] = [
        (config.objective.name == "mlm", "the objective mlm has no generator and no discriminator",
         ("model.generator_", "model.embedding_sharing", "objective.")),
        (config.objective.name == "electric", "the two towers of the objective electric read text without masks",
         ("data.mask_token_prob", "data.random_token_prob")),
        (config.objective.name == "teams", "the generator of teams has the discriminator's width",
         ("model.generator_size", "model.generator_layers", "model.generator_hidden_size",
          "model.generator_num_attention_heads", "model.generator_intermediate_size")),
        (config.objective.name not in ("mlm", "teams"), "it belongs to config.objective.name=teams",
         ("objective.selection_", "objective.num_candidates", "objective.shared_layers", "objective.task_layers")),
        (config.objective.uniform_generator, "a uniform generator has no network",
         ("model.generator_", "objective.sampling_temperature")),
        (config.objective.tied_generator, "a tied generator has the discriminator's sizes", ("model.generator_",)),
        (config.optimizer.schedule != "warmup_stable_decay", "it belongs to config.optimizer.schedule="
         "warmup_stable_decay", ("optimizer.decay_fraction",)),
        (config.model.architecture == "modern", "the architecture modern has no position table", ("init.positions",)),
        (all(flat[key] is None for key in flat if key.endswith("_end")), "no key ..._end is set",
         ("train.value_schedule",)),
        (not config.eval.probes, "config.eval.probes names no file", ("eval.probe_",)),
        *((bool(config.phases[name]), f"config.phases.{name} has a value for each phase", (key,))
          for name, key in PHASE_KEYS.items()),
    ]  # fmt: skip
    return [
        (key, reason)
        for is_unused, reason, prefixes in groups
        if is_unused
        for key, field in sorted(PRETRAINING.fields.items())
        if key != "objective.name" and key.startswith(prefixes) and flat[key] != field.default
    ]
