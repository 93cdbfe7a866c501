"""The encoder that a fine-tuning starts from: of a workdir, an import or an export, or random weights of its sizes."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable

import tensorflow as tf

from electra_cli import files
from electra_cli.config.finetuning import RANDOM, check_start
from electra_cli.data.tokenization import read_tokenizer
from electra_cli.errors import Option, UserError
from electra_cli.finetuning.model import StartingPoint
from electra_cli.interop.importing import import_foreign, read_source
from electra_cli.interop.runs import Run, load_run
from electra_cli.loggers.logger import Logger
from electra_cli.workdir.run_files import CONFIG_FILE


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
      role: 'discriminator' or 'generator'; where there is one network, that one is taken.
      logger: receives progress reports.
      like: with 'random', such a one, whose sizes and tokenizer are taken.
      vocab_file: the vocabulary or SentencePiece model, in place of the encoder's.
      lower_case: whether text is lower-cased; None: as the encoder's tokenizer does, or where that is not known, true.

    Raises:
      UserError: there is none, or it cannot be read.
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
    network = run.network(role if role in run.roles else run.roles[0])
    which = f"{network.role} of {path} at step {run.step:,}"
    return StartingPoint(
        source=f"random weights, sizes of the {which}" if is_random else which,
        network=network,
        is_random=is_random,
        initializer_range=run.config.model.initializer_range,
        tokenizer=run.tokenizer,
    )


def _read(path: str, vocab_file: str | None, lower_case: bool | None, say: Callable[[str], None]) -> Run:
    path = path if files.is_remote(path) else os.path.abspath(path)
    directory = path if tf.io.gfile.isdir(path) else os.path.dirname(path)
    workdir = _workdir_of_checkpoints(directory)
    if workdir is not None:
        return load_run(workdir, checkpoint=path, vocab_file=vocab_file, lower_case=lower_case, say=say)
    format_name = _format_of(directory)
    if format_name is None:
        return load_run(directory, vocab_file=vocab_file, lower_case=lower_case, say=say)
    with tempfile.TemporaryDirectory() as temporary:
        directory = os.path.join(temporary, "start")
        foreign = read_source(format_name, path)
        import_foreign(
            foreign,
            format_name,
            directory,
            vocab_file=vocab_file,
            lower_case=lower_case,
            generator_size=0.25,
            overwrite=False,
            say=lambda _: None,
        )
        run = load_run(directory, say=say)
        if run.tokenizer.sentencepiece_file:  # which will be gone
            model_file = vocab_file or foreign.vocab_file
            assert model_file is not None
            run = dataclasses.replace(run, tokenizer=read_tokenizer(model_file))
        return run


def _workdir_of_checkpoints(directory: str) -> str | None:
    """Returns the workdir that a directory holds checkpoints of; None: it is none of these."""
    above, name = os.path.split(directory.rstrip("/"))
    if name == "best":
        above, name = os.path.split(above)
    return above if name == "checkpoints" and tf.io.gfile.exists(tf.io.gfile.join(above, CONFIG_FILE)) else None


def _format_of(directory: str) -> str | None:
    """Returns the foreign format of a directory; None: it is a workdir, or looks like one.

    Raises:
      UserError: it is none of them.
    """
    names = tf.io.gfile.listdir(directory)
    if "saved_model.pb" in names:
        raise UserError(
            Option("--init"),
            f"={directory} is a SavedModel, which cannot be trained: export with --format=huggingface",
        )
    if CONFIG_FILE in names:
        try:
            with tf.io.gfile.GFile(tf.io.gfile.join(directory, CONFIG_FILE)) as stream:
                record = json.load(stream)
        except ValueError as error:
            raise UserError(f"{os.path.join(directory, CONFIG_FILE)} is damaged ({error})") from error
        if "finetuning" in record:
            raise UserError(
                Option("--init"), f"={directory} is fine-tuned already: give the encoder that it started from"
            )
        if "model_type" in record:
            return "huggingface"
        if "config" in record:
            return None
    if "encoder.yaml" in names:
        return "tfm"
    if any(name.endswith(".index") for name in names):
        return "google_tf1"
    below = [name.rstrip("/") for name in names if name.rstrip("/") in ("discriminator", "generator")]
    hint = f"; did you mean {os.path.join(directory, below[0])}?" if below else ""
    raise UserError(
        Option("--init"),
        f"={directory} is neither a workdir of electra-pretrain nor what electra-import or electra-export wrote{hint}",
    )
