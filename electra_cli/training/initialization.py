"""Restores weights of a checkpoint: to begin a run, fitted to its vocabulary and lengths, or to use the model."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.data.vocabulary import Vocabulary, WordRules, is_unused, read_rules
from electra_cli.errors import UserError
from electra_cli.files import read_json, unescaped
from electra_cli.loggers.logger import Logger
from electra_cli.modeling.layers import ElectraEmbeddings
from electra_cli.objectives.base import Pretrainer, build_pretrainer
from electra_cli.training.optimization import (
    Optimizer,
    build_optimizer,
    evaluated_values,
    inner_optimizer,
    start_averages,
)
from electra_cli.workdir.checkpoint_files import find_checkpoint, has_optimizer, step_of, use_checkpoint
from electra_cli.workdir.checkpoint_matching import Match, match, require_no_misfits, restore
from electra_cli.workdir.run_files import CONFIG_FILE, check_start, read_record


@dataclasses.dataclass(frozen=True)
class Changes:
    """How a run differs from the checkpoint that it begins with.

    Attributes:
      tokenizer: the run's; its vocabulary is that of the checkpoint, or it with tokens appended.
      old_vocab_file: the checkpoint's; '': one next to the checkpoint.
      positions: 'copy' or 'interpolate', for a longer or shorter position table; see `resize_positions`.
      restore_optimizer: whether to restore the moments of the optimizer; never its step.
    """

    tokenizer: TokenizerSettings
    old_vocab_file: str = ""
    positions: str = "copy"
    restore_optimizer: bool = False

    @classmethod
    def of(cls, config: ml_collections.FrozenConfigDict, tokenizer: TokenizerSettings) -> "Changes":
        """Returns the changes by the section `init` of a config."""
        init = config.init
        return cls(tokenizer, init.vocab_file, init.positions, init.optimizer == "restored")


def begin(
    model: Pretrainer,
    optimizer: Optimizer,
    config: ml_collections.FrozenConfigDict,
    tokenizer: TokenizerSettings,
    checkpoint: str | None,
    logger: Logger,
) -> None:
    """Gives a new run the weights that section `init` of its config names; see `start_from`.

    `checkpoint` takes the place of `init.checkpoint`. Raises a `UserError` also as `run_files.check_start`.
    """
    check_start(config, checkpoint)
    path = checkpoint or config.init.checkpoint
    changes = Changes.of(config, tokenizer)
    if path:
        with _about("--checkpoint" if checkpoint else "config.init.checkpoint"):
            start_from(path, model, optimizer, changes, logger)
    if config.init.generator:
        changes = dataclasses.replace(changes, restore_optimizer=False)
        with _about("config.init.generator"):
            start_from(config.init.generator, model, optimizer, changes, logger, of_generator=True)


@contextlib.contextmanager
def _about(option: str) -> Iterator[None]:
    """Attributes errors about a checkpoint's path to the option that gave it."""
    try:
        yield
    except UserError as error:
        raise error.with_options({"--checkpoint": option}) from error


def start_from(
    path: str, model: Pretrainer, optimizer: Optimizer, changes: Changes, logger: Logger, of_generator: bool = False
) -> None:
    """Assigns the weights of any checkpoint (`checkpoint_files.find_checkpoint`) to a model, to begin a run at step 0.

    With `of_generator` the generator's alone, which may be the network of the objective mlm.

    Rows of new tokens, in the word tables and the masked-LM head's bias, are the means of those of the pieces that the
    old vocabulary divides them into; moments of an optimizer start at 0 there.

    Raises a `UserError`, before any change, if the checkpoint is missing, damaged or of another model, or the run's
    vocabulary does not begin with its.
    """
    find = functools.partial(find_checkpoint, path, logger.warning)
    path, values = use_checkpoint(find, functools.partial(_fit, model, optimizer, changes, logger, of_generator))
    for variable, value in values:
        variable.assign(value)
    start_averages(optimizer, model.trainable_variables)
    if of_generator:
        logger.notice(f"The generator starts from the weights of {path}.")
        return
    how = "resumes with its moments" if changes.restore_optimizer else "starts fresh"
    logger.notice(f"Starting at step 0 from the weights of {path}; the optimizer {how}.")


def _fit(
    model: Pretrainer, optimizer: Optimizer, changes: Changes, logger: Logger, of_generator: bool, path: str
) -> tuple[str, list[tuple[tf.Variable, np.ndarray]]]:
    """Returns the path of a complete checkpoint, and its values, fitted to the variables that they are for."""
    root = tf.train.Checkpoint(model=model, optimizer=optimizer)
    sections = ("model", "optimizer") if changes.restore_optimizer else ("model",)
    if changes.restore_optimizer and not has_optimizer(path):
        raise UserError(f"checkpoint {path} holds no optimizer: give --config.init.optimizer=fresh")
    by_token, by_position = _resizable(model, optimizer)
    resizable = {*by_token, *by_position}
    if of_generator:
        found = _match_generator(model, path, resizable)
        remedy = "give config.model.generator_* its sizes, or another checkpoint of the objective electra, teams or mlm"
        require_no_misfits(path, found.misfits, remedy)
    else:
        found = match(root, path, sections, resizable)
        require_no_misfits(path, found.misfits)
    skipped = {variable.ref() for variable in (optimizer.iterations, *evaluated_values(optimizer, ()))}
    with unescaped(path) as file:
        reader = tf.train.load_checkpoint(file)
        read = {key: variable for key, variable in found.variables.items() if variable.ref() not in skipped}
        stored = [(variable, reader.get_tensor(key)) for key, variable in read.items()]
    old_sizes = {len(value) for variable, value in stored if variable.ref() in by_token}
    old = _old_vocabulary(path, changes, old_sizes)
    _compare_rules(path, changes.tokenizer, logger)
    new_rows = _pieces_of_new_tokens(old, changes.tokenizer.vocabulary, logger.notice) if old else []
    values = []
    for variable, value in stored:
        is_moment = any(variable is moment for moment in optimizer.variables)
        if value.shape != tuple(variable.shape) and variable.ref() in by_token:
            # Of rows without a token, some may be cut off.
            value = _append_rows(value, new_rows, is_moment)[: variable.shape[0]]
        elif value.shape != tuple(variable.shape):
            value = resize_positions(value, variable.shape[0], "zeros" if is_moment else changes.positions)
        values.append((variable, value))
    return path, values


def _match_generator(model: Pretrainer, path: str, resizable: set) -> Match:
    """Matches the generator with that of a checkpoint, or with the network of the objective mlm."""
    generator, matches = model.networks["generator"], []
    heads = generator.get_config()["num_attention_heads"]  # no shape depends on them
    for name, section, key in (
        ("generator_network", "derived", "generator_num_attention_heads"),
        ("encoder_network", "model", "num_attention_heads"),
    ):
        parts = tf.train.Checkpoint(**{name: generator}, masked_lm=model.masked_lm)
        found = match(tf.train.Checkpoint(model=parts), path, ("model",), resizable)
        own = (f"model/{name}/", "model/masked_lm/")  # what else is in the checkpoint does not matter
        misfits = [misfit for misfit in found.misfits if misfit.startswith(own) or not misfit.startswith("model/")]
        recorded = _recorded(path, section, key, heads)
        if recorded != heads:
            misfits.append(f"the generator has {heads} attention heads by the config, {recorded} in the checkpoint")
        matches.append(dataclasses.replace(found, misfits=misfits))
    return max(matches, key=lambda found: len(found.variables))


def _resizable(model: Pretrainer, optimizer: Optimizer) -> tuple[set, set]:
    """Returns references to variables, moments included, with a row for each token, and for each position."""
    embeddings = [layer for layer in model.submodules if isinstance(layer, ElectraEmbeddings)]
    tokens = {layer.word_embeddings.ref() for layer in embeddings}
    if model.masked_lm is not None:
        tokens.add(model.masked_lm.bias.ref())
    positions = {layer.position_embeddings.ref() for layer in embeddings if layer.position_embeddings is not None}
    trained = model.trainable_variables
    for moments in _moments(optimizer):
        for moment, variable in zip(moments, trained, strict=True):
            for group in (tokens, positions):
                if variable.ref() in group:
                    group.add(moment.ref())
    return tokens, positions


def _moments(optimizer: Optimizer) -> list[list[tf.Variable]]:
    """Returns the lists of variables that an optimizer keeps for each weight."""
    inner = inner_optimizer(optimizer)
    names = ("_m", "_v", "_momentums", "_velocities", "_model_variables_moving_average")
    return [list(getattr(inner, name)) for name in names if getattr(inner, name, None)]


def _append_rows(table: np.ndarray, new_rows: list[list[int]], is_moment: bool) -> np.ndarray:
    added: np.ndarray = np.zeros([len(new_rows), *table.shape[1:]], table.dtype)
    for index, rows in enumerate(new_rows):
        added[index] = 0 if is_moment else table[rows].mean(axis=0)
    return np.concatenate([table, added])


def resize_positions(table: np.ndarray, rows: int, how: str) -> np.ndarray:
    """Returns a position table [rows, width] made of one [old_rows, width].

    Further rows are copies of the first ones ('copy') or zeros ('zeros'), or all are between the old ones, of which the
    first and last stay ('interpolate').
    """
    old_rows = len(table)
    if how == "copy":
        return table[np.arange(rows) % old_rows]
    if how == "zeros":
        return np.pad(table[:rows], [(0, max(0, rows - old_rows)), (0, 0)])
    positions = np.linspace(0.0, old_rows - 1.0, rows)
    low = np.floor(positions).astype(int)
    high = np.minimum(low + 1, old_rows - 1)
    share = (positions - low)[:, np.newaxis].astype(table.dtype)
    return table[low] * (1 - share) + table[high] * share


def _old_vocabulary(path: str, changes: Changes, old_sizes: set[int]) -> Vocabulary | None:
    """Returns the vocabulary of a checkpoint, which the run's must begin with; None if unknown and not needed."""
    new = changes.tokenizer.vocabulary
    file = changes.old_vocab_file or _find_vocab_file(path)
    (size,) = old_sizes or {new.size}
    if not file:
        if size == new.size:
            return None
        raise UserError(
            f"checkpoint {path} has {size:,} tokens, the data {new.size:,}, and its vocabulary is not next to it: give "
            f"it, --config.init.vocab_file=FILE"
        )
    old = Vocabulary.from_file(file, is_foreign=bool(changes.old_vocab_file))
    old = old.fitted(size, file, f"checkpoint {path}", "--config.init.vocab_file")
    for index, (before, now) in enumerate(zip(old.tokens, new.tokens, strict=False)):
        if before.rstrip() != now.rstrip():
            again = f", and has {before!r} again later, which is one too many" if before in new.tokens else ""
            raise UserError(
                f"the data's vocabulary is another than the checkpoint's: its token {index} is {now!r}, in {file} "
                f"{before!r}{again}; prepare the data with --vocab_file={file}, or a copy with tokens appended"
            )
    if not all(is_unused(token) for token in old.tokens[new.size :]):
        raise UserError(
            f"the data's vocabulary lacks the last {old.size - new.size:,} tokens of {file}: prepare the data with it"
        )
    return old


def _compare_rules(path: str, tokenizer: TokenizerSettings, logger: Logger) -> None:
    """Warns where a checkpoint's text became words in another way than the run's; what is not recorded is not
    compared."""
    workdir = _workdir_of(path)
    old = read_rules(workdir)
    config_file = tf.io.gfile.join(workdir, CONFIG_FILE)
    if old is None and tf.io.gfile.exists(config_file):
        lower_case = (read_json(config_file).get("tokenizer") or {}).get("lower_case")
        old = None if lower_case is None else WordRules(lower_case)
    new = tokenizer.rules
    if old is None or tokenizer.vocabulary.word_begin or old.flags == new.flags:
        return
    before, now = (rules.flags.strip() or "--lower_case=true" for rules in (old, new))
    logger.warning(
        f"Warning: the data was prepared with {now}, what checkpoint {path} learned from with {before}: it does not "
        f"know the words as they are now; to have the same tokens, prepare the data with {before}"
    )


def _workdir_of(path: str) -> str:
    """Returns the directory in whose `checkpoints` or `checkpoints/best` a checkpoint is, or else its own."""
    workdir = os.path.dirname(path)
    for name in ("best", "checkpoints"):
        workdir = os.path.dirname(workdir) if os.path.basename(workdir) == name else workdir
    return workdir


def _recorded(path: str, section: str, key: str, default: Any) -> Any:
    """Returns a value of the config in a checkpoint's workdir; the default where none can be read."""
    try:
        return read_record(_workdir_of(path))["config"][section][key]
    except (UserError, KeyError, TypeError):
        return default


def _find_vocab_file(path: str) -> str:
    """Looks for a checkpoint's vocabulary next to it, in its workdir, and in the data of the run there."""
    workdir = _workdir_of(path)
    beside = tf.io.gfile.join(workdir, "vocab.txt")
    if tf.io.gfile.exists(beside):
        return beside
    data_dir = _recorded(path, "data", "dir", None)
    if data_dir is None:
        return ""  # where a vocabulary is needed, the user is asked for it
    file = tf.io.gfile.join(data_dir, "vocab.txt")
    return file if tf.io.gfile.exists(file) else ""


def _pieces_of_new_tokens(old: Vocabulary, new: Vocabulary, notice: Callable[[str], None]) -> list[list[int]]:
    """Returns for each appended token the ids of its pieces in the old vocabulary; all ids where it has none."""
    ids = {token: index for index, token in enumerate(old.tokens)}
    rows, without = [], []
    for token in new.tokens[old.size :]:
        pieces = split_token(token, ids)
        if not pieces:
            without.append(token)
        rows.append(pieces or list(range(old.size)))
    if rows:
        notice(f"{len(rows):,} tokens are new; each begins as the mean of its pieces.")
    if without:
        more = f" and {len(without) - 5:,} more" if len(without) > 5 else ""
        notice(f"Of {', '.join(without[:5])}{more} there are no pieces: the mean of all tokens.")
    return rows


def split_token(token: str, ids: dict[str, int]) -> list[int]:
    """Returns the ids of the longest pieces of a token, from left to right; none where a character has no piece.

    Tokens are of WordPiece ('##ing' continues a word) or SentencePiece. After the first, pieces with '##' come first.
    """
    text, continues = token.removeprefix("##"), token.startswith("##")
    pieces: list[int] = []
    start = 0
    while start < len(text):
        prefixes = ("##", "") if pieces or continues else ("",)
        candidates = ((end, f"{prefix}{text[start:end]}") for end in range(len(text), start, -1) for prefix in prefixes)
        end, piece = next(((end, piece) for end, piece in candidates if piece in ids), (0, ""))
        if not piece:
            return []
        pieces.append(ids[piece])
        start = end
    return pieces


def restore_model(
    config: ml_collections.FrozenConfigDict, path: str, notice: Callable[[str], None], *, averaged: bool = True
) -> tuple[Pretrainer, str, int]:
    """Returns the model of a resolved config with the weights of a checkpoint, float32, and its path and step.

    The path is as of `checkpoint_files.find_checkpoint`; `averaged` takes the moving averages, where the run keeps any.
    Raises a `UserError` if the checkpoint is missing, damaged or of another model.
    """
    model = build_pretrainer(config)

    def restore_from(path: str) -> tuple[str, int]:
        if not (averaged and config.optimizer.ema_decay > 0 and has_optimizer(path)):
            restore(tf.train.Checkpoint(model=model), path, ("model",))
            return path, step_of(path)
        optimizer = build_optimizer(config)
        optimizer.build(model.trainable_variables)
        restore(tf.train.Checkpoint(model=model, optimizer=optimizer), path, ("model", "optimizer"))
        averages = evaluated_values(optimizer, model.trainable_variables)
        for variable, average in zip(model.trainable_variables, averages, strict=True):
            variable.assign(average)
        return path, step_of(path)

    return model, *use_checkpoint(functools.partial(find_checkpoint, path, notice), restore_from)
