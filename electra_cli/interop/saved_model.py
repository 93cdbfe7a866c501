"""SavedModels that take text: tokenizer and networks in one graph, in the layout of TensorFlow Hub.

Signatures of a run, of strings `text` [batch]:

- `replaced_tokens`, of a discriminator: `replaced_probability` float32 [batch, length]; of the objective electric
  `energies` instead: `energy` float32 [batch, length].
- `embeddings`, of the discriminator, or of a generator alone: `layers` float32 [batch, layers, length, hidden],
  `sequence_output` (the last of them), and of each text `first` (that of [CLS]), `mean` and `max` (over its tokens,
  [CLS] and [SEP] included) float32 [batch, hidden].
- `fill_mask`, of a generator: for each [MASK] of each text, in order, the `num_predictions` most probable tokens:
  `filled_tokens` string and `filled_ids` int32 [batch, masks, num_predictions], `filled_probability` float32 of the
  same shape, and `mask_positions` int32 [batch, masks], -1 where a text has fewer.

Called on ids, the object itself is an encoder of TensorFlow Hub.

The signature of a fine-tuned model takes strings `text` [batch], of a task of pairs `second_text` [batch] too:

- of a classification `label` string and `probability` float32 [batch], the most probable class and how probable it is,
  `labels` string and `probabilities` float32 [batch, classes];
- of a regression `number` float32 [batch].

All return `tokens` string, `input_word_ids` and `input_mask` int32 [batch, length] too. Reloading takes TensorFlow and
`import tensorflow_text` only: functions hold the Keras model by closure, which saves its variables and not its layers.
"""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.errors import UserError
from electra_cli.files import unescaped
from electra_cli.finetuning.examples import Example
from electra_cli.finetuning.model import FineTunedModel
from electra_cli.interop.graph_tokenization import GraphTokenizer
from electra_cli.interop.runs import LoadedRun, encode_texts, largest_difference, unpadded_rows
from electra_cli.modeling.features import UNMASKED

NUM_PREDICTIONS = 5
_DEFAULT = "serving_default"
_TEXT, _SECOND_TEXT = (tf.TensorSpec([None], tf.string, name) for name in ("text", "second_text"))
_IDS = {name: tf.TensorSpec([None, None], tf.int32, name) for name in UNMASKED}
Outputs = dict[str, tf.Tensor]


def write(run: LoadedRun, roles: list[str], directory: str) -> None:
    """Writes networks of a run, 'discriminator' and 'generator' or one of them, to an existing directory."""
    with _vocabulary_file(run.tokenizer, directory) as vocab_file:
        module = _RunModule(run, roles, vocab_file)
        functions = module.text_functions
        default = functions.get(_of_tokens(run)) or functions["fill_mask"]
        tf.saved_model.save(module, directory, signatures={**functions, _DEFAULT: default})


def write_fine_tuned(model: FineTunedModel, directory: str) -> None:
    """Writes a classification or regression to an existing directory."""
    with _vocabulary_file(model.tokenizer, directory) as vocab_file:
        module = _FineTunedModule(model, vocab_file)
        tf.saved_model.save(module, directory, signatures={_DEFAULT: module.predict})


@contextlib.contextmanager
def _vocabulary_file(tokenizer: TokenizerSettings, directory: str) -> Iterator[str]:
    """Gives a temporary `vocab.txt` in a directory, which becomes an asset of what is saved in the block."""
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        vocab_file = os.path.join(temporary, "vocab.txt")
        with open(vocab_file, "wb") as stream:
            stream.write(tokenizer.vocabulary.to_bytes())
        yield vocab_file


class _RunModule(tf.Module):
    """Tokenizer, weights and functions of networks of a run."""

    def __init__(self, run: LoadedRun, roles: list[str], vocab_file: str):
        super().__init__()
        role = roles[0]
        self.tokenizer = GraphTokenizer(run.tokenizer, vocab_file, run.config.model.max_position_embeddings)
        variables = [variable for each in roles for variable in run.model.networks[each].variables]
        variables += [variable for each in roles for variable in run.head_variables(each)]
        self.model_variables = list({variable.ref(): variable for variable in variables}.values())

        @tf.function(input_signature=[_IDS], autograph=False)
        def encode(inputs):
            layers = run.hidden_states(role, inputs)
            first = layers[-1][:, 0]
            return {"default": first, "pooled_output": first, "sequence_output": layers[-1], "encoder_outputs": layers}

        self.__call__ = encode
        self.text_functions = {"embeddings": self._on_text(_embeddings, run, role)}
        if "discriminator" in roles:
            self.text_functions[_of_tokens(run)] = self._on_text(_discriminate, run)
        if "generator" in roles:
            self.text_functions["fill_mask"] = self._on_text(_fill_mask, run, self.tokenizer)

    def _on_text(self, compute: Callable[..., Outputs], *arguments: Any) -> Callable[[tf.Tensor], Outputs]:
        """Returns a function of texts: their tokens, and what `compute` returns of the arguments and their ids."""

        @tf.function(input_signature=[_TEXT], autograph=False)
        def outputs(text):
            inputs = self.tokenizer(text)
            return {**_token_outputs(self.tokenizer, inputs), **compute(*arguments, inputs)}

        return outputs


def _embeddings(run: LoadedRun, role: str, inputs: Outputs) -> Outputs:
    layers = run.hidden_states(role, inputs)
    last, mask = layers[-1], tf.cast(inputs["input_mask"], tf.float32)[..., tf.newaxis]
    return {
        "layers": tf.stack(layers, axis=1),
        "sequence_output": last,
        "first": last[:, 0],
        "mean": tf.reduce_sum(last * mask, axis=1) / tf.reduce_sum(mask, axis=1),
        "max": tf.reduce_max(tf.where(mask > 0, last, last.dtype.min), axis=1),
    }


def _of_tokens(run: LoadedRun) -> str:
    """Returns the name of the discriminator's signature."""
    return "energies" if run.has_energies else "replaced_tokens"


def _discriminate(run: LoadedRun, inputs: Outputs) -> Outputs:
    logits = run.logits("discriminator", run.hidden_states("discriminator", inputs)[-1])
    name, values = ("energy", logits) if run.has_energies else ("replaced_probability", tf.sigmoid(logits))
    return {name: values * tf.cast(inputs["input_mask"], tf.float32)}


def _fill_mask(run: LoadedRun, tokenizer: GraphTokenizer, inputs: Outputs) -> Outputs:
    is_mask = inputs["input_word_ids"] == run.tokenizer.vocabulary.mask_id
    indices = tf.broadcast_to(tf.range(tf.shape(is_mask)[1]), tf.shape(is_mask))
    positions = tf.ragged.boolean_mask(indices, is_mask).to_tensor(-1)
    encoded = run.hidden_states("generator", inputs)[-1]
    probabilities = tf.nn.softmax(run.logits("generator", encoded, tf.maximum(positions, 0)))
    best, ids = tf.math.top_k(probabilities, NUM_PREDICTIONS)
    return {
        "mask_positions": positions,
        "filled_ids": ids,
        "filled_tokens": tokenizer.tokens_of(ids),
        "filled_probability": best,
    }


class _FineTunedModule(tf.Module):
    """Tokenizer, weights and function of a classification or regression."""

    def __init__(self, fine_tuned: FineTunedModel, vocab_file: str):
        super().__init__()
        self.tokenizer = GraphTokenizer(fine_tuned.tokenizer, vocab_file, fine_tuned.max_length)
        model, label_map = fine_tuned.model, fine_tuned.task.labels
        self.model_variables = model.variables

        @tf.function(input_signature=[_TEXT, _SECOND_TEXT] if fine_tuned.record.has_pairs else [_TEXT], autograph=False)
        def predict(text, second_text=None):
            inputs = self.tokenizer.encode_pairs(text, second_text)
            outputs = _token_outputs(self.tokenizer, inputs)
            logits = model(inputs, training=False)
            if not label_map.labels:
                return {**outputs, "number": logits[:, 0] * label_map.deviation + label_map.mean}
            probabilities = tf.nn.softmax(logits)
            labels = tf.constant(label_map.labels)
            return {
                **outputs,
                "label": tf.gather(labels, tf.argmax(logits, axis=-1)),
                "probability": tf.reduce_max(probabilities, axis=-1),
                "labels": tf.broadcast_to(labels, tf.shape(probabilities)),
                "probabilities": probabilities,
            }

        self.predict = predict


def _token_outputs(tokenizer: GraphTokenizer, inputs: Outputs) -> Outputs:
    """Returns the outputs that all signatures have."""
    ids = inputs["input_word_ids"]
    return {"tokens": tokenizer.tokens_of(ids), "input_word_ids": ids, "input_mask": inputs["input_mask"]}


def _load(directory: str) -> Any:
    with unescaped(os.path.join(directory, ".")) as path:
        return tf.saved_model.load(path)


def compare(run: LoadedRun, roles: list[str], directory: str, texts: list[str]) -> float:
    """Loads what `write` wrote and returns the largest difference of its outputs from the run's.

    Texts of which the graph makes other tokens (`graph_tokenization`) are skipped; half of them are a `UserError`.
    """
    signatures = _load(directory).signatures
    max_length = run.config.model.max_position_embeddings
    outputs = signatures["embeddings"](text=tf.constant(texts))
    is_same = _check_tokens(outputs, encode_texts(run.tokenizer, texts, max_length))
    texts = list(itertools.compress(texts, is_same))
    inputs = encode_texts(run.tokenizer, texts, max_length)
    layers = signatures["embeddings"](text=tf.constant(texts))["layers"]
    states = run.hidden_states(roles[0], inputs)
    pairs = list(zip(tf.unstack(layers, axis=1), states, strict=True))
    if "discriminator" in roles:
        theirs = signatures[_of_tokens(run)](text=tf.constant(texts))
        pairs += [(theirs[name], ours) for name, ours in _discriminate(run, inputs).items()]
    difference = largest_difference(pairs, inputs["input_mask"].astype(bool))
    if "generator" not in roles:
        return difference
    return largest_difference([(difference, 0.0), *_filled_pairs(run, signatures["fill_mask"], texts)])


def _filled_pairs(run: LoadedRun, fill_mask: Callable, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the probabilities of tokens for each [MASK], the graph's and the run's."""
    masked = [f"{text[:60]} [MASK]" for text in texts]
    filled = {name: value.numpy() for name, value in fill_mask(text=tf.constant(masked)).items()}
    inputs = encode_texts(run.tokenizer, masked, run.config.model.max_position_embeddings)
    logits = run.logits("generator", run.hidden_states("generator", inputs)[-1])
    probabilities = tf.nn.softmax(logits).numpy()
    pairs = []
    for row, column in np.argwhere(filled["mask_positions"] >= 0):
        ours = probabilities[row, filled["mask_positions"][row, column]]
        theirs = filled["filled_probability"][row, column]
        pairs.append((theirs, ours[filled["filled_ids"][row, column]]))
        pairs.append((theirs, np.sort(ours)[::-1][:NUM_PREDICTIONS]))
    return pairs


def compare_fine_tuned(model: FineTunedModel, directory: str, examples: list[Example]) -> float:
    """Loads what `write_fine_tuned` wrote and returns the largest difference of its probabilities from the model's.

    Numbers are compared in standard deviations of the training labels; examples are skipped as by `compare`.
    """
    signature = _load(directory).signatures[_DEFAULT]
    texts = {"text": tf.constant([example.text for example in examples])}
    if model.record.has_pairs:
        texts["second_text"] = tf.constant([example.second_text or "" for example in examples])
    outputs = {name: value.numpy() for name, value in signature(**texts).items()}
    task, tokenizer = model.task, model.tokenizer
    inputs = task.encode(examples, tokenizer.build(), tokenizer.vocabulary, model.max_length).features
    is_same = _check_tokens(outputs, inputs)
    logits = model.model(inputs, training=False)
    labels = [label.encode() for label in task.labels.labels]
    if not labels:
        return largest_difference([(task.labels.scaled(outputs["number"]), logits[:, 0])], is_same)
    if any(row.tolist() != labels for row in outputs["labels"]):
        raise UserError("the labels in the graph are others: nothing was exported")
    return largest_difference([(outputs["probabilities"], tf.nn.softmax(logits))], is_same)


def _check_tokens(theirs: Outputs, ours: dict[str, np.ndarray]) -> list[bool]:
    """Returns of which texts the graph makes our tokens; raises a `UserError` where that is half of them or fewer."""
    is_same = [first == second for first, second in zip(unpadded_rows(theirs), unpadded_rows(ours), strict=True)]
    if 2 * sum(is_same) <= len(is_same):
        raise UserError(
            f"the tokenizer in the graph makes other tokens of {len(is_same) - sum(is_same)} of {len(is_same)} sample "
            f"texts: nothing was exported"
        )
    return is_same
