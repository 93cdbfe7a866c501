"""Labelled files in, what a probe of an encoder is made on out: some of their examples, as classes or as numbers."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from electra_cli.config.labeled_files import FLAG, TABLE_FORMATS, ProbeFile
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Example, abbreviate, to_number
from electra_cli.finetuning.labeled_files import format_by_name, read_examples
from electra_cli.finetuning.sentences import MAX_NUMERIC_CLASSES
from electra_cli.finetuning.tables import Columns, check_file
from electra_cli.probes.linear_probe import NUM_FOLDS

# Sets the choice of examples apart from other draws.
_KEY = 0x9808E


@dataclasses.dataclass(frozen=True)
class ProbeExamples:
    """The examples of a probe.

    Attributes:
      name: of the file, which its scores begin with.
      texts: the texts, a tuple an example: one, or the two of a pair; as many of each.
      targets: the classes (str), or the numbers (float64), [examples].
      is_classification: which of them.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    targets: np.ndarray
    is_classification: bool


def read_probe_file(file: ProbeFile, most: int) -> ProbeExamples:
    """Reads and checks a file.

    Labels are numbers, and probed as such, if all are and more than `sentences.MAX_NUMERIC_CLASSES` different ones
    occur, some with a fraction; else they are classes. `ProbeFile.task` decides otherwise.

    Args:
      file: the file.
      most: examples that are taken; of more, so many are chosen at random, always the same.

    Raises:
      UserError: it cannot be read, is broken somewhere, or nothing can be told apart by its labels.
    """
    check_file(file.path)  # whatever its name tells of a format
    file_format = file.format or format_by_name(file.path)
    if file_format not in TABLE_FORMATS:
        raise UserError(
            f"{file.path}: a probe needs a table, with a name in .tsv, .csv or .jsonl: name its format, "
            f"{FLAG}format={'|'.join(TABLE_FORMATS)}"
        )
    columns = Columns(file.text, file.second_text, file.label, flag=FLAG)
    kind = file.task or "classification"
    examples = read_examples(file.path, kind, columns, file_format, label_needed=True).examples
    is_classification = file.task == "classification" or (not file.task and not _are_numbers(examples))
    if len(examples) > most:
        rows = np.random.Generator(np.random.Philox(key=[_KEY, 0])).permutation(len(examples))[:most]
        examples = tuple(examples[row] for row in np.sort(rows))
    labels = [example.label for example in examples]
    texts = tuple(
        (example.text,) if example.second_text is None else (example.text, example.second_text) for example in examples
    )
    if is_classification:
        _check_classes(file.path, [str(label) for label in labels])
        return ProbeExamples(file.name, texts, np.array([str(label) for label in labels]), True)
    numbers: np.ndarray = np.array(labels, np.float64)
    _check_numbers(file.path, numbers.tolist())
    return ProbeExamples(file.name, texts, numbers, False)


def _are_numbers(examples: Sequence[Example]) -> bool:
    numbers = {to_number(str(example.label)) for example in examples}
    if None in numbers or len(numbers) <= MAX_NUMERIC_CLASSES:
        return False
    return any(number % 1 for number in numbers if number is not None)


def _check_classes(path: str, labels: Sequence[str]) -> None:
    """Raises a `UserError` unless two classes are left, whichever fifth of the examples is taken away."""
    counts = collections.Counter(labels)
    if sum(count >= NUM_FOLDS for count in counts.values()) < 2:
        raise UserError(
            f"{path}: two labels at least must have {NUM_FOLDS} examples each, and of {len(labels):,} examples the "
            f"most frequent labels are "
            f"{abbreviate([f'{label} ({count:,})' for label, count in counts.most_common(3)])}: is {FLAG}label=COLUMN "
            f"another, or are they numbers ({FLAG}task=regression)?"
        )


def _check_numbers(path: str, numbers: Sequence[float]) -> None:
    if len(numbers) < 2 * NUM_FOLDS or len(set(numbers)) < 2:
        raise UserError(
            f"{path}: {len(numbers):,} examples with {len(set(numbers)):,} different numbers are too few for a probe: "
            f"{2 * NUM_FOLDS} examples and 2 numbers are needed"
        )
