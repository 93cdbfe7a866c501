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
    or in question answering the same context, stay together, and then within half of the largest text's examples.

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
    classes = [[groups[place] for place in rng.permutation(len(groups))] for groups in _classes(examples)]
    division = _Division(examples)
    owed = 0.0  # what one class got too many or too few of by rounding, the next makes good
    for groups in classes:
        owed += fraction * sum(map(len, groups))
        for group in groups:
            if len(group) / 2 <= owed and division.hold_out(group):
                owed -= len(group)
        owed = min(max(owed, -0.5), 0.5)
    if not division.held_out:  # less than half of any text's examples is asked for: one text, with few of them
        groups = [group for groups in sorted(classes, key=len, reverse=True) for group in groups]
        any(division.hold_out(group) for group in sorted(groups, key=len))
    held_out = division.held_out
    if not held_out:
        raise UserError(
            f"{examples[0].where}: training examples ({len(examples)}) are too few to hold some of them out: give "
            f"--config.data.validation=FILE, or --config.data.validation_fraction=0"
        )
    return (
        tuple(example for place, example in enumerate(examples) if place not in held_out),
        tuple(example for place, example in enumerate(examples) if place in held_out),
    )


class _Division:
    """Which examples are held out, so that each label is still trained on.

    Attributes:
      held_out: their numbers.
    """

    def __init__(self, examples: Sequence[Example]):
        self.held_out: set[int] = set()
        self._examples = examples
        self._remaining = collections.Counter(label for example in examples for label in _labels_of(example))

    def hold_out(self, group: Sequence[int]) -> bool:
        """Holds examples out and returns True, unless the last one of a label is among them."""
        labels = collections.Counter(label for place in group for label in _labels_of(self._examples[place]))
        if any(self._remaining[label] <= number for label, number in labels.items()):
            return False
        self.held_out.update(group)
        self._remaining.subtract(labels)
        return True


def _labels_of(example: Example) -> set[str]:
    """Returns the labels that the example has, and '' for the example itself: one at least is trained on."""
    return {"", *(example.tags or ()), *([example.label] if isinstance(example.label, str) else [])}


def _classes(examples: Sequence[Example]) -> list[list[list[int]]]:
    """Returns the examples, by number, in groups that share a text, and these by class; what has none is one class."""
    classes: dict[str, list[list[int]]] = collections.defaultdict(list)
    for group in _groups(examples):
        label = examples[group[0]].label
        classes[label if isinstance(label, str) else ""].append(group)
    return [classes[label] for label in sorted(classes)]


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    """Returns the examples, by number, in groups that share a text."""
    groups: dict[tuple, list[int]] = collections.defaultdict(list)
    for place, example in enumerate(examples):
        is_question = bool(example.answers) or example.is_impossible
        groups[("", example.second_text) if is_question else (example.text, example.second_text)].append(place)
    return list(groups.values())
