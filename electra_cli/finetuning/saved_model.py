"""A SavedModel that takes text and classifies it: tokenizer and model in one graph.

Its signature takes strings `text` [batch], of a task of pairs `second_text` [batch] too, and returns

- of a classification `label` string and `probability` float32 [batch], the most probable class and how probable it is,
  `labels` string and `probabilities` float32 [batch, classes];
- of a regression `number` float32 [batch];
- `tokens` string, `input_word_ids` and `input_mask` int32 [batch, length].

Reloading takes TensorFlow and `import tensorflow_text`, nothing of ours.
"""

import os
import tempfile

import numpy as np
import tensorflow as tf

from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Example
from electra_cli.finetuning.trained import FineTunedModel
from electra_cli.interop.graph_tokenization import GraphTokenizer
from electra_cli.interop.saved_model import padded_rows

SIGNATURE = "serving_default"


class _TextModel(tf.Module):
    """Tokenizer, weights and function of one SavedModel; the function holds the Keras model by closure."""

    def __init__(self, trained: FineTunedModel, vocab_file: str):
        super().__init__()
        self.tokenizer = GraphTokenizer(trained.tokenizer, vocab_file, trained.max_length)
        model, known = trained.model, trained.task.labels
        names = known.labels
        self.model_variables = model.variables
        specs = [tf.TensorSpec([None], tf.string, "text")]
        if trained.record.has_pairs:
            specs.append(tf.TensorSpec([None], tf.string, "second_text"))

        @tf.function(input_signature=specs)
        def predict(text, second_text=None):
            inputs = self.tokenizer.encode_pairs(text, second_text)
            outputs = {name: inputs[name] for name in ("input_word_ids", "input_mask")}
            outputs["tokens"] = self.tokenizer.tokens_of(inputs["input_word_ids"])
            logits = model(inputs, training=False)
            if not names:
                return {**outputs, "number": logits[:, 0] * known.deviation + known.mean}
            probabilities = tf.nn.softmax(logits)
            labels = tf.constant(names)
            return {
                **outputs,
                "label": tf.gather(labels, tf.argmax(logits, axis=-1)),
                "probability": tf.reduce_max(probabilities, axis=-1),
                "labels": tf.broadcast_to(labels, tf.shape(probabilities)),
                "probabilities": probabilities,
            }

        self.predict = predict


def write(trained: FineTunedModel, directory: str) -> None:
    """Writes the SavedModel of a classification or regression to an existing directory."""
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        vocab_file = os.path.join(temporary, "vocab.txt")
        with open(vocab_file, "wb") as stream:
            stream.write(trained.tokenizer.vocabulary.to_bytes())
        module = _TextModel(trained, vocab_file)
        tf.saved_model.save(module, directory, signatures={SIGNATURE: module.predict})


def deviation(trained: FineTunedModel, directory: str, examples: list[Example]) -> float:
    """Loads a SavedModel and returns the largest difference of its probabilities from ours.

    Numbers are compared in deviations of the training labels.

    Args:
      trained: the model that was written there.
      directory: where.
      examples: what to compare on; those of which the graph makes other tokens (`graph_tokenization`) are left out.

    Raises:
      UserError: it makes other tokens of half of the texts or more, or names other classes.
    """
    signature = tf.saved_model.load(directory).signatures[SIGNATURE]
    texts = {"text": [example.text for example in examples]}
    if trained.record.has_pairs:
        texts["second_text"] = [example.second_text or "" for example in examples]
    found = {
        name: value.numpy()
        for name, value in signature(**dict(zip(texts, map(tf.constant, texts.values()), strict=True))).items()
    }
    task = trained.task
    encoded = task.encode(examples, trained.tokenizer.build(), trained.tokenizer.vocabulary, trained.max_length)
    same = [first == second for first, second in zip(padded_rows(found), padded_rows(encoded.features), strict=True)]
    if 2 * sum(same) <= len(same):
        raise UserError(
            f"the tokenizer in the graph makes other tokens of {len(same) - sum(same)} of {len(same)} sample texts: "
            f"nothing was exported"
        )
    logits = trained.model(encoded.features, training=False)
    names = task.labels.labels
    ours = tf.nn.softmax(logits).numpy() if names else logits.numpy()[:, 0]
    theirs = found["probabilities"] if names else task.labels.scaled(found["number"])
    if names and any(row.tolist() != [name.encode() for name in names] for row in found["labels"]):
        raise UserError("the labels in the graph are others: nothing was exported")
    return float(np.abs(theirs - ours)[same].max())
