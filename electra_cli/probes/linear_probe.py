"""How well a linear model predicts the labels of a file from features of its texts. No TensorFlow.

Scores are those of predictions for the fifth of the examples that the model was not fitted on, for each fifth in turn.
"""

import collections
import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np

from electra_cli.config.labeled_files import FLAG, TABLE_FORMATS, ProbeFile
from electra_cli.errors import UserError
from electra_cli.finetuning import scores
from electra_cli.finetuning.examples import Examples, abbreviate, sort_labels, to_number
from electra_cli.finetuning.labeled_files import LabeledFile, format_by_name
from electra_cli.finetuning.sentences import MAX_NUMERIC_CLASSES
from electra_cli.finetuning.tables import Columns, check_file

# Sets the choice of examples apart from other draws.
_KEY = 0x9808E
_NUM_FOLDS = 5
# Inverse strength of the penalty of logistic regression, on standardized features: strong, since they are hundreds to
# thousands and examples not many more. A fixed one makes scores comparable from step to step.
_INVERSE_PENALTY = 0.01
_MAX_ITERATIONS = 500
# Penalties that ridge regression chooses from, by leaving one out of what it is fitted on.
_RIDGE_PENALTIES = np.logspace(1, 5, 9)


@dataclasses.dataclass(frozen=True)
class ProbeExamples:
    """The examples of the file `name`.

    `texts` are tuples of one text, or of the two of a pair; `targets` classes (str) or numbers (float64), [examples].
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    targets: np.ndarray
    is_classification: bool


def read_probe_file(file: ProbeFile, limit: int) -> ProbeExamples:
    """Reads and checks a file; of more than `limit` examples, so many are chosen at random, always the same.

    Labels are numbers, and probed as such, if all are and more than `MAX_NUMERIC_CLASSES` different ones occur, some
    with a fraction; else they are classes. `ProbeFile.task` decides otherwise.

    Raises a `UserError` where it cannot be read, is broken, or its labels cannot be learned and tested.
    """
    check_file(file.path)  # before its name is searched for a format
    file_format = file.format or format_by_name(file.path)
    if file_format not in TABLE_FORMATS:
        raise UserError(
            f"{file.path}: a probe needs a table, with a name in .tsv, .csv or .jsonl: name its format, "
            f"{FLAG}format={'|'.join(TABLE_FORMATS)}"
        )
    columns = Columns(file.text, file.second_text, file.label, flag=FLAG)
    examples = LabeledFile(file.path, columns, file_format).read(file.task or "classification").examples
    is_classification = file.task == "classification" or (not file.task and not _are_numbers(examples))
    if len(examples) > limit:
        rows = np.random.Generator(np.random.Philox(key=[_KEY, 0])).permutation(len(examples))[:limit]
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


def _are_numbers(examples: Examples) -> bool:
    numbers = {to_number(str(example.label)) for example in examples}
    if None in numbers or len(numbers) <= MAX_NUMERIC_CLASSES:
        return False
    return any(number % 1 for number in numbers if number is not None)


def _check_classes(path: str, labels: Sequence[str]) -> None:
    """Raises a `UserError` unless two classes are left, whichever fifth of the examples is taken away."""
    counts = collections.Counter(labels)
    if sum(count >= _NUM_FOLDS for count in counts.values()) < 2:
        frequent = abbreviate([f"{label} ({count:,})" for label, count in counts.most_common(3)])
        raise UserError(
            f"{path}: two labels at least must have {_NUM_FOLDS} examples each, and of {len(labels):,} examples the "
            f"most frequent labels are {frequent}: is {FLAG}label=COLUMN another, or are they numbers "
            f"({FLAG}task=regression)?"
        )


def _check_numbers(path: str, numbers: Sequence[float]) -> None:
    if len(numbers) < 2 * _NUM_FOLDS or len(set(numbers)) < 2:
        raise UserError(
            f"{path}: {len(numbers):,} examples with {len(set(numbers)):,} different numbers are too few for a probe: "
            f"{2 * _NUM_FOLDS} examples and 2 numbers are needed"
        )


def score_linear_model(features: np.ndarray, targets: np.ndarray, *, is_classification: bool) -> scores.Scores:
    """Returns cross-validated scores, the primary one first; they are the same each time, on any number of cores.

    `accuracy`, `f1` and `mcc` of a logistic regression, or `spearman` and `pearson` of a ridge regression.
    `features` are float [examples, width], `targets` as of `ProbeExamples`.
    """
    # Import time.
    from sklearn.linear_model import LogisticRegression, RidgeCV  # noqa: PLC0415
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    if is_classification:
        model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MAX_ITERATIONS)
        folds = StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=0)
    else:
        model, folds = RidgeCV(_RIDGE_PENALTIES), KFold(_NUM_FOLDS, shuffle=True, random_state=0)
    # One thread: TensorFlow may be preparing batches meanwhile, and the order of sums stays the same.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore")  # of classes with few examples, and of fits cut off at the last iteration
        pipeline = make_pipeline(StandardScaler(), model)
        predictions = cross_val_predict(pipeline, features.astype(np.float64), targets, cv=folds)
    if is_classification:
        return scores.score_classes(predictions.tolist(), targets.tolist(), sort_labels(targets.tolist()))
    return scores.score_numbers(predictions.tolist(), targets.tolist())
