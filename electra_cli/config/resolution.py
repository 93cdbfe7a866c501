"""Resolves a config with overrides: checked, divided into phases, with derived values. No TensorFlow here.

Phases are stretches of one run, such as sequences of 128 tokens and then of 512.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import ml_collections

from electra_cli.config.checks import PHASE_KEYS, check_relations
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.errors import UserError

# BERT's vocabulary of English, uncased, which the paper's models have.
DEFAULT_VOCAB_SIZE = 30_522


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """A phase of a run."""

    number: int  # from 0
    begin: int  # steps before its first
    end: int  # its last step
    config: ml_collections.ConfigDict  # the run's, with the phase's own values


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The checked config of a run.

    `resolved` has a section `derived`: `vocab_size`, `max_predictions_per_seq` (masked slots of an example) and the
    generator's `generator_{hidden_size,num_layers,num_attention_heads,intermediate_size}`; so have those of the phases.
    """

    resolved: ml_collections.FrozenConfigDict
    phases: tuple[PhaseConfig, ...]
    assumes_vocab_size: bool = False  # neither the config nor data gave it


def check(config: ml_collections.ConfigDict, *, needs_data: bool = True) -> list[PhaseConfig]:
    """Returns the phases of a config, not yet resolved.

    Raises:
      UserError: a value cannot be trained with, whatever the data; or, with `needs_data`, a phase has no directory.
    """
    phases = divide(config)
    for phase in phases:
        try:
            PRETRAINING.check_values(phase.config)
            check_relations(phase.config, generator_sizes(config))
            if needs_data and not phase.config.data.dir:
                raise UserError(
                    "config.data.dir='': give the directory that electra-prepare wrote, --config.data.dir=DIR"
                )
        except UserError as error:
            where = f"in phase {phase.number + 1} of {len(phases)} (config.phases), " if len(phases) > 1 else ""
            raise UserError(f"{where}{error}") from None
    return phases


def divide(config: ml_collections.ConfigDict | ml_collections.FrozenConfigDict) -> list[PhaseConfig]:
    """Returns the phases of a config, one when it names none; raises a `UserError` where keys do not fit each other."""
    num_steps = config.phases.num_steps or (config.train.num_steps,)
    if config.phases.num_steps and any(not isinstance(steps, int) or steps < 1 for steps in num_steps):
        raise UserError(f"config.phases.num_steps={tuple(num_steps)}: give the steps of each phase, 1 or more")
    if sum(num_steps) != config.train.num_steps:
        raise UserError(
            f"config.phases.num_steps={tuple(num_steps)} are {sum(num_steps):,} steps together but "
            f"config.train.num_steps={config.train.num_steps}: set that to {sum(num_steps)}"
        )
    values = {key: _phase_values(config, name, len(num_steps)) for name, key in PHASE_KEYS.items()}
    phases = []
    begin = 0
    for number, steps in enumerate(num_steps):
        own = ml_collections.ConfigDict(config.to_dict())
        own.update_from_flattened_dict({key: of_phases[number] for key, of_phases in values.items() if of_phases})
        phases.append(PhaseConfig(number, begin, begin + steps, own))
        begin += steps
    return phases


def _phase_values(config: Any, name: str, num_phases: int) -> tuple[Any, ...]:
    """Returns the values of a key of `config.phases`, one for each phase, or none."""
    values, wanted = tuple(config.phases[name]), type(PRETRAINING.fields[PHASE_KEYS[name]].default)
    if wanted is str:  # a command line without quotes inside gives 'first,second' as one
        values = tuple(part.strip() for value in values for part in str(value).split(","))
    if wanted is float:
        values = tuple(float(value) if isinstance(value, int) else value for value in values)
    if any(not isinstance(value, wanted) for value in values):
        raise UserError(f"config.phases.{name}={values}: give a value of type {wanted.__name__} for each phase")
    if values and len(values) != num_phases:
        raise UserError(
            f"config.phases.{name}={values}: {len(values)} values for {num_phases} phases "
            f"(config.phases.num_steps); give one for each, or none"
        )
    return values


def resolve_phases(
    config: ml_collections.ConfigDict, phases: Sequence[PhaseConfig], vocab_size: int | None
) -> RunConfig:
    """Resolves a config whose phases `check` returned; `vocab_size`: of the data's vocabulary, None: not known.

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
    mistake = PRETRAINING.fields["model.vocab_size"].find_mistake(size)
    if type(size) is not int or mistake is not None:  # as in a record that was changed
        raise UserError(f"derived.vocab_size={size!r}: {mistake or 'must be a whole number'}")
    num_candidates = config.objective.num_candidates
    if config.objective.name == "teams" and num_candidates > size:
        raise UserError(
            f"config.objective.num_candidates={num_candidates} but the vocabulary has {size} entries: choose fewer"
        )
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
    if config.model.architecture == "modern":  # no table limits them
        longest = max(config.phases.max_seq_length or [config.data.max_seq_length])
        resolved.model.max_position_embeddings = max(config.model.max_position_embeddings, longest)
    largest_rate = max(config.data.mask_prob, config.data.mask_prob_end or 0.0)
    resolved.derived = ml_collections.ConfigDict(
        {
            "vocab_size": vocab_size,
            "max_predictions_per_seq": num_predictions(largest_rate, config.data.max_seq_length),
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
    kept = {name: model[name] for name in ("hidden_size", "num_layers", "num_attention_heads", "intermediate_size")}
    if config.objective.tied_generator:
        return kept
    if config.objective.name == "teams":  # half of the layers, as in its official configs
        return {**kept, "num_layers": model.generator_num_layers or max(1, model.num_layers // 2)}
    hidden_size = model.generator_hidden_size or round(model.hidden_size * model.generator_size)
    return {
        "hidden_size": hidden_size,
        "num_layers": model.generator_num_layers or max(1, round(model.num_layers * model.generator_layers)),
        # The original's rule: heads of 64 units, feed-forward of 4 times the width.
        "num_attention_heads": model.generator_num_attention_heads or max(1, hidden_size // 64),
        "intermediate_size": model.generator_intermediate_size or 4 * hidden_size,
    }
