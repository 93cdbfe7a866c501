"""Synthetic data sets of each kind whose label is a known function of the words, and an encoder to start from."""

import functools
import json
import pathlib
import random
from collections.abc import Callable

from electra_cli.config.finetuning import default_config
from electra_cli.finetuning.finetune import finetune
from electra_cli.finetuning.model import OpenEncoder
from electra_cli.finetuning.predicting import open_prediction, run_prediction
from electra_cli.interop.starting_points import open_starting_point
from electra_cli.loggers.lines import Lines
from electra_cli.loggers.logger import Logger
from tests.graphs import without_graphs
from tests.interop.common import make_workdir

WORDS = "the quick brown fox jump over lazy dog president for two minute it was but enough is city of people".split()
ANIMALS = ("fox", "dog")


# Of 64 examples 16 steps in two epochs; of 20 examples predictions in three batches. With dropout.
SHORT = {
    "train.num_epochs": 2,
    "train.global_batch_size": 8,
    "model.hidden_dropout": 0.1,
    "model.attention_dropout": 0.1,
    "model.head_dropout": 0.1,
    "optimizer.layerwise_lr_decay": 0.8,
}


def make_encoder(directory: pathlib.Path, **overrides) -> str:
    """A workdir of electra-pretrain with random weights, 2 layers of 32; its vocabulary has `WORDS` whole."""
    sizes = {"model.hidden_size": 32, "model.embedding_size": 16, "model.initializer_range": 0.1}
    return str(make_workdir(directory, **{**sizes, **overrides}))


def start_from(init: str, **arguments) -> OpenEncoder:
    """What `finetune` opens its encoder with; arguments as of `open_starting_point`."""
    return functools.partial(open_starting_point, init, **arguments)


def _sentences(number: int, seed: int, length: int = 8) -> list[list[str]]:
    rng = random.Random(seed)
    return [rng.choices(WORDS, k=rng.randint(4, length)) for _ in range(number)]


def _with_one_animal(number: int, seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    others = [word for word in WORDS if word not in ANIMALS]
    sentences = [rng.choices(others, k=6) for _ in range(number)]
    for sentence in sentences:
        sentence[rng.randrange(6)] = rng.choice(ANIMALS)
    return sentences


def classification(number: int, seed: int) -> str:
    """Whether an animal is there."""
    rows = [f"{' '.join(words)}\t{'animal' if set(words) & set(ANIMALS) else 'none'}" for words in
            (*_sentences(number // 2, seed, 6), *_with_one_animal(number // 2, seed))]  # fmt: skip
    return "text\tlabel\n" + "\n".join(rows) + "\n"


def regression(number: int, seed: int) -> str:
    """A price: 500, and 1000 times the mean of the words' places among all."""
    rng = random.Random(seed)
    sentences = [rng.choices(WORDS, k=6) for _ in range(number)]
    rows = [
        f"{' '.join(words)}\t{500 + 1000 * sum(map(WORDS.index, words)) / (6 * len(WORDS)):.1f}" for words in sentences
    ]
    return "text\tlabel\n" + "\n".join(rows) + "\n"


def tagging(number: int, seed: int) -> str:
    """Four words are entities, or go on with one."""
    tags = {"fox": "B-ANI", "dog": "B-ANI", "president": "B-PER", "people": "I-PER"}
    blocks = ["\n".join(f"{word} {tags.get(word, 'O')}" for word in words) for words in _sentences(number, seed)]
    return "\n\n".join(blocks) + "\n"


def question_answering(number: int, seed: int) -> str:
    """The animal is the answer, and the word behind it."""
    paragraphs = []
    for index, words in enumerate(_with_one_animal(number, seed)):
        place = next(place for place, word in enumerate(words) if word in ANIMALS)
        context, answer = " ".join(words), " ".join(words[place : place + 2])
        start = len(" ".join(words[:place])) + (place > 0)
        qa = {"id": f"q{index}", "question": "is it ?", "answers": [{"text": answer, "answer_start": start}]}
        paragraphs.append({"context": context, "qas": [qa]})
    return json.dumps({"data": [{"title": "made", "paragraphs": paragraphs}]})


def pairs(number: int, seed: int) -> str:
    """Whether the second sentence has the animal of the first."""
    rng = random.Random(seed)
    rows = []
    for words in _with_one_animal(number, seed):
        other = rng.choice(ANIMALS)
        rows.append(f"{' '.join(words)}\tthe {other} is quick\t{'same' if other in words else 'other'}")
    return "sentence1\tsentence2\tlabel\n" + "\n".join(rows) + "\n"


MAKERS: dict[str, tuple[Callable[[int, int], str], str]] = {
    "classification": (classification, "tsv"),
    "regression": (regression, "tsv"),
    "tagging": (tagging, "conll"),
    "question_answering": (question_answering, "json"),
}


def write(kind: str, directory: pathlib.Path, num_train: int = 512, num_validation: int = 100) -> dict[str, str]:
    """Writes `train` and `validation` of a kind, or of 'pairs', a classification.

    Returns their paths, as the config's section `data` has them.
    """
    make, ending = (pairs, "tsv") if kind == "pairs" else MAKERS[kind]
    files = {}
    for seed, (name, number) in enumerate((("train", num_train), ("validation", num_validation))):
        path = directory / f"{kind}-{name}.{ending}"
        path.write_text(make(number, seed))
        files[name] = str(path)
    return files


def config_for(kind: str, files: dict[str, str], **overrides):
    """A config for a synthetic set, without dropout and quick to learn; overrides by 'section.key'."""
    config = default_config()
    config.update_from_flattened_dict(
        {
            "task": kind,
            **{f"data.{name}": path for name, path in files.items()},
            "data.max_seq_length": 32,
            "optimizer.learning_rate": 0.002,
            "optimizer.layerwise_lr_decay": 1.0,
            "model.hidden_dropout": 0.0,
            "model.attention_dropout": 0.0,
            "model.head_dropout": 0.0,
            "train.num_epochs": 8,
            "train.global_batch_size": 32,
            "runtime.jit_compile": "false",
            **overrides,
        }
    )
    return config


def fine_tune_briefly(kind: str, files: dict[str, str], workdir: str, init: str, **overrides) -> None:
    """Fine-tunes an encoder on a synthetic set of 64 examples for two steps of each seed."""
    few = {"train.num_epochs": 1, "train.global_batch_size": 32, "data.max_seq_length": 40}
    config = config_for("classification" if kind == "pairs" else kind, files, **{**SHORT, **few, **overrides})
    with without_graphs():
        finetune(config, workdir, start_from(init), Logger())


def predict(workdir: str, path: str, output: str, seed: int | None = None, logger: Logger | None = None, **options):
    """Predicts for the examples of a file, as `electra-finetune --predict` does."""
    logger = logger or Lines()
    run_prediction(open_prediction(workdir, path, output, seed, logger, **options), logger)
