"""Checkpoints of tf-models-official: encoders and its `ElectraPretrainer`, read; encoders to fine-tune, written."""

import collections
import os
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
import yaml
from official.nlp.configs.encoders import BertEncoderConfig, EncoderConfig, build_encoder
from official.nlp.modeling import networks
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from electra_cli.data.tokenization import find_vocab_file
from electra_cli.errors import Option, UserError
from electra_cli.interop.foreign import Foreign, drop_unknown
from electra_cli.interop.outputs import hidden_states
from electra_cli.interop.runs import Run, encode_texts
from electra_cli.modeling.layers import gelu
from electra_cli.objectives.weights import Network, Weights
from electra_cli.workdir.checkpoint_files import find_damage
from electra_cli.workdir.checkpoint_matching import GRAPH_KEY

# Attributes of its BertEncoder and of its blocks, and our names.
_ENCODER = {
    "_embedding_layer/embeddings": "embeddings/word_embeddings",
    "_position_embedding_layer/embeddings": "embeddings/position_embeddings",
    "_type_embedding_layer/embeddings": "embeddings/token_type_embeddings",
    "_embedding_norm_layer/gamma": "embeddings/LayerNorm/gamma",
    "_embedding_norm_layer/beta": "embeddings/LayerNorm/beta",
    "_embedding_projection/kernel": "embeddings_project/kernel",
    "_embedding_projection/bias": "embeddings_project/bias",
}
_BLOCK = {
    "_attention_layer/_query_dense": "attention/self/query",
    "_attention_layer/_key_dense": "attention/self/key",
    "_attention_layer/_value_dense": "attention/self/value",
    "_attention_layer/_output_dense": "attention/output/dense",
    "_intermediate_dense": "intermediate/dense",
    "_output_dense": "output/dense",
}
_BLOCK_NORMS = {"_attention_layer_norm": "attention/output/LayerNorm", "_output_layer_norm": "output/LayerNorm"}
# Attributes of its ElectraPretrainer, and our names.
_HEADS = {
    "discriminator": {"discriminator_projection": "predictions/dense", "discriminator_head": "predictions/dense_1"},
    "generator": {"masked_lm/dense": "predictions/dense", "masked_lm/layer_norm": "predictions/LayerNorm"},
}
_OUTPUT_BIAS = "masked_lm/output_bias/bias"
CHECKPOINT_NAME, CONFIG_FILE = "encoder.ckpt", "encoder.yaml"
_POOLER_SEED = 0


class _Objects:
    """The objects of a checkpoint that `tf.train.Checkpoint` wrote, found by the names of attributes."""

    def __init__(self, path: str):
        self._reader = tf.train.load_checkpoint(path)
        if not self._reader.has_tensor(GRAPH_KEY):
            raise UserError(
                f"{path} was not written by tf.train.Checkpoint; for a checkpoint of google-research/electra give "
                f"--format=google_tf1"
            )
        self._nodes = TrackableObjectGraph.FromString(self._reader.get_tensor(GRAPH_KEY)).nodes
        self.read: set[int] = set()

    def find(self, path: str, start: int = 0) -> int | None:
        """Returns the number of the object at a path of attributes; None when there is none."""
        while path:
            children = {child.local_name: child.node_id for child in self._nodes[start].children}
            # Names of weights may have slashes themselves.
            part = path if path in children else path.split("/")[0]
            if part not in children:
                return None
            start, path = children[part], path[len(part) + 1 :]
        return start

    def value(self, path: str, start: int) -> np.ndarray | None:
        """Returns the variable at a path, float32; None when there is none."""
        node = self.find(path, start)
        keys = [] if node is None else _keys(self._nodes[node])
        if node is None or not keys:
            return None
        self.read.add(node)
        return np.asarray(self._reader.get_tensor(keys[0]), np.float32)

    def unread(self, start: int, name: str) -> list[str]:
        """Returns the paths of the variables below an object that were not read."""
        found = []
        queue, seen = collections.deque([(start, name)]), {start}
        while queue:
            node, path = queue.popleft()
            if _keys(self._nodes[node]) and node not in self.read:
                found.append(path)
            for child in self._nodes[node].children:
                if child.node_id not in seen and "optimizer" not in child.local_name:
                    seen.add(child.node_id)
                    queue.append((child.node_id, f"{path}/{child.local_name}"))
        return sorted(found)


def _keys(node: Any) -> list[str]:
    return [attribute.checkpoint_key for attribute in node.attributes if attribute.name == "VARIABLE_VALUE"]


def read(source: str) -> Foreign:
    """Reads a checkpoint of an encoder (`encoder=...`), or of an `ElectraPretrainer` (`model=...`), of its own trainer.

    Args:
      source: path of the checkpoint without the endings of its files, or a directory whose latest is taken. A
        `vocab.txt` beside it is its vocabulary.

    Raises:
      UserError: there is none, it is damaged, or of something else.
    """
    path = source.removesuffix(".index")
    if tf.io.gfile.isdir(source):
        latest = tf.train.latest_checkpoint(source)
        if latest is None:
            raise UserError(
                Option("--source"),
                f"={source} has no file `checkpoint` that names one: give the path of a checkpoint",
            )
        path = latest
    damage = find_damage(path)
    if damage is not None:
        raise UserError(f"{path} is no checkpoint that can be read: {damage}")
    objects = _Objects(path)
    networks_found: dict[str, Network] = {}
    root = objects.find("model")
    if root is not None and objects.find("discriminator_network", root) is not None:
        for role in ("discriminator", "generator"):
            node = objects.find(f"{role}_network", root)
            if node is not None:
                networks_found[role] = _read_network(objects, role, node, root, path)
    else:
        node = objects.find("encoder")
        node = objects.find("model/encoder") if node is None else node
        if node is None:
            raise UserError(f"{path} holds neither `encoder` nor an ElectraPretrainer as `model`")
        root = node
        networks_found["discriminator"] = _read_network(objects, "discriminator", node, None, path)
    return Foreign(
        source=path,
        discriminator=networks_found["discriminator"],
        generator=networks_found.get("generator"),
        vocab_file=find_vocab_file(os.path.dirname(path)),
        unexpected=objects.unread(root, "model"),
        notices=["tf-models-official computes GELU in its tanh form, this program the exact one: outputs differ a "
                 "little until training has gone on."],
    )  # fmt: skip


def _read_network(objects: _Objects, role: str, node: int, root: int | None, path: str) -> Network:
    weights: Weights = {}

    def take(theirs: str, ours: str, start: int) -> None:
        value = objects.value(theirs, start)
        if value is not None:
            weights[ours] = value

    for theirs, ours in _ENCODER.items():
        take(theirs, ours, node)
    for name in ("kernel", "bias"):
        objects.value(f"_pooler_layer/{name}", node)  # ELECTRA has none
    index, heads = 0, 1
    while (block := objects.find(f"_transformer_layers/{index}", node)) is not None:
        for theirs, ours in _BLOCK.items():
            for kind in ("kernel", "bias"):
                take(f"{theirs}/{kind}", f"encoder/layer_{index}/{ours}/{kind}", block)
        for theirs, ours in _BLOCK_NORMS.items():
            for kind in ("gamma", "beta"):
                take(f"{theirs}/{kind}", f"encoder/layer_{index}/{ours}/{kind}", block)
        index += 1
    query = "encoder/layer_0/attention/self/query/kernel"
    if query not in weights:
        raise UserError(f"{path}: the {role} is no BertEncoder of tf-models-official (no {query})")
    heads = weights[query].shape[1]
    for name, value in weights.items():
        weights[name] = _merge_heads(name, value)
    for theirs, ours in _HEADS[role].items() if root is not None else ():
        kinds = ("gamma", "beta") if ours.endswith("LayerNorm") else ("kernel", "bias")
        for kind in kinds:
            take(f"{theirs}/{kind}", f"{ours}/{kind}", root or 0)
    if root is not None and role == "generator":
        take(_OUTPUT_BIAS, "predictions/output_bias", root)
    network = Network(role, weights, heads)
    try:
        unknown = drop_unknown(network)
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


def write(run: Run, role: str, directory: str) -> None:
    """Writes an encoder that the tasks of `official.nlp` take as `init_checkpoint`, and its config as `encoder.yaml`.

    ELECTRA has no pooler; that of the encoder, which `sentence_prediction` puts its classifier on, is new: a truncated
    normal from a fixed seed.

    Args:
      run: the run.
      role: 'discriminator' or 'generator'.
      directory: an empty directory.
    """
    network = run.network(role)
    encoder_config = _encoder_config(run, network)
    encoder = build_encoder(encoder_config)
    assign(encoder, network, run.config.model.initializer_range)
    tf.train.Checkpoint(encoder=encoder).write(os.path.join(directory, CHECKPOINT_NAME))
    contents = {
        CONFIG_FILE: yaml.safe_dump({"task": {"model": {"encoder": _without_unset(encoder_config)}}}).encode(),
        "checkpoint": f'model_checkpoint_path: "{CHECKPOINT_NAME}"\n'.encode(),
    }
    for name, content in contents.items():
        with open(os.path.join(directory, name), "wb") as stream:
            stream.write(content)
    run.tokenizer.save(directory)


def _encoder_config(run: Run, network: Network) -> EncoderConfig:
    sizes, model = network.sizes, run.config.model
    return EncoderConfig(
        type="bert",
        bert=BertEncoderConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            num_layers=sizes.num_layers,
            num_attention_heads=sizes.num_attention_heads,
            intermediate_size=sizes.intermediate_size,
            dropout_rate=model.hidden_dropout,
            attention_dropout_rate=model.attention_dropout,
            max_position_embeddings=sizes.max_position_embeddings,
            type_vocab_size=sizes.type_vocab_size,
            initializer_range=model.initializer_range,
            embedding_size=sizes.embedding_size,
        ),
    )


def _without_unset(config: EncoderConfig) -> dict[str, Any]:
    bert = {name: value for name, value in config.bert.as_dict().items() if value is not None}
    return {"type": "bert", "bert": bert}


def assign(encoder: tf_keras.layers.Layer, network: Network, initializer_range: float = 0.02) -> None:
    """Puts the weights of a network into a `BertEncoder` of its sizes, and a new pooler.

    Args:
      encoder: the encoder, built.
      network: the network; its head is left out.
      initializer_range: standard deviation of the pooler's kernel.
    """

    def layer_of(path: str, start: Any) -> Any:
        for part in path.split("/"):
            start = getattr(start, part)
        return start

    def put(variable: tf.Variable, name: str) -> None:
        variable.assign(network.weights[name].reshape(variable.shape))

    for theirs, ours in _ENCODER.items():
        if ours in network.weights:
            layer, _, attribute = theirs.partition("/")
            layer = getattr(encoder, layer)
            put(layer.trainable_weights[0] if attribute == "embeddings" else getattr(layer, attribute), ours)
    for index, block in enumerate(encoder.transformer_layers):
        for names, kinds in ((_BLOCK, ("kernel", "bias")), (_BLOCK_NORMS, ("gamma", "beta"))):
            for theirs, ours in names.items():
                for kind in kinds:
                    put(layer_of(f"{theirs}/{kind}", block), f"encoder/layer_{index}/{ours}/{kind}")
    kernel = encoder.pooler_layer.kernel
    kernel.assign(tf_keras.initializers.TruncatedNormal(stddev=initializer_range, seed=_POOLER_SEED)(kernel.shape))


def deviation(run: Run, role: str, directory: str, texts: list[str], *, exact: bool = True) -> float:
    """Loads what `write` wrote and returns the largest difference of its layers' outputs from ours.

    Args:
      run: the run that was written there.
      role: 'discriminator' or 'generator'.
      directory: where.
      texts: what to compare on.
      exact: whether the loaded encoder computes the exact GELU, or its tanh form as `official.nlp` does.
    """
    sizes = run.network(role).sizes
    encoder = networks.BertEncoder(
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
    checkpoint.read(os.path.join(directory, CHECKPOINT_NAME)).expect_partial().assert_existing_objects_matched()
    inputs = encode_texts(run.tokenizer, texts, min(128, sizes.max_position_embeddings))
    found = encoder(inputs)["encoder_outputs"]
    ours = hidden_states(run.model, role, inputs)
    real: np.ndarray = inputs["input_mask"].astype(bool)
    return max(
        float(np.abs(first.numpy() - second.numpy())[real].max()) for first, second in zip(found, ours, strict=True)
    )
