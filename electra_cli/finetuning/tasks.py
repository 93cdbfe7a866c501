"""The task of a config, and the examples of its splits."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence

import ml_collections
import numpy as np

from electra_cli import files
from electra_cli.config.finetuning import kind_of
from electra_cli.errors import UserError
from electra_cli.finetuning import glue
from electra_cli.finetuning.base import Task
from electra_cli.finetuning.examples import Example, Examples, LabelMap, abbreviate, are_labelled
from electra_cli.finetuning.labeled_files import Contents, LabeledFile
from electra_cli.finetuning.question_answering import QuestionAnswering
from electra_cli.finetuning.scores import mark_entities
from electra_cli.finetuning.sentences import Classification, Regression
from electra_cli.finetuning.tables import Columns, name_columns
from electra_cli.finetuning.tagging import Tagging

# What a user writes before the name of a column of a file to predict for, for messages.
PREDICT_FLAG = "--predict=FILE:"
# Sets the draws of held-out examples apart from others of the same seed.
_HELD_OUT_STREAM = 0x5B117


@dataclasses.dataclass(frozen=True)
class Splits:
    """The examples of a task: training ones with labels, and test ones with labels or without.

    `notices` are lines for the user; `more` has of MNLI 'validation_mismatched' and 'test_mismatched'.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: LabelMap
    notices: tuple[str, ...]
    more: dict[str, tuple[Example, ...]] = dataclasses.field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, tuple[Example, ...]]:
        """The splits that have examples."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test, **self.more}
        return {name: examples for name, examples in splits.items() if examples}


def read_task(config: ml_collections.ConfigDict) -> tuple[Task, Splits]:
    """Returns the task of a config, with all of its examples; raises as `load_splits`."""
    task = build_task(config)
    return task, load_splits(config, task, seed=0)


def build_task(config: ml_collections.ConfigDict) -> Task:
    """Returns the task of a checked config, whose labels are not known yet."""
    kind = kind_of(config.task)
    score = config.primary_score or (glue.TASKS[config.task].primary_score if config.task in glue.TASKS else "")
    if kind == "question_answering":
        return QuestionAnswering(score, **config.answers)
    if kind == "tagging":
        return Tagging(score)
    return Regression(score) if kind == "regression" else Classification(score)


def load_splits(config: ml_collections.ConfigDict, task: Task, seed: int) -> Splits:
    """Reads and checks all examples of a checked config, and sets `task.labels`.

    Examples are held out by `seed` where there is no validation file. Raises a `UserError` that names file and line
    where a file is missing or broken, or its labels are not those of the task.
    """
    data = config.data
    sources = _glue_sources(config.task, data) if config.task in glue.TASKS else _file_sources(data)
    contents = {name: source.read(task.kind) for name, source in sources.items()}
    notices = [
        f"{sources[name].path}: {content.columns}"
        for name, content in contents.items()
        if content.columns and (name == "train" or content.columns != contents["train"].columns)
    ]
    notices += [notice for content in contents.values() for notice in content.notices]
    train = contents["train"].examples
    for name, content in contents.items():
        has_pairs = train[0].second_text is not None
        reference = f"{sources['train'].path} as"
        check_pairs(sources[name].path, content.examples, has_pairs, reference, Columns.flag)
    validation = contents["validation"].examples if "validation" in contents else ()
    held_out = ""
    if "validation" not in contents and data.validation_fraction > 0:
        train, validation = split_off(train, data.validation_fraction, seed)
        verb = "is" if len(validation) == 1 else "are"
        held_out = (
            f"{len(validation):,} of {len(train) + len(validation):,} training examples {verb} held out for validation "
            f"(config.data.validation_fraction={data.validation_fraction:g})"
        )
        notices.append(held_out)
    try:
        task.labels = task.find_labels(train)
    except UserError as error:
        if not held_out:
            raise
        raise UserError(f"{error}; {held_out}") from error  # the file has more examples than it counts
    if task.primary_score not in task.score_names:
        raise UserError(
            f"config.primary_score={task.primary_score}: the tags of {sources['train'].path} mark no entities (as "
            f"B-PER and O do): leave it empty, or give {', '.join(task.score_names)}"
        )
    others = {name: content.examples for name, content in contents.items() if name not in ("train", "validation")}
    for examples in (validation, *others.values()):
        task.check(examples)
    notices += _label_notices(task, train)
    for name, examples in (("validation", validation), *others.items()):
        notices += _overlap_notices(train, examples, name)
    return Splits(train, validation, others.pop("test", ()), task.labels, tuple(notices), others)


def load_file(
    path: str, config: ml_collections.ConfigDict, task: Task, columns: Columns | None = None, file_format: str = ""
) -> Contents:
    """Reads a file, labelled or not, to predict for with the model of a config.

    `columns` None: those of the config, or of its GLUE task's files; `file_format` '': that of the config, or by the
    name's ending. Raises a `UserError` where it is missing or broken, or has a label that the task does not know.
    """
    data = config.data
    if columns is None:
        columns = Columns(data.text, data.second_text, data.label, flag=PREDICT_FLAG)
        if config.task in glue.TASKS:
            columns = glue.columns_of_file(path, config.task, PREDICT_FLAG)
    names = _path(data, data.label_names)
    file = LabeledFile(path, columns, file_format or data.format, label_needed=False, label_names=names)
    contents = file.read(task.kind)
    task.check(contents.examples)
    return contents


def check_pairs(path: str, examples: Examples, has_pairs: bool, reference: str, flag: str) -> None:
    """Raises a `UserError` where examples are pairs and those of training are not, or the reverse.

    `reference` is in the message what says so, for example 'DIR was trained on'.
    """
    are_pairs = examples[0].second_text is not None
    if are_pairs == has_pairs:
        return
    here, there = ("pairs", "one text an example") if are_pairs else ("one text an example", "pairs")
    naming = name_columns(flag, "text", *["second_text"] * has_pairs)
    raise UserError(f"{path} was read as {here}, and {reference} {there}: name what to read, {naming}")


def _file_sources(data: ml_collections.ConfigDict) -> dict[str, LabeledFile]:
    columns = Columns(data.text, data.second_text, data.label)
    return {
        name: LabeledFile(
            _path(data, data[name]),
            columns,
            data.format,
            label_needed=name != "test",
            skip_bad=data.skip_bad_examples,
            label_names=_path(data, data.label_names),
        )
        for name in ("train", "validation", "test")
        if data[name]
    }


def _glue_sources(name: str, data: ml_collections.ConfigDict) -> dict[str, LabeledFile]:
    task = glue.TASKS[name]
    folder = glue.find_folder(data.dir, name)
    names = {"train": "train", "validation": task.validation, "test": task.test, **dict(task.more)}
    given_names = {"train": data.train, "validation": data.validation, "test": data.test}
    sources = {}
    for split, file in names.items():
        given = given_names.get(split, "")
        path = _path(data, given) if given else files.join(folder, f"{file}.tsv")
        is_test = split.startswith("test")
        if given or split in ("train", "validation") or files.size(path) is not None:
            sources[split] = LabeledFile(
                path,
                task.test_columns if is_test and not given else task.columns,
                "tsv",
                label_needed=not is_test,
                skip_bad=task.has_broken_lines or data.skip_bad_examples,
            )
    return sources


def _path(data: ml_collections.ConfigDict, name: str) -> str:
    return files.join(data.dir, name) if name and data.dir and not files.is_remote(name) else name


def _label_notices(task: Task, train: Examples) -> list[str]:
    labels = task.labels.labels
    by_folded = collections.defaultdict(list)
    for label in labels:
        by_folded[label.casefold()].append(label)
    notices = [
        f"labels {abbreviate(same)} differ by case only, and are learned as different ones"
        for same in by_folded.values()
        if len(same) > 1
    ]
    if task.kind == "tagging" and not mark_entities(labels):
        names = ", and are numbers: name them with --config.data.label_names=FILE" if labels[-1].isdecimal() else ""
        notices.append(f"the tags mark no entities (as B-PER and O do): scores are the accuracy of words only{names}")
    if task.kind == "classification":
        counts = collections.Counter(str(example.label) for example in train)
        if "-1" in labels and all(label == "-1" or label.isdecimal() for label in labels):
            notices.append(
                "label -1 is learned as a class: if it stands for none, name the others, --config.data.label_names=FILE"
            )
        rare = [label for label in labels if counts[label] == 1]
        if rare:
            notices.append(f"labels with one training example only: {abbreviate(rare)}")
    return notices


def _overlap_notices(train: Examples, examples: Examples, name: str) -> list[str]:
    known = {(example.text, example.second_text) for example in train}
    overlap = sum((example.text, example.second_text) in known for example in examples)
    if not overlap or not are_labelled(examples):
        return []
    return [f"{overlap:,} of {len(examples):,} {name} examples are among the training examples: scores are flattered"]


def split_off(examples: Examples, fraction: float, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Divides examples into those that are trained on and those that are held out, both in the order of the file.

    Of each class the same fraction, between 0 and 1, is held out, within an example, but never all of it; and one
    example at least. Examples with the same text, or in question answering the same context, stay together, and then
    within half of the largest text's examples. Which ones follows from the seed. Raises a `UserError` for too few.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, _HELD_OUT_STREAM], np.uint64)))
    classes = [[groups[index] for index in rng.permutation(len(groups))] for groups in _classes(examples)]
    labels_of = [{"", *example.classes} for example in examples]  # '': one example at least is trained on
    remaining = collections.Counter(itertools.chain.from_iterable(labels_of))
    held_out: set[int] = set()

    def hold_out(group: Sequence[int]) -> bool:
        """Holds examples out and returns True, unless the last one of a label is among them."""
        labels = collections.Counter(label for index in group for label in labels_of[index])
        if any(remaining[label] <= number for label, number in labels.items()):
            return False
        held_out.update(group)
        remaining.subtract(labels)
        return True

    owed = 0.0  # what one class got too many or too few of by rounding is passed on to the next
    for groups in classes:
        owed += fraction * sum(map(len, groups))
        for group in groups:
            if len(group) / 2 <= owed and hold_out(group):
                owed -= len(group)
        owed = min(max(owed, -0.5), 0.5)
    if not held_out:  # less than half of any text's examples is asked for: one text, with few of them
        groups = [group for groups in sorted(classes, key=len, reverse=True) for group in groups]
        any(hold_out(group) for group in sorted(groups, key=len))
    if not held_out:
        raise UserError(
            f"{examples[0].where}: {_why_none_can_be_held_out(examples, sum(map(len, classes)))}: give "
            f"--config.data.validation=FILE, or --config.data.validation_fraction=0"
        )
    return (
        tuple(example for index, example in enumerate(examples) if index not in held_out),
        tuple(example for index, example in enumerate(examples) if index in held_out),
    )


def _why_none_can_be_held_out(examples: Examples, num_texts: int) -> str:
    number, text = (
        f"{len(examples):,} training examples",
        "context" if examples[0].answers or examples[0].is_impossible else "text",
    )
    if len(examples) == 1:
        return "the only training example cannot be held out"
    if num_texts == 1:
        return f"all {number} have the same {text}, which is not divided: none of them can be held out"
    return f"none of {number} can be held out: each {text} is the last one of a label"


def _classes(examples: Examples) -> list[list[list[int]]]:
    """Returns the indices of examples in groups that share a text, and these by class; what has none is one class."""
    groups: dict[tuple, list[int]] = collections.defaultdict(list)
    for index, example in enumerate(examples):
        is_question = bool(example.answers) or example.is_impossible
        groups[("" if is_question else example.text, example.second_text)].append(index)
    classes: dict[str, list[list[int]]] = collections.defaultdict(list)
    for group in groups.values():
        label = examples[group[0]].label
        classes[label if isinstance(label, str) else ""].append(group)
    return [classes[label] for label in sorted(classes)]
