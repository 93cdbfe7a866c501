"""What tests of imports and exports share: small runs without training, and external models of random weights."""

import json
import pathlib

import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.interop.runs import LoadedRun, load_run
from electra_cli.objectives.base import build_pretrainer
from electra_cli.training.optimization import build_optimizer
from electra_cli.workdir.checkpoint_files import CheckpointFiles

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = "the quick brown fox jump over lazy dog president for two minute it was but enough is city of people".split()
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
TOKENS = (*SPECIAL, *_WORDS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *".,;:!?'-", "東", "京", "и")


def write_vocabulary(directory: pathlib.Path) -> pathlib.Path:
    (directory / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return directory / "vocab.txt"


def small_settings(**overrides) -> dict:
    return {
        "data.max_seq_length": 32,
        "model.embedding_size": 8,
        "model.num_layers": 2,
        "model.hidden_size": 16,
        "model.num_attention_heads": 2,
        "model.intermediate_size": 40,
        "model.generator_size": 0.5,
        "model.max_position_embeddings": 48,
        "model.initializer_range": 0.3,
        **overrides,
    }


def make_workdir(
    directory: pathlib.Path,
    *,
    step: int = 7,
    lower_case: bool = True,
    tokenizer: TokenizerSettings | None = None,
    **overrides,
) -> pathlib.Path:
    """Makes a workdir as training leaves it, whose weights, biases too, are random.

    Without a tokenizer its vocabulary is `TOKENS`, and lies with the data alone.
    """
    directory.mkdir()
    (directory / "data").mkdir()
    write_vocabulary(directory / "data")
    if tokenizer is not None:
        tokenizer.save(str(directory))
    config = default_config()
    config.update_from_flattened_dict({**small_settings(**overrides), "data.dir": str(directory / "data")})
    resolved = resolve(config, len(TOKENS) if tokenizer is None else tokenizer.vocabulary.size)
    tf_keras.utils.set_random_seed(step)
    model = build_pretrainer(resolved)
    rng = np.random.default_rng(step)
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(scale=0.2, size=variable.shape))
    optimizer = build_optimizer(resolved)
    optimizer.build(model.trainable_variables)
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(scale=0.1, size=variable.shape))  # so that averages are others
    optimizer.iterations.assign(step)
    items = {"model": model, "optimizer": optimizer, **model.checkpoint_items}
    CheckpointFiles(str(directory / "checkpoints")).write(step, tf.train.Checkpoint(**items).write)
    record = {"config": resolved.to_dict(), "data_fingerprint": "x", "tokenizer": {"lower_case": lower_case}}
    (directory / "config.json").write_text(json.dumps(record))
    metrics = [{"step": 5, "split": "validation", "rtd_auc": 0.625, "num_examples": 20},
               {"step": 9, "split": "validation", "rtd_auc": 0.75, "num_examples": 20}]  # fmt: skip
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return directory


def make_run(directory: pathlib.Path, **overrides) -> LoadedRun:
    return load_run(str(make_workdir(directory, **overrides)), notice=lambda _: None)


def random_inputs(vocab_size: int, seed: int = 0, length: int = 20) -> dict:
    """int32 [4, length] inputs of two segments, one row padded."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < np.array([length, length, length - 6, length])[:, None]).astype(np.int32)
    return {
        "input_word_ids": rng.integers(5, vocab_size, (4, length)).astype(np.int32) * mask,
        "input_mask": mask,
        "input_type_ids": (np.arange(length) > length // 2).astype(np.int32) * mask,
    }
