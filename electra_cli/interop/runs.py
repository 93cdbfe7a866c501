"""Loads a workdir, or a starting point of `electra-import`, for exports and the Python API."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli import files
from electra_cli.config.resolution import divide
from electra_cli.data import tokenization
from electra_cli.data.tokenization import TextEncoder, TokenizerSettings
from electra_cli.data.vocabulary import BYTE_WORD_BEGIN, read_rules
from electra_cli.errors import Option, UserError
from electra_cli.finetuning.base import to_features
from electra_cli.objectives import weights as weights_module
from electra_cli.objectives.base import Pretrainer
from electra_cli.objectives.costs import sizes_without_weights
from electra_cli.objectives.weights import Network
from electra_cli.training.initialization import restore_model
from electra_cli.workdir.run_files import CONFIG_FILE, named_checkpoint, read_config, read_metrics, read_record


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A trained model with all that is known of it; a role is one of its networks, 'discriminator' or 'generator'.

    Attributes:
      checkpoint: path of the checkpoint that was read.
      config: resolved.
      is_averaged: whether the weights are moving averages.
      held_out: the last held-out metrics up to `step`; empty when there are none.
    """

    workdir: str
    checkpoint: str
    step: int
    config: ml_collections.FrozenConfigDict
    model: Pretrainer
    is_averaged: bool
    tokenizer: TokenizerSettings
    held_out: dict[str, Any]

    @property
    def roles(self) -> list[str]:
        """The networks that it has, the discriminator first."""
        return list(self.model.networks)

    @property
    def has_energies(self) -> bool:
        """Whether the discriminator's logits are energies of tokens, not those of being replaced."""
        return self.config.objective.name == "electric"

    def network(self, role: str) -> Network:
        """Returns a network with its head, as arrays."""
        heads = self.config.model.num_attention_heads
        if role == "generator" and "discriminator" in self.roles:
            heads = self.config.derived.generator_num_attention_heads
        settings = sizes_without_weights(self.config.model)
        network = weights_module.split(weights_module.read(self.model), role, heads, settings)
        assert network is not None
        return network

    def head_variables(self, role: str) -> list[tf.Variable]:
        """Returns the variables of a network's head."""
        if role == "generator":
            assert self.model.masked_lm is not None
            return self.model.masked_lm.variables
        return [*self.model.discriminator_projection.variables, *self.model.discriminator_head.variables]

    def hidden_states(self, role: str, inputs: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        """Returns the output of each layer, float32 [batch, seq_length, hidden_size]; nothing is masked or corrupted.

        Args:
          inputs: int32 [batch, seq_length] of `features.UNMASKED`.
        """
        return self.model.networks[role](inputs, training=False)["encoder_outputs"]

    def logits(self, role: str, encoded: tf.Tensor, positions: tf.Tensor | None = None) -> tf.Tensor:
        """Returns a head's logits.

        Args:
          encoded: the last layer's output [batch, seq_length, hidden_size].
          positions: int32 [batch, n] that a generator predicts; None: all.

        Returns:
          Of a discriminator (replaced or not, or energies) float32 [batch, seq_length], of a generator [batch, n,
          vocab_size].
        """
        if role == "discriminator":
            logits = self.model.discriminator_head(self.model.discriminator_projection(encoded))
            return tf.cast(tf.squeeze(logits, axis=-1), tf.float32)
        assert self.model.masked_lm is not None
        if positions is None:
            batch_and_length = tf.shape(encoded)[:2]
            positions = tf.broadcast_to(tf.range(batch_and_length[1]), batch_and_length)
        return tf.cast(self.model.masked_lm(encoded, positions), tf.float32)


def load_run(
    workdir: str,
    *,
    checkpoint: str | None = None,
    averaged: bool = True,
    vocab_file: str | None = None,
    lower_case: bool | None = None,
    notice: Callable[[str], None] = print,
) -> LoadedRun:
    """Reads a workdir, or what `electra-import` wrote.

    Args:
      checkpoint: 'best', a path, or a directory whose newest is taken; None: the newest of the workdir.
      averaged: whether to take the moving averages of the weights, if the run keeps them.
      vocab_file: the vocabulary, SentencePiece model or `tokenizer.json`, in place of the run's.
      lower_case: whether its tokenizer lower-cases; None: as that of the data, or where that is not known, true.

    Raises:
      UserError: no such workdir or checkpoint, a damaged one, or a vocabulary that is missing or does not fit.
    """
    record = read_record(workdir)
    config = read_config(record, os.path.join(workdir, CONFIG_FILE))
    tokenizer = _find_tokenizer(workdir, record, config, vocab_file, lower_case)
    size = config.derived.vocab_size
    if vocab_file is None and tokenizer.model_file is None and tokenizer.vocabulary.size < size:
        raise UserError(  # what was saved with the model had all tokens
            f"the vocabulary of {workdir} has lost tokens: {tokenizer.vocabulary.size:,} of {size:,} are left; give "
            f"the one it was trained with, ",
            Option("--vocab_file"),
            "=FILE",
        )
    tokenizer = tokenizer.fitted(size, vocab_file or f"of {workdir}", f"the model of {workdir}", "--vocab_file")
    for note in tokenizer.vocabulary.notes:
        notice(note)
    own = tokenization.find_vocab_file(workdir)
    if vocab_file and own and _differ(vocab_file, own):
        notice(f"{vocab_file} differs from {own}, which the model learned with: it does not know other tokens.")
    where = named_checkpoint(workdir, checkpoint) if checkpoint else workdir
    try:
        model, path, step = restore_model(config, where, notice, averaged=averaged)
    except UserError as error:
        raise error.with_options({} if checkpoint else {"--checkpoint": "--workdir"}) from error
    lines = [line for line in read_metrics(workdir) if line["split"] == "validation" and line["step"] <= step]
    is_averaged = averaged and config.optimizer.ema_decay > 0
    return LoadedRun(workdir, path, step, config, model, is_averaged, tokenizer, lines[-1] if lines else {})


def _differ(vocab_file: str, own: str) -> bool:
    """Returns whether a line of both files differs, but for white space; rows without a token are named in `own`."""
    given, kept = ([line.rstrip() for line in files.read_bytes(file).splitlines()] for file in (vocab_file, own))
    return any(one and one != other for one, other in zip(given, kept, strict=False))


def _find_tokenizer(
    workdir: str,
    record: dict[str, Any],
    config: ml_collections.FrozenConfigDict,
    vocab_file: str | None,
    lower_case: bool | None,
) -> TokenizerSettings:
    if lower_case is None:
        lower_case = (record.get("tokenizer") or {}).get("lower_case")
    if vocab_file:
        rules = tokenization.rules_next_to(vocab_file) or read_rules(workdir)
        return tokenization.read_tokenizer(vocab_file, lower_case, rules)
    saved = tokenization.saved_tokenizer(workdir, lower_case)
    if saved is not None:
        return saved
    data_dir = divide(config)[0].config.data.dir
    if not tf.io.gfile.exists(tf.io.gfile.join(data_dir, "vocab.txt")):
        raise UserError(
            f"{data_dir}, which {workdir} was trained on, is not there any more: give its vocabulary, ",
            Option("--vocab_file"),
            "=FILE (and ",
            Option("--lower_case"),
            "=false where it is cased)",
        )
    return tokenization.tokenizer_of_data(data_dir, lower_case)


def encode_texts(
    tokenizer: TokenizerSettings,
    texts: list[str],
    max_length: int,
    encoder: TextEncoder | None = None,
) -> dict[str, np.ndarray]:
    """Returns int32 [texts, longest] `input_word_ids`, `input_mask` and `input_type_ids`: [CLS] text [SEP] and padding.

    '[MASK]' in a text is the token of that name.

    Args:
      max_length: tokens to cut a text to, [CLS] and [SEP] included.
      encoder: a result of `tokenizer.build()` to use again: it remembers words.
    """
    encoder = encoder or tokenizer.build()
    rows: list[tuple[list[int], None]] = []
    for text in texts:
        ids: list[int] = []
        segments = text.split("[MASK]")
        if tokenizer.vocabulary.word_begin == BYTE_WORD_BEGIN:  # the space before a word is part of what is masked
            segments[:-1] = [segment.rstrip() for segment in segments[:-1]]
        for index, segment in enumerate(segments):
            ids += [tokenizer.vocabulary.mask_id] if index else []
            ids += encoder.encode_lines([segment])[0]
        rows.append((ids[: max_length - 2], None))
    return to_features(rows, tokenizer.vocabulary, 2 + max(len(ids) for ids, _ in rows))


def unpadded_rows(inputs: dict[str, Any]) -> list[list[int]]:
    """Returns the ids of each text of `encode_texts`, or of what a SavedModel returns, without padding."""
    ids, mask = np.asarray(inputs["input_word_ids"]), np.asarray(inputs["input_mask"]).astype(bool)
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]


def largest_difference(pairs: Iterable[tuple[Any, Any]], kept: Any = ...) -> float:
    """Returns the largest difference within pairs of arrays or tensors of one shape; NaN where one is NaN.

    It is relative to the largest value of its pair, where that is above 1: rounding grows with the values.

    Args:
      kept: index of what to compare in each, such as a bool [batch, seq_length] of tokens that are no padding.
    """
    arrays = [(np.asarray(one)[kept], np.asarray(other)[kept]) for one, other in pairs]
    return float(np.max([np.abs(one - other).max() / max(1.0, np.abs(one).max()) for one, other in arrays]))
