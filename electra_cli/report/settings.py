"""What differs between a run's config and presets, and between runs. No TensorFlow here."""

import dataclasses
import json
import runpy
from collections.abc import Sequence
from typing import Any

from electra_cli.config import default_config
from electra_cli.config.fields import flatten
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.report.records import RunRecord

# Say where data lies, not what the run is.
_PLACES = ("data.dir", "phases.data_dir", "init.checkpoint", "init.vocab_file")


@dataclasses.dataclass(frozen=True)
class Difference:
    """A key whose values differ.

    Attributes:
      key: 'section.key'.
      values: as JSON; 'unset' where a config has no such key, since that came or went with another version.
    """

    key: str
    values: tuple[str, ...]


def differences(configs: Sequence[dict[str, Any]]) -> list[Difference]:
    """Returns the keys whose values are not the same in all of some nested configs; derived ones are left out."""
    # A key that came with a later version had, in effect, its default.
    flat = [{**flatten(default_config()), **flatten(config)} for config in configs]
    found = []
    for key in sorted({key for values in flat for key in values if not key.startswith("derived.")}):
        shown = tuple(_shown(values, key) for values in flat)
        if len(set(shown)) > 1:
            found.append(Difference(key, shown))
    return found


def closest_preset(config: dict[str, Any]) -> tuple[str, list[Difference]]:
    """Returns the preset that a config differs least from, and in what: (preset's value, run's value) of each key.

    Where data lies is not compared.
    """
    found = {}
    for name in PRETRAINING.names():
        preset = runpy.run_path(PRETRAINING.path(name))["get_config"]().to_dict()
        found[name] = [row for row in differences([preset, config]) if row.key not in _PLACES]
    closest = min(found, key=lambda name: len(found[name]))
    return closest, found[closest]


def between_runs(runs: Sequence[RunRecord]) -> list[Difference]:
    """Returns the keys in which runs differ; those whose config cannot be read have a '?'."""
    known = [run.config for run in runs if run.config is not None]
    rows = []
    for row in differences(known) if len(known) > 1 else []:
        values = iter(row.values)
        rows.append(Difference(row.key, tuple("?" if run.config is None else next(values) for run in runs)))
    return rows


def all_settings(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns all keys with their values as JSON."""
    flat = flatten(config)
    return [(key, _shown(flat, key)) for key in sorted(flat)]


def describe_model(config: dict[str, Any]) -> str:
    """Returns the objective and the sizes of a nested resolved config, in a line."""
    model, objective, derived = config["model"], config["objective"], config.get("derived", {})
    sizes = f"{model.get('num_layers')} layers of {model.get('hidden_size')}"
    if objective["name"] == "mlm":
        return f"masked language modeling, {sizes}"
    if objective.get("uniform_generator"):
        return f"discriminator {sizes}, no generator"
    if objective.get("tied_generator"):
        return f"one network for both, {sizes}"
    generator = f"{derived.get('generator_num_layers')} of {derived.get('generator_hidden_size')}"
    return f"discriminator {sizes}, generator {generator}"


def _shown(flat: dict[str, Any], key: str) -> str:
    if key not in flat:
        return "unset"
    value = flat[key]
    return json.dumps(list(value) if isinstance(value, tuple) else value)
