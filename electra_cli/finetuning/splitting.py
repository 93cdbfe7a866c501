"""A part of the training examples, held out where there is no validation file."""

import collections
from collections.abc import Sequence

import numpy as np

from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Example

# Sets the draws of this module apart from others of the same seed.
_STREAM = 0x5B117


def split_off(
    examples: Sequence[Example], fraction: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Divides examples into those that are trained on and those that are held out, both in the order of the file.

    Of each class the same fraction is held out, within an example, but never all of it. Examples with the same text,
    or in question answering the same context, stay together.

    Args:
      examples: labelled examples.
      fraction: of the examples that are held out, between 0 and 1; one at least.
      seed: which ones; equal seeds give equal parts.

    Returns:
      (training, validation).

    Raises:
      UserError: there are too few examples to divide.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, _STREAM], np.uint64)))
    strata: dict[str, list[list[int]]] = collections.defaultdict(list)
    for group in _groups(examples):
        label = examples[group[0]].label
        strata[label if isinstance(label, str) else ""].append(group)
    remaining = collections.Counter(label for example in examples for label in _labels_of(example))
    held_out: set[int] = set()

    def hold_out(group: list[int]) -> bool:
        """Holds a group out unless the last example of a label is in it, which is trained on."""
        labels = collections.Counter(label for place in group for label in _labels_of(examples[place]))
        if any(remaining[label] <= number for label, number in labels.items()):
            return False
        held_out.update(group)
        remaining.subtract(labels)
        return True

    owed = 0.0  # what one class got too many or too few of by rounding, the next makes good
    for label in sorted(strata):
        groups = [strata[label][place] for place in rng.permutation(len(strata[label]))]
        owed += fraction * sum(map(len, groups))
        for group in groups:
            if len(group) / 2 > owed:
                break
            owed -= len(group) if hold_out(group) else 0
        owed = min(max(owed, -0.5), 0.5)
    if not held_out:  # the fraction is less than half an example
        any(
            hold_out(group)
            for label in sorted(strata, key=lambda label: -len(strata[label]))
            for group in strata[label]
        )
    if not held_out:
        raise UserError(
            f"{examples[0].where}: training examples ({len(examples)}) are too few to hold some of them out: give "
            f"--config.data.validation=FILE, or --config.data.validation_fraction=0"
        )
    return (
        tuple(example for place, example in enumerate(examples) if place not in held_out),
        tuple(example for place, example in enumerate(examples) if place in held_out),
    )


def _labels_of(example: Example) -> set[str]:
    """Returns the labels that the example has, and '' for the example itself: one at least is trained on."""
    return {"", *(example.tags or ()), *([example.label] if isinstance(example.label, str) else [])}


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    """Returns the examples, by number, in groups that share a text."""
    groups: dict[tuple, list[int]] = collections.defaultdict(list)
    for place, example in enumerate(examples):
        is_question = bool(example.answers) or example.is_impossible
        groups[("", example.second_text) if is_question else (example.text, example.second_text)].append(place)
    return list(groups.values())
