"""Every setting of a pre-training run: overridden by presets and flags, validated and derived here.

`default_config()` (`config_defaults.py`) declares the keys. The files in `configs/` override some of them;
`--config.section.key=value` overrides both. `resolve()` checks the whole (`config_checks.py`) and computes what follows
from it. TensorFlow is not imported here.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import ml_collections

from electra_cli.config import phases as config_phases
from electra_cli.config.checks import validate
from electra_cli.config.defaults import default_config
from electra_cli.config.phases import PhaseConfig
from electra_cli.config.suggestions import nearest
from electra_cli.errors import UserError

# Keys that a started run may change: they decide what is watched, kept and computed on, not what is learned.
CHANGEABLE_KEYS = (
    "data.dir",
    "phases.data_dir",
    "init.checkpoint",
    "init.vocab_file",
    "model.remat",
    "train.log_interval",
    "train.checkpoint_interval",
    "train.steps_per_loop",
    "train.keep_checkpoints",
    "train.keep_every_steps",
    "train.best_metric",
    "train.async_checkpoints",
    "train.histograms",
    "eval.",
    "watch.",
    "runtime.strategy",
    "runtime.worker_addresses",
    "runtime.worker_index",
    "runtime.tpu",
    "runtime.logical_cpus",
    "runtime.jit_compile",
)


# What people call the types of values.
_KINDS_OF_VALUES = {
    "bool": "true or false",
    "int": "a whole number, such as 1000",
    "float": "a number, such as 0.01",
    "str": "text",
    "tuple": "values separated by commas",
}


def describe_keys(config: ml_collections.ConfigDict, path: str) -> str:
    """Says which keys exist where `path` ('train.num_stepz') goes wrong."""
    section: Any = config
    where: list[str] = []
    for part in path.split("."):
        if not isinstance(section, ml_collections.ConfigDict):
            return f"config.{'.'.join(where)} is a value and has no keys"
        if part not in section:
            place = ".".join(["config", *where])
            meant = nearest(path, flatten(config))
            if meant is not None:
                return f"{place} has no key {part!r}; did you mean config.{meant}?"
            return f"{place} has no key {part!r}; its keys: {', '.join(sorted(section.keys()))}"
        section = section[part]
        where.append(part)
    if isinstance(section, ml_collections.ConfigDict):
        return f"config.{path} is a section; its keys: {', '.join(sorted(section.keys()))}"
    return f"config.{path} takes {_KINDS_OF_VALUES[config_type(config, path)]}"


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


# BERT's vocabulary of English, uncased, which the paper's models have.
DEFAULT_VOCAB_SIZE = 30_522


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The config of a run, checked, with all that follows from it.

    Attributes:
      resolved: of the whole run, with a section `derived`: `vocab_size`, `max_predictions_per_seq` (masked slots of an
        example) and the generator's `generator_{hidden_size,num_layers,num_attention_heads,intermediate_size}`.
      phases: its phases, one or more, each with a resolved config of its own.
      assumes_vocab_size: whether neither the config nor data gave the size of the vocabulary.
    """

    resolved: ml_collections.FrozenConfigDict
    phases: tuple[PhaseConfig, ...]
    assumes_vocab_size: bool = False


def check(config: ml_collections.ConfigDict, *, needs_data: bool = True) -> list[PhaseConfig]:
    """Returns the phases of a config, each with its unresolved config.

    Args:
      config: what `default_config()` returns, with overrides.
      needs_data: whether a phase without a directory of data is an error.

    Raises:
      UserError: a value that cannot be trained with, whatever the data, named by key, with the remedy.
    """
    phases = config_phases.divide(config)
    for phase in phases:
        try:
            validate(phase.config, flatten(phase.config), generator_sizes(config))
            if needs_data and not phase.config.data.dir:
                raise UserError(
                    "config.data.dir='': give the directory that electra-prepare wrote, --config.data.dir=DIR"
                )
        except UserError as error:
            where = f"in phase {phase.number + 1} of {len(phases)} (config.phases), " if len(phases) > 1 else ""
            raise UserError(f"{where}{error}") from None
    return phases


def resolve_phases(
    config: ml_collections.ConfigDict, phases: Sequence[PhaseConfig], vocab_size: int | None
) -> RunConfig:
    """Resolves a config whose phases `check` returned.

    Args:
      config: the config.
      phases: its phases.
      vocab_size: entries of the data's vocabulary; None: not known.

    Raises:
      UserError: the config has another size of the vocabulary.
    """
    given = config.model.vocab_size
    if None not in (given, vocab_size) and given != vocab_size:
        raise UserError(
            f"config.model.vocab_size={given} but the vocabulary of {config.data.dir} has {vocab_size} entries: leave "
            f"the key unset, or prepare the data with a vocabulary of that size"
        )
    size = vocab_size or given or DEFAULT_VOCAB_SIZE
    return RunConfig(
        _derive(config, size),
        tuple(dataclasses.replace(phase, config=_derive(phase.config, size)) for phase in phases),
        assumes_vocab_size=vocab_size is None and given is None,
    )


def resolve(config: ml_collections.ConfigDict, vocab_size: int) -> ml_collections.FrozenConfigDict:
    """Returns `RunConfig.resolved` of a config; raises as `check` and `resolve_phases`."""
    return resolve_phases(config, check(config), vocab_size).resolved


def _derive(config: ml_collections.ConfigDict, vocab_size: int) -> ml_collections.FrozenConfigDict:
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
    elif 2 * warmup_steps > num_steps:
        found.append(
            f"config.optimizer.warmup_steps={warmup_steps:,} is more than half of the run of {num_steps:,} steps: "
            f"is that meant?"
        )
    if config.train.best_metric and not with_evaluation:
        found.append("config.train.best_metric is not used: --mode=train evaluates nothing")
    if config.eval.probes and not with_evaluation:
        found.append("config.eval.probes is not used: --mode=train evaluates nothing")
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
        (not config.eval.probes, "config.eval.probes names no file", ("eval.probe_",)),
        *((bool(config.phases[name]), f"config.phases.{name} has a value for each phase", (key,))
          for name, (key, _) in config_phases.COLUMNS.items()),
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
        before, after = (
            list(value) if isinstance(value, tuple) else value for value in (flat_old.get(key), flat_new.get(key))
        )
        if before != after:
            is_changeable = any(
                key == name or (name.endswith(".") and key.startswith(name)) for name in CHANGEABLE_KEYS
            )
            (allowed if is_changeable else forbidden).append(f"{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return forbidden, allowed
