"""A SavedModel that takes text: tokenizer and networks in one graph, in the layout of TensorFlow Hub.

Signatures, of strings `text` [batch]:

- `replaced_tokens`, of a discriminator: `replaced_probability` float32 [batch, length].
- `embeddings`, of the discriminator, or of a generator alone: `layers` float32 [batch, layers, length, hidden],
  `sequence_output` (the last of them), and of each text `first` (that of [CLS]), `mean` and `max` (over its tokens,
  [CLS] and [SEP] included) float32 [batch, hidden].
- `fill_mask`, of a generator: for each [MASK] of each text, in order, the `num_predictions` most probable tokens:
  `filled_tokens` string and `filled_ids` int32 [batch, masks, num_predictions], `filled_probability` float32 of the
  same shape, and `mask_positions` int32 [batch, masks], -1 where a text has fewer.

All return `tokens` string, `input_word_ids` and `input_mask` int32 [batch, length] too. The object itself is called on
ids, as encoders of TensorFlow Hub are. Reloading takes TensorFlow and `import tensorflow_text`, nothing of ours.
"""

import os
import tempfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from electra_cli.errors import UserError
from electra_cli.interop.graph_tokenization import GraphTokenizer
from electra_cli.interop.outputs import discriminator_logits, encoder_of, generator_logits, hidden_states, masked_lm_of
from electra_cli.interop.runs import Run, encode_texts

NUM_PREDICTIONS = 5
_TEXT = tf.TensorSpec([None], tf.string, "text")
_IDS = {
    name: tf.TensorSpec([None, None], tf.int32, name) for name in ("input_word_ids", "input_mask", "input_type_ids")
}
Outputs = dict[str, tf.Tensor]


class _TextModel(tf.Module):
    """Tokenizer, weights and functions of one SavedModel.

    The functions hold the Keras model by closure, so that its variables are saved and its layers are not: whoever
    reloads it knows no classes of ours.
    """

    def __init__(self, run: Run, roles: list[str], vocab_file: str):
        super().__init__()
        model, role = run.model, roles[0]
        self.tokenizer = GraphTokenizer(run.tokenizer, vocab_file, run.config.model.max_position_embeddings)
        variables = {variable.ref(): variable for each in roles for variable in encoder_of(model, each).variables}
        if "discriminator" in roles:
            heads = [*model.discriminator_projection.variables, *model.discriminator_head.variables]
            variables.update({variable.ref(): variable for variable in heads})
        if "generator" in roles:
            variables.update({variable.ref(): variable for variable in masked_lm_of(model).variables})
        self.model_variables = list(variables.values())

        @tf.function(input_signature=[_IDS])
        def encode(inputs):
            layers = hidden_states(model, role, inputs)
            return {
                "default": layers[-1][:, 0],
                "pooled_output": layers[-1][:, 0],
                "sequence_output": layers[-1],
                "encoder_outputs": layers,
            }

        self.__call__ = encode
        self.text_functions: dict[str, Callable[[tf.Tensor], Outputs]] = {"embeddings": self._embeddings(model, role)}
        if "discriminator" in roles:
            self.text_functions["replaced_tokens"] = self._replaced_tokens(model)
        if "generator" in roles:
            self.text_functions["fill_mask"] = self._fill_mask(model, run.tokenizer.vocabulary.mask_id)

    def _tokenized(self, text: tf.Tensor) -> tuple[Outputs, Outputs]:
        """Returns what networks take, and what every signature returns of it."""
        inputs = self.tokenizer(text)
        told = {name: inputs[name] for name in ("input_word_ids", "input_mask")}
        return inputs, {"tokens": self.tokenizer.tokens_of(inputs["input_word_ids"]), **told}

    def _embeddings(self, model, role):
        @tf.function(input_signature=[_TEXT])
        def embeddings(text):
            inputs, told = self._tokenized(text)
            layers = hidden_states(model, role, inputs)
            last, mask = layers[-1], tf.cast(inputs["input_mask"], tf.float32)[..., tf.newaxis]
            return {
                **told,
                "layers": tf.stack(layers, axis=1),
                "sequence_output": last,
                "first": last[:, 0],
                "mean": tf.reduce_sum(last * mask, axis=1) / tf.reduce_sum(mask, axis=1),
                "max": tf.reduce_max(tf.where(mask > 0, last, last.dtype.min), axis=1),
            }

        return embeddings

    def _replaced_tokens(self, model):
        @tf.function(input_signature=[_TEXT])
        def replaced_tokens(text):
            inputs, told = self._tokenized(text)
            logits = discriminator_logits(model, hidden_states(model, "discriminator", inputs)[-1])
            return {**told, "replaced_probability": tf.sigmoid(logits) * tf.cast(inputs["input_mask"], tf.float32)}

        return replaced_tokens

    def _fill_mask(self, model, mask_id):
        @tf.function(input_signature=[_TEXT])
        def fill_mask(text):
            inputs, told = self._tokenized(text)
            places = tf.ragged.boolean_mask(
                tf.broadcast_to(tf.range(tf.shape(inputs["input_mask"])[1]), tf.shape(inputs["input_mask"])),
                tf.equal(inputs["input_word_ids"], mask_id),
            ).to_tensor(-1)
            encoded = hidden_states(model, "generator", inputs)[-1]
            probabilities = tf.nn.softmax(generator_logits(model, encoded, tf.maximum(places, 0)))
            best, ids = tf.math.top_k(probabilities, NUM_PREDICTIONS)
            return {
                **told,
                "mask_positions": places,
                "filled_ids": ids,
                "filled_tokens": self.tokenizer.tokens_of(ids),
                "filled_probability": best,
            }

        return fill_mask


def write(run: Run, roles: list[str], directory: str) -> None:
    """Writes a SavedModel.

    Args:
      run: the run.
      roles: the networks that it gets, 'discriminator' and 'generator' or one of them.
      directory: an existing directory.
    """
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        vocab_file = os.path.join(temporary, "vocab.txt")
        with open(vocab_file, "wb") as stream:
            stream.write(run.tokenizer.vocabulary.to_bytes())
        module = _TextModel(run, roles, vocab_file)
        functions = module.text_functions
        default = functions.get("replaced_tokens") or functions["fill_mask"]
        tf.saved_model.save(module, directory, signatures={**functions, "serving_default": default})


def deviation(run: Run, roles: list[str], directory: str, texts: list[str]) -> float:
    """Loads a SavedModel and returns the largest difference of its figures from ours.

    Args:
      run: the run that was written there.
      roles: the networks that were.
      directory: where.
      texts: what to compare on; those of which the graph makes other tokens (`graph_tokenization`) are left out.

    Raises:
      UserError: it makes other tokens of half of the texts or more.
    """
    loaded = tf.saved_model.load(directory)
    max_length = run.config.model.max_position_embeddings
    theirs = padded_rows(loaded.signatures["embeddings"](text=tf.constant(texts)))
    ours = padded_rows(encode_texts(run.tokenizer, texts, max_length))
    equal = [text for text, first, second in zip(texts, theirs, ours, strict=True) if first == second]
    if 2 * len(equal) <= len(texts):
        raise UserError(f"the tokenizer in the graph makes other tokens of {len(texts) - len(equal)} of {len(texts)} "
                        f"sample texts: nothing was exported")  # fmt: skip
    texts = equal
    inputs = encode_texts(run.tokenizer, texts, max_length)
    found = loaded.signatures["embeddings"](text=tf.constant(texts))
    real: np.ndarray = inputs["input_mask"].astype(bool)
    states = hidden_states(run.model, roles[0], inputs)
    differences = [
        np.abs(found["layers"][:, index].numpy() - state.numpy())[real].max() for index, state in enumerate(states)
    ]
    if "discriminator" in roles:
        expected = tf.sigmoid(discriminator_logits(run.model, states[-1])).numpy()
        probabilities = loaded.signatures["replaced_tokens"](text=tf.constant(texts))["replaced_probability"].numpy()
        differences.append(np.abs(probabilities - expected)[real].max())
    if "generator" in roles:
        differences.append(_fill_mask_deviation(run, loaded, texts))
    return float(max(differences))


def _fill_mask_deviation(run: Run, loaded, texts: list[str]) -> float:
    masked = [f"{text[:60]} [MASK]" for text in texts]
    found = loaded.signatures["fill_mask"](text=tf.constant(masked))
    inputs = encode_texts(run.tokenizer, masked, run.config.model.max_position_embeddings)
    logits = generator_logits(run.model, hidden_states(run.model, "generator", inputs)[-1])
    probabilities = tf.nn.softmax(logits).numpy()
    largest = 0.0
    for row, positions in enumerate(found["mask_positions"].numpy()):
        for column, position in enumerate(positions):
            if position < 0:
                continue
            ours = probabilities[row, position][found["filled_ids"][row, column].numpy()]
            best = np.sort(probabilities[row, position])[::-1][:NUM_PREDICTIONS]
            theirs = found["filled_probability"][row, column].numpy()
            largest = max(largest, np.abs(theirs - ours).max(), np.abs(theirs - best).max())
    return largest


def padded_rows(inputs) -> list[list[int]]:
    """Returns the ids of each text without padding."""
    ids, mask = np.asarray(inputs["input_word_ids"]), np.asarray(inputs["input_mask"]).astype(bool)
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
