"""Checkpoints of tf-models-official: encoders and its `ElectraPretrainer`, read; encoders to fine-tune, written."""

import functools
import os

import numpy as np
import tensorflow as tf
import tf_keras
import yaml
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from electra_cli.data.tokenization import find_vocab_file
from electra_cli.errors import Option, UserError
from electra_cli.files import unescaped
from electra_cli.interop import external_files
from electra_cli.interop.delivery import write_texts
from electra_cli.interop.importing import ExternalModel
from electra_cli.interop.runs import LoadedRun, encode_texts, largest_difference
from electra_cli.modeling.layers import gelu
from electra_cli.modeling.tf_models import BertEncoder, BertEncoderConfig, EncoderConfig, build_encoder
from electra_cli.objectives.weights import Network, Weights
from electra_cli.workdir.checkpoint_files import latest_checkpoint
from electra_cli.workdir.checkpoint_matching import GRAPH_KEY, variable_keys, walk

# Weights of its BertEncoder and of its blocks, as paths of attributes, and our names.
_ENCODER = {
    "_embedding_layer/embeddings": "embeddings/word_embeddings",
    "_position_embedding_layer/embeddings": "embeddings/position_embeddings",
    "_type_embedding_layer/embeddings": "embeddings/token_type_embeddings",
    "_embedding_norm_layer/gamma": "embeddings/LayerNorm/gamma",
    "_embedding_norm_layer/beta": "embeddings/LayerNorm/beta",
    "_embedding_projection/kernel": "embeddings_project/kernel",
    "_embedding_projection/bias": "embeddings_project/bias",
}
_DENSE, _NORM = ("kernel", "bias"), ("gamma", "beta")
_BLOCK = {
    f"{theirs}/{kind}": f"{ours}/{kind}"
    for theirs, ours, kinds in (
        ("_attention_layer/_query_dense", "attention/self/query", _DENSE),
        ("_attention_layer/_key_dense", "attention/self/key", _DENSE),
        ("_attention_layer/_value_dense", "attention/self/value", _DENSE),
        ("_attention_layer/_output_dense", "attention/output/dense", _DENSE),
        ("_attention_layer_norm", "attention/output/LayerNorm", _NORM),
        ("_intermediate_dense", "intermediate/dense", _DENSE),
        ("_output_dense", "output/dense", _DENSE),
        ("_output_layer_norm", "output/LayerNorm", _NORM),
    )
    for kind in kinds
}
# Those of its ElectraPretrainer.
_HEADS = {
    "discriminator": {
        "discriminator_projection/kernel": "predictions/dense/kernel",
        "discriminator_projection/bias": "predictions/dense/bias",
        "discriminator_head/kernel": "predictions/dense_1/kernel",
        "discriminator_head/bias": "predictions/dense_1/bias",
    },
    "generator": {
        "masked_lm/dense/kernel": "predictions/dense/kernel",
        "masked_lm/dense/bias": "predictions/dense/bias",
        "masked_lm/layer_norm/gamma": "predictions/LayerNorm/gamma",
        "masked_lm/layer_norm/beta": "predictions/LayerNorm/beta",
        "masked_lm/output_bias/bias": "predictions/output_bias",
    },
}
CHECKPOINT_NAME, CONFIG_FILE = "encoder.ckpt", "encoder.yaml"


class _Objects:
    """The objects of a checkpoint that `tf.train.Checkpoint` wrote, by the names of attributes."""

    def __init__(self, file: str, path: str):
        self._reader = tf.train.load_checkpoint(file)
        self.read: set[int] = set()
        if not self._reader.has_tensor(GRAPH_KEY):
            raise UserError(
                f"{path} was not written by tf.train.Checkpoint; for a checkpoint of google-research/electra give "
                f"--format=google_tf1"
            )
        self._path = path
        with external_files.parsing(path):
            self._nodes = TrackableObjectGraph.FromString(self._reader.get_tensor(GRAPH_KEY)).nodes
        ids = {child.node_id for node in self._nodes for child in node.children}
        if not self._nodes or not ids <= set(range(len(self._nodes))):
            raise UserError(f"{path} cannot be read: its graph of objects is damaged; copy it again")

    def find(self, path: str, start: int = 0) -> int | None:
        """Returns the number of the object at a path of attributes; None: there is none."""
        while path:
            children = {child.local_name: child.node_id for child in self._nodes[start].children}
            part = path if path in children else path.split("/")[0]  # names of weights may have slashes themselves
            if part not in children:
                return None
            start, path = children[part], path[len(part) + 1 :]
        return start

    def value(self, path: str, start: int) -> np.ndarray | None:
        """Returns the variable at a path, float32; None: there is none."""
        node = self.find(path, start)
        if node is None or not variable_keys(self._nodes[node]):
            return None
        self.read.add(node)
        with external_files.parsing(f"{self._path}: {path}"):
            return np.asarray(self._reader.get_tensor(variable_keys(self._nodes[node])[0]), np.float32)

    def children(self, path: str, start: int) -> dict[str, int]:
        """Returns the objects below the one at a path by their names; none where there is none."""
        node = self.find(path, start)
        return {} if node is None else {child.local_name: child.node_id for child in self._nodes[node].children}

    def unread(self, start: int) -> list[str]:
        """Returns the paths of the variables below an object that were not read, but for optimizers."""

        def below(node: int, _: str) -> dict[str, int]:
            children = self._nodes[node].children
            return {each.local_name: each.node_id for each in children if "optimizer" not in each.local_name}

        return sorted(
            f"model/{path}"
            for node, path in walk(start, below, key=int)
            if variable_keys(self._nodes[node]) and node not in self.read
        )


def read(source: str) -> ExternalModel:
    """Reads a checkpoint of an encoder (`encoder=...`), or of an `ElectraPretrainer` (`model=...`), of its own trainer.

    Args:
      source: path of the checkpoint without the endings of its files, or a directory whose latest is taken; with its
        vocabulary, `vocab.txt`.

    Raises:
      UserError: there is none, it is damaged, or of something else.
    """
    is_directory = tf.io.gfile.isdir(source)
    path = latest_checkpoint(source) if is_directory else source.removesuffix(".index")
    if path is None:
        message = f"={source} has no file `checkpoint` that names one: give the path of a checkpoint"
        raise UserError(Option("--source"), message)
    external_files.check_checkpoint(path)
    with unescaped(path) as file:
        return _read_objects(_Objects(file, path), path)


def _read_objects(objects: _Objects, path: str) -> ExternalModel:
    root = objects.find("model")
    if root is not None and objects.find("discriminator_network", root) is not None:
        nodes = {role: objects.find(f"{role}_network", root) for role in ("discriminator", "generator")}
        read = {
            role: _read_network(objects, role, node, root, path) for role, node in nodes.items() if node is not None
        }
    else:
        root = objects.find("encoder")
        root = objects.find("model/encoder") if root is None else root
        if root is None:
            raise UserError(f"{path} holds neither `encoder` nor an ElectraPretrainer as `model`")
        read = {"discriminator": _read_network(objects, "discriminator", root, None, path)}
    return ExternalModel(
        source=path,
        discriminator=read["discriminator"],
        generator=read.get("generator"),
        vocab_file=find_vocab_file(os.path.dirname(path)),
        unexpected=objects.unread(root),
        notices=[
            "tf-models-official computes GELU in its tanh form, this program the exact one: outputs differ a little "
            "until training has gone on."
        ],
    )


def _read_network(objects: _Objects, role: str, node: int, root: int | None, path: str) -> Network:
    """Reads the encoder at a node; with `root`, the node of an ElectraPretrainer, its head as well."""
    weights: Weights = {}

    def take(names: dict[str, str], start: int, prefix: str = "") -> None:
        for theirs, ours in names.items():
            value = objects.value(theirs, start)
            if value is not None:
                weights[prefix + ours] = value

    take(_ENCODER, node)
    for name in _DENSE:
        objects.value(f"_pooler_layer/{name}", node)  # ELECTRA has none
    for index, block in objects.children("_transformer_layers", node).items():
        take(_BLOCK, block, f"encoder/layer_{index}/")
    query = "encoder/layer_0/attention/self/query/kernel"
    if query not in weights:
        raise UserError(f"{path}: the {role} is no BertEncoder of tf-models-official (no {query})")
    for name, value in weights.items():
        by_heads = "/attention/self/" in name or name.endswith("/attention/output/dense/kernel")
        if (by_heads and value.ndim != (3 if name.endswith("/kernel") else 2)) or 0 in value.shape:
            raise UserError(
                f"{path}: the {role}'s weight {name} has shape {list(value.shape)}, not that of a BertEncoder"
            )
    heads = weights[query].shape[1]
    weights = {name: _merge_heads(name, value) for name, value in weights.items()}
    if root is not None:
        take(_HEADS[role], root)
    network = Network(role, weights, heads)
    try:
        unknown = network.drop_unknown()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    assert not unknown, unknown
    return network


def _merge_heads(name: str, value: np.ndarray) -> np.ndarray:
    if "/attention/self/" in name:
        return value.reshape([*value.shape[:-2], -1])
    if name.endswith("/attention/output/dense/kernel"):
        return value.reshape([-1, value.shape[-1]])
    return value


def write(run: LoadedRun, role: str, directory: str) -> None:
    """Writes an encoder that the tasks of `official.nlp` take as `init_checkpoint`, and its config as `encoder.yaml`.

    ELECTRA has no pooler; the encoder's, which `sentence_prediction` puts its classifier on, is newly initialized: a
    truncated normal from a fixed seed.
    """
    network, model = run.network(role), run.config.model
    config = BertEncoderConfig(
        **network.sizes.electra_sizes(),
        dropout_rate=model.hidden_dropout,
        attention_dropout_rate=model.attention_dropout,
        initializer_range=model.initializer_range,
    )
    encoder = build_encoder(EncoderConfig(type="bert", bert=config))
    _assign(encoder, network, model.initializer_range)
    tf.train.Checkpoint(encoder=encoder).write(os.path.join(directory, CHECKPOINT_NAME))
    written = {name: value for name, value in config.as_dict().items() if value is not None}
    contents = {
        CONFIG_FILE: yaml.safe_dump({"task": {"model": {"encoder": {"type": "bert", "bert": written}}}}),
        "checkpoint": f'model_checkpoint_path: "{CHECKPOINT_NAME}"\n',
    }
    write_texts(directory, contents)
    run.tokenizer.save(directory)


def _assign(encoder: tf_keras.layers.Layer, network: Network, initializer_range: float) -> None:
    """Puts the weights of a network without its head into a `BertEncoder` of its sizes, and a new pooler."""
    for theirs, ours in _ENCODER.items():
        if ours in network.weights:
            layer, _, attribute = theirs.partition("/")
            layer = getattr(encoder, layer)
            variable = layer.trainable_weights[0] if attribute == "embeddings" else getattr(layer, attribute)
            variable.assign(network.weights[ours].reshape(variable.shape))
    for index, block in enumerate(encoder.transformer_layers):
        for theirs, ours in _BLOCK.items():
            variable = functools.reduce(getattr, theirs.split("/"), block)
            variable.assign(network.weights[f"encoder/layer_{index}/{ours}"].reshape(variable.shape))
    kernel = encoder.pooler_layer.kernel
    kernel.assign(tf_keras.initializers.TruncatedNormal(stddev=initializer_range, seed=0)(kernel.shape))


def compare(run: LoadedRun, role: str, directory: str, texts: list[str], *, exact: bool = True) -> float:
    """Loads what `write` wrote and returns the largest difference of its layers' outputs from ours.

    `exact`: with the exact GELU, otherwise with its tanh form, as `official.nlp` computes it.
    """
    sizes = run.network(role).sizes
    encoder = BertEncoder(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        num_layers=sizes.num_layers,
        num_attention_heads=sizes.num_attention_heads,
        max_sequence_length=sizes.max_position_embeddings,
        type_vocab_size=sizes.type_vocab_size,
        inner_dim=sizes.intermediate_size,
        inner_activation=gelu if exact else lambda x: tf.nn.gelu(x, approximate=True),
        embedding_width=sizes.embedding_size,
        dict_outputs=True,
    )
    checkpoint = tf.train.Checkpoint(encoder=encoder)
    with unescaped(os.path.join(directory, CHECKPOINT_NAME)) as file:
        checkpoint.read(file).expect_partial().assert_existing_objects_matched()
    inputs = encode_texts(run.tokenizer, texts, min(128, sizes.max_position_embeddings))
    pairs = zip(encoder(inputs)["encoder_outputs"], run.hidden_states(role, inputs), strict=True)
    return largest_difference(pairs, inputs["input_mask"].astype(bool))
