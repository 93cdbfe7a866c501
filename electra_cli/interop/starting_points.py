"""Reads models of all formats: of other libraries, to import them, and encoders, to fine-tune them."""

import dataclasses
import itertools
import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from electra_cli import files
from electra_cli.config.checks import MODERN_KEYS
from electra_cli.config.finetuning import RANDOM, check_start
from electra_cli.errors import Option, UserError
from electra_cli.finetuning.model import StartingPoint
from electra_cli.interop import google_tf1, huggingface, tfm
from electra_cli.interop.importing import ExternalModel, import_external
from electra_cli.interop.runs import LoadedRun, load_run
from electra_cli.loggers.logger import Logger
from electra_cli.objectives.costs import expected_shapes
from electra_cli.objectives.weights import Network
from electra_cli.workdir.run_files import CONFIG_FILE


def read_source(
    format_name: str,
    source: str,
    *,
    generator_source: str | None = None,
    hparams_file: str | None = None,
    num_attention_heads: int | None = None,
    generator_num_attention_heads: int | None = None,
) -> ExternalModel:
    """Reads a model of another library.

    Args:
      format_name: 'google_tf1', 'huggingface' or 'tfm'.
      source: what `read` of the format's module takes.
      generator_source: with huggingface, the folder of the generator.
      hparams_file: with google_tf1, a file of hyperparameters.
      num_attention_heads: of the discriminator, where the format does not record them and its rule does not hold.
      generator_num_attention_heads: of the generator.

    Raises:
      UserError: it cannot be read, or is incomplete.
    """
    if format_name == "google_tf1":
        external = google_tf1.read(source, hparams_file)
    else:
        external = (tfm if format_name == "tfm" else huggingface).read(source)
    if generator_source:
        other = huggingface.read(generator_source)
        if external.discriminator is None or other.generator is None:
            discriminator = (Option("--source"), " must be a discriminator (ElectraForPreTraining) and ")
            raise UserError(*discriminator, Option("--generator_source"), " a generator (ElectraForMaskedLM)")
        _check_same_vocabulary(external, other)
        external.generator = other.generator
        external.unexpected += other.unexpected
    if not external.networks:
        raise UserError(f"{source} holds the layers of no network")
    if external.is_tied or external.discriminator is None:
        generator_num_attention_heads = num_attention_heads
    heads = {"discriminator": num_attention_heads, "generator": generator_num_attention_heads}
    for network in external.networks:
        network.num_attention_heads = heads[network.role] or network.num_attention_heads
        _check_weights(network, source)
    names = ["architecture", "vocab_size", "max_position_embeddings", "type_vocab_size", *MODERN_KEYS]
    sizes = [network.sizes for network in external.networks]
    if sizes[0].architecture == "electra":
        names.append("embedding_size")
    for name in names:
        first, last = (getattr(each, name) for each in (sizes[0], sizes[-1]))
        if first != last:
            raise UserError(
                f"the discriminator has a {name} of {first}, the generator of {last}: they do not belong together"
            )
    return external


def _check_same_vocabulary(discriminator: ExternalModel, generator: ExternalModel) -> None:
    """Raises a `UserError` where two networks were trained with different tokens, as far as they are known."""
    first, second = discriminator.vocabulary, generator.vocabulary
    if first is not None and second is not None and first != second:
        pairs = itertools.zip_longest(first.tokens, second.tokens)
        index, tokens = next((index, pair) for index, pair in enumerate(pairs) if pair[0] != pair[1])
        raise UserError(
            f"the vocabularies of {discriminator.source} and {generator.source} differ: token {index} is {tokens[0]!r} "
            f"there, {tokens[1]!r} here; give a generator that was trained with the discriminator's vocabulary"
        )


def _check_weights(network: Network, source: str) -> None:
    """Raises a `UserError` unless a network has all of its weights, but for a discriminator's head, all finite."""
    for name, value in network.weights.items():
        if not np.isfinite(value).all():
            raise UserError(
                f"{source}: the {network.role}'s weight {name} is NaN or infinite in float32: give a checkpoint from "
                f"before its training failed"
            )
    missing = sorted(expected_shapes(network.role, network.sizes).keys() - network.weights.keys())
    if any(not name.startswith("predictions/") for name in missing) or (missing and network.has_head):
        raise UserError(f"{source}: {len(missing)} weights of the {network.role} are missing, such as {missing[0]}")
    if missing and network.role == "generator":
        raise UserError(f"{source}: the generator has no head")


def open_starting_point(
    init: str,
    role: str,
    logger: Logger,
    *,
    like: str | None = None,
    vocab_file: str | None = None,
    lower_case: bool | None = None,
) -> StartingPoint:
    """Reads the encoder that a fine-tuning starts from.

    Args:
      init: a workdir of electra-pretrain, what electra-import wrote, what electra-export wrote for another library, a
        checkpoint of a workdir; or 'random'.
      role: 'discriminator', where there is none the generator; or 'generator'.
      like: with 'random', a path as of `init`, whose sizes and tokenizer are taken.
      vocab_file: the vocabulary, SentencePiece model or `tokenizer.json`, in place of the encoder's.
      lower_case: whether text is lower-cased; None: as the encoder's tokenizer does, or where that is not known, true.

    Raises:
      UserError: there is none, it cannot be read, or it has no generator where that is the role.
    """
    check_start(init, like)
    is_random = init == RANDOM
    path = like if is_random and like else init
    try:
        with logger.status(f"Opening the encoder of {path}"):
            run = _read(path, vocab_file, lower_case, logger.notice)
    except UserError as error:
        flag = "--like" if is_random else "--init"
        raise error.with_options(dict.fromkeys(("--source", "--checkpoint", "--workdir", "--init"), flag)) from error
    if role == "generator" and role not in run.roles:
        raise UserError(f"config.model.network=generator: {path} has no generator; give discriminator")
    network = run.network(role if role in run.roles else run.roles[0])
    which = f"{network.role} of {path} at step {run.step:,}"
    return StartingPoint(
        source=f"random weights, sizes of the {which}" if is_random else which,
        network=network,
        is_random=is_random,
        initializer_range=run.config.model.initializer_range,
        tokenizer=run.tokenizer,
    )


def _read(path: str, vocab_file: str | None, lower_case: bool | None, notice: Callable[[str], None]) -> LoadedRun:
    path = path if files.is_remote(path) else os.path.abspath(path)
    directory = path if tf.io.gfile.isdir(path) else os.path.dirname(path)
    workdir = _workdir_of_checkpoints(directory)
    format_name = _format_of(directory) if workdir is None else None
    vocabulary: dict[str, Any] = {"vocab_file": vocab_file, "lower_case": lower_case}
    if format_name is None:
        return load_run(workdir or directory, checkpoint=path if workdir else None, notice=notice, **vocabulary)
    with tempfile.TemporaryDirectory() as temporary:
        directory = os.path.join(temporary, "start")
        external = read_source(format_name, path)
        tokenizer = import_external(external, format_name, directory, notice=lambda _: None, **vocabulary)
        for note in tokenizer.vocabulary.notes if tokenizer else ():
            notice(note)
        run = load_run(directory, notice=notice)
    model_file = vocab_file or external.vocab_file
    if run.tokenizer.model_file and model_file:  # its copy is gone
        run = dataclasses.replace(run, tokenizer=dataclasses.replace(run.tokenizer, model_file=model_file))
    return run


def _workdir_of_checkpoints(directory: str) -> str | None:
    """Returns the workdir that a directory holds the checkpoints of; None: it holds none."""
    above, name = os.path.split(directory.rstrip("/"))
    if name == "best":
        above, name = os.path.split(above)
    return above if name == "checkpoints" and tf.io.gfile.exists(tf.io.gfile.join(above, CONFIG_FILE)) else None


def _format_of(directory: str) -> str | None:
    """Returns a directory's format of another library, None for a workdir; raises a `UserError` for all others."""
    option, names = Option("--init"), files.list_directory(directory)
    if "saved_model.pb" in names:
        raise UserError(
            option, f"={directory} is a SavedModel, which cannot be trained: export with --format=huggingface"
        )
    if CONFIG_FILE in names:
        file = files.join(directory, CONFIG_FILE)
        try:
            record = files.parse_json(files.read_bytes(file))
        except ValueError as error:
            raise UserError(f"{file} is damaged ({error})") from error
        if "finetuning" in record:
            raise UserError(option, f"={directory} is fine-tuned already: give the encoder that it started from")
        if "model_type" in record:
            return "huggingface"
        if "config" in record:
            return None
    if "encoder.yaml" in names:
        return "tfm"
    if any(name.endswith(".index") for name in names):
        return "google_tf1"
    below = [name for name in names if name in ("discriminator", "generator")]
    hint = f"; did you mean {os.path.join(directory, below[0])}?" if below else ""
    raise UserError(
        option,
        f"={directory} is neither a workdir of electra-pretrain nor what electra-import or electra-export wrote{hint}",
    )
