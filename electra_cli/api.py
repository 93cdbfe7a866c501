"""Trained models from Python: load one, encode text, detect replaced tokens, fill masks, score texts.

    from electra_cli.api import load

    electra = load("run")                                # a workdir, or what electra-import wrote
    electra.encode(["Some text."]).mean                  # float32 [1, hidden_size]
    electra.detect_replaced_tokens(["The chef ate the car."])[0]
    electra.fill_mask(["The chef [MASK] the soup."])[0][0]
    electra.score(["The chef ate the soup."])[0].log_likelihood     # of a run of the objective electric

These names are kept: `load`, `Electra` and its methods `encode`, `detect_replaced_tokens`, `fill_mask` and `score`, and
what they return. Mistakes raise `electra_cli.errors.UserError`, whose text says what to do.
"""

import dataclasses
import numbers
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from electra_cli.config.checks import require_energies
from electra_cli.data.inputs import without_surrogates
from electra_cli.errors import UserError
from electra_cli.interop.runs import LoadedRun, encode_texts, load_run, unpadded_rows

__all__ = ["Electra", "Encoded", "Filled", "Score", "Token", "load"]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Texts as vectors.

    Attributes:
      tokens: those of each text, [CLS] and [SEP] included.
      sequence_output: for each text float32 [tokens, hidden_size], the last layer's output.
      layers: for each text float32 [layers, tokens, hidden_size], every layer's output.
      first: float32 [texts, hidden_size], the last layer's output at [CLS].
      mean: float32 [texts, hidden_size], its mean over all tokens of a text.
    """

    tokens: list[list[str]]
    sequence_output: list[np.ndarray]
    layers: list[np.ndarray]
    first: np.ndarray
    mean: np.ndarray


@dataclasses.dataclass(frozen=True)
class Token:
    """A token of a text."""

    token: str  # as the vocabulary has it
    replaced_probability: float  # 0 to 1: how sure the discriminator is that it is not the original


@dataclasses.dataclass(frozen=True)
class Filled:
    """A token for a [MASK]."""

    token: str  # as the vocabulary has it
    probability: float  # 0 to 1, the generator's


@dataclasses.dataclass(frozen=True)
class Score:
    """How likely a text is."""

    log_likelihood: float  # pseudo-log-likelihood, nats: the sum of -E(x)_t over its tokens
    num_tokens: int  # of that sum: all but special tokens
    is_cut: bool  # whether the text is longer, and only its beginning was scored


def load(
    path: str,
    *,
    checkpoint: str | None = None,
    averaged: bool = True,
    vocab_file: str | None = None,
    lower_case: bool | None = None,
) -> "Electra":
    """Loads a trained model, in float32.

    Args:
      path: a workdir of electra-pretrain, or what electra-import wrote.
      checkpoint: 'best', or the path of a checkpoint; None: the newest.
      averaged: whether to load moving averages of the weights, where the run keeps some.
      vocab_file: the vocabulary, where the data that the run was trained on is gone.
      lower_case: whether text is lower-cased; None: as the data was.

    Raises:
      UserError: no such run or checkpoint, one that is damaged, or a vocabulary that is missing or does not fit.
    """
    try:
        run = load_run(
            path,
            checkpoint=checkpoint,
            averaged=averaged,
            vocab_file=vocab_file,
            lower_case=lower_case,
            notice=lambda _: None,
        )
    except UserError as error:
        arguments = {f"--{name}": name for name in ("checkpoint", "vocab_file", "lower_case")}
        raise error.with_options({"--workdir": "path", **arguments}) from error
    return Electra(run)


class Electra:
    """A trained model, as `load` returns it.

    Texts that are longer than the model's positions are cut; `batch_size` texts are computed at once.

    Attributes:
      run: its config, checkpoint, step, vocabulary and networks.
    """

    def __init__(self, run: LoadedRun):
        self.run = run
        self._encoder = run.tokenizer.build()
        self._logits = tf.function(self._compute_logits, autograph=False)

    def encode(self, texts: Sequence[str], *, network: str | None = None, batch_size: int = 32) -> Encoded:
        """Returns texts as vectors of a network: 'discriminator' or 'generator'; None: the first that there is.

        Raises:
          UserError: the model has no such network, or there is no text.
        """
        role = network or self.run.roles[0]
        self._require(role)
        tokens, layers = [], []
        for ids, inputs in self._batches(texts, batch_size):
            states = np.stack([state.numpy() for state in self.run.hidden_states(role, inputs)], axis=1)
            tokens += [self._tokens(row) for row in ids]
            layers += [state[:, : len(row)] for state, row in zip(states, ids, strict=True)]
        last = [of_text[-1] for of_text in layers]
        return Encoded(
            tokens=tokens,
            sequence_output=last,
            layers=layers,
            first=np.stack([state[0] for state in last]),
            mean=np.stack([state.mean(axis=0) for state in last]),
        )

    def detect_replaced_tokens(self, texts: Sequence[str], *, batch_size: int = 32) -> list[list[Token]]:
        """Returns the tokens of each text without [CLS] and [SEP], and how likely each was replaced.

        Raises:
          UserError: the model has no discriminator, or one of energies, or there is no text.
        """
        self._require("discriminator")
        if self.run.has_energies:
            raise UserError(f"{self.run.workdir} has energies, which are no probabilities: see `score`")
        tokens = []
        for ids, inputs in self._batches(texts, batch_size):
            logits = self.run.logits("discriminator", self.run.hidden_states("discriminator", inputs)[-1])
            for row, probabilities in zip(ids, tf.sigmoid(logits).numpy(), strict=True):
                pairs = zip(self._tokens(row), probabilities.tolist(), strict=False)
                tokens.append([Token(token, probability) for token, probability in pairs][1:-1])
        return tokens

    def fill_mask(self, texts: Sequence[str], *, top_k: int = 5, batch_size: int = 32) -> list[list[list[Filled]]]:
        """Returns for each text, for each [MASK] in it, the `top_k` most probable tokens, the likeliest first.

        Raises:
          UserError: the model has no generator, there is no text, or `top_k` is not from 1 to the vocabulary's size.
        """
        self._require("generator")
        vocabulary = self.run.tokenizer.vocabulary
        if not isinstance(top_k, numbers.Integral) or not 1 <= top_k <= vocabulary.size:
            raise UserError(f"top_k={top_k}: must be a whole number from 1 to {vocabulary.size:,}")
        filled: list[list[list[Filled]]] = []
        for ids, inputs in self._batches(texts, batch_size):
            encoded = self.run.hidden_states("generator", inputs)[-1]
            for index, row in enumerate(ids):
                positions = [position for position, token_id in enumerate(row) if token_id == vocabulary.mask_id]
                if not positions:
                    filled.append([])
                    continue
                logits = self.run.logits("generator", encoded[index : index + 1], tf.constant([positions]))
                best, best_ids = tf.math.top_k(tf.nn.softmax(logits[0]), top_k)
                filled.append(
                    [
                        [Filled(vocabulary.tokens[token_id], float(p)) for token_id, p in zip(*pair, strict=True)]
                        for pair in zip(best_ids.numpy(), best.numpy(), strict=True)
                    ]
                )
        return filled

    def score(self, texts: Sequence[str], *, batch_size: int = 32) -> list[Score]:
        """Returns the pseudo-log-likelihood of each text (arXiv 2012.08561), 0 of one without tokens.

        -E(x)_t is taken for log p(x_t | the other tokens). Texts are cut to the length of the run's examples, with
        architecture=modern to `model.max_position_embeddings`. Shapes are those of few lengths, for which a function is
        compiled once.

        Raises:
          UserError: the model has no energies, or there is no text.
        """
        require_energies(self.run.config.objective.name, self.run.workdir)
        config, vocabulary = self.run.config, self.run.tokenizer.vocabulary
        longest = config.model.max_position_embeddings
        if config.model.architecture == "electra":  # rows of later positions have learned nothing
            longest = max(config.phases.max_seq_length or [config.data.max_seq_length])
        special = (vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id)
        scores: list[Score] = []
        for part in _divide(texts, batch_size):
            inputs = encode_texts(self.run.tokenizer, part, longest + 1, self._encoder)
            is_cut = inputs["input_mask"].sum(axis=1) > longest
            inputs = {name: value[:, :longest] for name, value in inputs.items()}
            ids = inputs["input_word_ids"]
            ids[is_cut, -1] = vocabulary.sep_id
            width = min(longest, 1 << (ids.shape[1] - 1).bit_length())
            padding = [[0, min(batch_size, len(texts)) - len(part)], [0, width - ids.shape[1]]]
            logits = self._logits({name: np.pad(value, padding) for name, value in inputs.items()}).numpy()
            is_scored = ~np.isin(ids, special)
            energies = np.where(is_scored, logits[: len(part), : ids.shape[1]].astype(np.float64), 0.0)
            rows = zip(0.0 - energies.sum(axis=1), is_scored.sum(axis=1), is_cut, strict=True)
            scores += [Score(float(total), int(number), bool(cut)) for total, number, cut in rows]
        return scores

    def _compute_logits(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        return self.run.logits("discriminator", self.run.hidden_states("discriminator", inputs)[-1])

    def _require(self, role: str) -> None:
        if role not in self.run.roles:
            raise UserError(f"{self.run.workdir} has no {role}; it has: {', '.join(self.run.roles)}")

    def _tokens(self, ids: list[int]) -> list[str]:
        return [self.run.tokenizer.vocabulary.tokens[token_id] for token_id in ids]

    def _batches(
        self, texts: Sequence[str], batch_size: int
    ) -> Iterator[tuple[list[list[int]], dict[str, np.ndarray]]]:
        length = self.run.config.model.max_position_embeddings
        for part in _divide(texts, batch_size):
            inputs = encode_texts(self.run.tokenizer, part, length, self._encoder)
            yield unpadded_rows(inputs), inputs


def _divide(texts: Sequence[str], batch_size: int) -> Iterator[list[str]]:
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
        raise UserError("give a list of one text or more")
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: must be 1 or more")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"texts[{index}]={text!r}: must be a str")
    for begin in range(0, len(texts), batch_size):
        yield [without_surrogates(text) for text in texts[begin : begin + batch_size]]
