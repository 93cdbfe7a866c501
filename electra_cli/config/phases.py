"""Phases of one run, such as sequences of 128 tokens and then of 512: from `config.phases` to a config of each.

TensorFlow is not imported here.
"""

import dataclasses
from typing import Any

import ml_collections

from electra_cli.errors import UserError

# The keys of `config.phases` that hold a value for each phase, the key that it takes the place of, and its type.
COLUMNS: dict[str, tuple[str, type]] = {
    "data_dir": ("data.dir", str),
    "max_seq_length": ("data.max_seq_length", int),
    "global_batch_size": ("train.global_batch_size", int),
    "gradient_accumulation_steps": ("train.gradient_accumulation_steps", int),
    "learning_rate": ("optimizer.learning_rate", float),
}


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """A phase of a run.

    Attributes:
      number: from 0.
      begin: steps before its first.
      end: its last step.
      config: the run's config with the phase's own values in place of the run's.
    """

    number: int
    begin: int
    end: int
    config: ml_collections.ConfigDict


def divide(config: ml_collections.ConfigDict | ml_collections.FrozenConfigDict) -> list[PhaseConfig]:
    """Returns the phases of a config, one when it names none.

    Raises:
      UserError: the keys of `config.phases` do not fit each other or `config.train.num_steps`.
    """
    num_steps = config.phases.num_steps or (config.train.num_steps,)
    if config.phases.num_steps and any(not isinstance(steps, int) or steps < 1 for steps in num_steps):
        raise UserError(f"config.phases.num_steps={tuple(num_steps)}: give the steps of each phase, 1 or more")
    if sum(num_steps) != config.train.num_steps:
        raise UserError(
            f"config.phases.num_steps={tuple(num_steps)} are {sum(num_steps):,} steps together but "
            f"config.train.num_steps={config.train.num_steps}: set that to {sum(num_steps)}"
        )
    columns = {name: _column(config, name, len(num_steps)) for name in COLUMNS}
    phases = []
    begin = 0
    for number, steps in enumerate(num_steps):
        own = ml_collections.ConfigDict(config.to_dict())
        for name, values in columns.items():
            if values:
                section, key = COLUMNS[name][0].split(".")
                own[section][key] = values[number]
        phases.append(PhaseConfig(number, begin, begin + steps, own))
        begin += steps
    return phases


def _column(config: Any, name: str, num_phases: int) -> tuple[Any, ...]:
    values, wanted = tuple(config.phases[name]), COLUMNS[name][1]
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
