"""An encoder with a head for a task: built to be fine-tuned, or read from the workdir of a fine-tuning."""

import dataclasses
import functools
from collections.abc import Callable

import ml_collections
import tensorflow as tf
import tf_keras

from electra_cli.config.finetuning import FINETUNING
from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.finetuning import workdir as workdirs
from electra_cli.finetuning.base import Task
from electra_cli.finetuning.examples import LABELS_FILE, LabelMap
from electra_cli.finetuning.tasks import build_task
from electra_cli.loggers.logger import Logger
from electra_cli.modeling.encoders import build_embeddings, build_encoder, encode
from electra_cli.modeling.fused import dropout
from electra_cli.modeling.layers import Dense, Encoder, dropout_keys, gelu, sub_seed, truncated_normal
from electra_cli.objectives.costs import EncoderSizes
from electra_cli.objectives.sizes import check_network
from electra_cli.objectives.weights import Network
from electra_cli.workdir.checkpoint_files import find_checkpoint, use_checkpoint
from electra_cli.workdir.checkpoint_matching import restore

TARGETS = "targets"


@dataclasses.dataclass(frozen=True)
class StartingPoint:
    """The encoder that a fine-tuning starts from, with its tokenizer.

    Attributes:
      source: a description, for messages and records.
      network: sizes and weights; only the sizes are used where `is_random`: weights are then drawn for each seed.
      initializer_range: standard deviation of weights that are drawn.
    """

    source: str
    network: Network
    is_random: bool
    initializer_range: float
    tokenizer: TokenizerSettings


# Opens the network of a role, 'discriminator' or 'generator'. The devices are picked before it is called.
OpenEncoder = Callable[[str, Logger], StartingPoint]


def loss_weight(kind: str, targets: tf.Tensor) -> tf.Tensor:
    """Returns what the loss is divided by, a float32 scalar: rows, or of tagging words."""
    if kind == "tagging":
        return tf.reduce_sum(tf.cast(targets >= 0, tf.float32))
    return tf.cast(tf.shape(targets)[0], tf.float32)


def loss_sum(kind: str, logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Returns the sum of the losses of all rows (tagging: of all words), a float32 scalar.

    Classification and tagging: cross-entropy, in nats. Regression: the squared difference, in deviations of the
    training labels, so that 1 is guessing their mean. Question answering: the mean of the cross-entropies of the first
    and the last position. `logits` and `targets` as of `Task.predict` and `Encoded`.
    """
    if kind == "regression":
        return tf.reduce_sum(tf.square(logits[:, 0] - targets))
    if kind == "question_answering":
        by_end = tf.transpose(logits, [0, 2, 1])  # [rows, 2, length]
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, by_end)) / 2.0
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets, 0), logits)
    return tf.reduce_sum(tf.where(targets >= 0, losses, 0.0))


# Kinds whose head sees the whole text, at [CLS]; the others' sees each token.
SENTENCE_KINDS = ("classification", "regression")
# Sub-seed of the dropout of the head; the encoder draws from the seed itself.
_HEAD_SEED = 1 << 16


class TaskModel(tf_keras.Model):
    """An encoder with a head.

    Of a sentence or pair the head is dropout, a layer of the encoder's width with GELU, dropout and a linear layer on
    the output at [CLS], as `ElectraForSequenceClassification` of transformers has it, so that it can be exported; of
    tokens and answers dropout and a linear layer on each. (The original has the linear layer alone for both.) With an
    encoder that makes a head of its own (`new_prediction_head`), that is the layer with GELU, of all kinds.

    `dropout_rate` (fraction) and `initializer_range` (standard deviation) are the head's.
    """

    def __init__(self, encoder: Encoder, kind: str, num_outputs: int, dropout_rate: float, initializer_range: float):
        super().__init__(name="fine_tuned")
        self.encoder = encoder
        self.kind = kind
        self.num_outputs = num_outputs
        self.dropout_rate = dropout_rate
        self.head_dense = None
        if hasattr(encoder, "new_prediction_head"):
            self.head_dense = encoder.new_prediction_head()
        elif kind in SENTENCE_KINDS:
            self.head_dense = Dense(
                encoder.get_config()["hidden_size"],
                kernel_initializer=truncated_normal(initializer_range),
                name="head_dense",
            )
        # Always float32, as the losses are.
        self.head_output = tf_keras.layers.Dense(
            num_outputs, kernel_initializer=truncated_normal(initializer_range), dtype="float32", name="head_output"
        )

    def call(self, inputs, training=None, seed=None):
        """Returns logits, float32 [batch, num_outputs], or of each token [batch, seq_length, num_outputs].

        `inputs`: int32 [batch, seq_length] of `features.UNMASKED`. Dropout in training follows from `seed`, int32 [2].
        """
        seed = seed if training else None
        x = encode(self.encoder, inputs, training, seed)
        first_key, last_key = dropout_keys(sub_seed(seed, _HEAD_SEED), 2)
        if self.kind in SENTENCE_KINDS:
            x = x[:, 0]
        if self.head_dense is not None:
            x = self.head_dense(dropout(x, self.dropout_rate, first_key))
            x = gelu(x) if isinstance(self.head_dense, Dense) else x
        return self.head_output(dropout(x, self.dropout_rate, last_key))

    def depths(self) -> list[int]:
        """Returns the depth of each of `trainable_variables`: embeddings 0, layer i i + 1, the head layers + 2.

        A final norm has that of the last layer.

        As google-research/electra counts (`model/optimization.py`, `_get_layer_lrs`): none is one above the last layer.
        """
        layers = self.encoder.transformer_layers
        depth_of = {id(variable): 0 for variable in self.encoder.trainable_variables}
        for index, layer in enumerate(layers):
            depth_of |= {id(variable): index + 1 for variable in layer.trainable_variables}
        if self.encoder.final_norm is not None:
            depth_of |= {id(variable): len(layers) for variable in self.encoder.final_norm.trainable_variables}
        return [depth_of.get(id(variable), len(layers) + 2) for variable in self.trainable_variables]


def build_model(
    sizes: EncoderSizes,
    kind: str,
    num_outputs: int,
    dropout_rates: ml_collections.ConfigDict,
    initializer_range: float,
    length: int,
) -> TaskModel:
    """Builds a model, whose encoder has embeddings of its own, with all weights created for batches of `length` tokens.

    `dropout_rates` is the section `model` of a config; `initializer_range` a standard deviation. Raises a `UserError`
    where memory cannot hold the encoder.
    """
    check_network(sizes)
    settings = {"initializer_range": initializer_range, "remat": False, "attention": "auto"}
    settings |= {name: dropout_rates[name] for name in ("hidden_dropout", "attention_dropout")}
    settings |= dataclasses.asdict(sizes)
    encoder = build_encoder(settings, "encoder", build_embeddings(settings, "embeddings"))
    model = TaskModel(encoder, kind, num_outputs, dropout_rates.head_dropout, initializer_range)
    tokens = tf.zeros([1, length], tf.int32)
    model({"input_word_ids": tokens, "input_mask": tokens + 1, "input_type_ids": tokens}, training=False)
    return model


@dataclasses.dataclass(frozen=True)
class FineTunedModel:
    """The fine-tuned model of one seed, in the precision of the current policy."""

    workdir: str
    seed: int
    record: workdirs.FineTuningRecord
    config: ml_collections.ConfigDict
    task: Task
    tokenizer: TokenizerSettings
    model: TaskModel
    scores: workdirs.SeedScores

    @property
    def max_length(self) -> int:
        """Tokens that text is cut to."""
        return min(self.config.data.max_seq_length, self.record.sizes.max_position_embeddings)


def load_fine_tuned(workdir: str, seed: int | None = None, notice: Callable[[str], None] = print) -> FineTunedModel:
    """Reads the model of a seed; None: of the one that `workdir.choose_seed` takes. `notice` prints a line.

    Raises a `UserError` where there is none, or it is damaged.
    """
    record = workdirs.read_record(workdir)
    config = FINETUNING.restore(record.config, workdir)
    task = build_task(config)
    task.labels = LabelMap.load(tf.io.gfile.join(workdir, LABELS_FILE))
    tokenizer = workdirs.read_tokenizer(workdir, record)
    seed = workdirs.choose_seed(workdir, notice) if seed is None else seed
    scores = workdirs.require_seed(workdir, seed)
    model = build_model(
        record.sizes, record.kind, task.num_outputs, config.model, record.initializer_range, length=record.length
    )
    find = functools.partial(find_checkpoint, workdirs.seed_directory(workdir, seed), notice)
    use_checkpoint(find, lambda path: restore(tf.train.Checkpoint(model=model), path, ("model",)))
    return FineTunedModel(workdir, seed, record, config, task, tokenizer, model, scores)
