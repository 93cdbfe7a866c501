"""Matches the variables of a checkpoint with those of a program, reports what does not fit, and restores them."""

import collections
import dataclasses
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from electra_cli.errors import UserError
from electra_cli.files import unescaped

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"


@dataclasses.dataclass(frozen=True)
class Match:
    """How a checkpoint fits the objects of a program.

    Attributes:
      variables: by the checkpoint's keys.
      misfits: phrases that begin with the path of an object.
      graph: the checkpoint's own description of its objects, a serialized `TrackableObjectGraph`.
    """

    variables: dict[str, tf.Variable]
    misfits: list[str]
    graph: bytes


def match(
    root: tf.train.Checkpoint,
    path: str,
    sections: tuple[str, ...],
    may_differ_in_rows: Collection[Any] = (),
) -> Match:
    """Compares a complete checkpoint with objects, as `tf.train.Checkpoint` would match them: by names of attributes.

    Args:
      sections: attributes of `root` that must fit: each variable in both, of the same shape and type.
      may_differ_in_rows: references (`ref()`) to variables whose first dimension may differ.
    """
    with unescaped(path) as file:
        reader = tf.train.load_checkpoint(file)
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        if GRAPH_KEY not in shapes:
            return Match({}, ["it was not written by tf.train.Checkpoint"], b"")
        serialized = reader.get_tensor(GRAPH_KEY)
    nodes = TrackableObjectGraph.FromString(serialized).nodes
    variables: dict[str, tf.Variable] = {}
    misfits: list[str] = []
    matched_nodes, matched_variables = set(), set()

    def pairs(pair: tuple[Any, int], name: str) -> dict[str, tuple[Any, int]]:
        item, node_id = pair
        ids = _node_children(nodes[node_id], name, sections)
        return {key: (child, ids[key]) for key, child in _children(item, name, sections).items() if key in ids}

    for (item, node_id), name in walk((root, 0), pairs, key=lambda pair: (id(pair[0]), pair[1])):
        keys = variable_keys(nodes[node_id])
        if not (isinstance(item, tf.Variable) and keys):
            continue
        (key,) = keys
        matched_nodes.add(node_id)
        matched_variables.add(id(item))
        variables[key] = item
        here, there = (item.dtype, list(item.shape)), (types[key], list(shapes[key]))
        is_resizable = item.ref() in may_differ_in_rows and (here[0], here[1][1:]) == (there[0], there[1][1:])
        if here != there and not is_resizable:
            misfits.append(
                f"{name} is {here[0].name} {here[1]} by the config, {there[0].name} {there[1]} in the checkpoint"
            )
    for item, name in walk(root, lambda item, name: _children(item, name, sections), key=id):
        if isinstance(item, tf.Variable) and id(item) not in matched_variables:
            misfits.append(f"{name} is not in the checkpoint")
    for node_id, name in walk(0, lambda node_id, name: _node_children(nodes[node_id], name, sections), key=int):
        if variable_keys(nodes[node_id]) and node_id not in matched_nodes:
            misfits.append(f"{name} is only in the checkpoint")
    # The model first: it says more than the moments of the optimizer, which differ with it.
    return Match(variables, sorted(misfits, key=lambda misfit: misfit.startswith("optimizer")), serialized)


def restore(root: tf.train.Checkpoint, path: str, sections: tuple[str, ...]) -> None:
    """Restores attributes of `root` from a complete checkpoint; a `UserError`, before anything, if it does not fit."""
    require_no_misfits(path, match(root, path, sections).misfits)
    items = {name: getattr(root, name) for name in sections}
    with unescaped(path) as file:
        tf.train.Checkpoint(**items).read(file).assert_existing_objects_matched().expect_partial()


def require_no_misfits(
    path: str, misfits: list[str], remedy: str = "give the config that it was trained with, or another checkpoint"
) -> None:
    """Raises a `UserError` that names the first of what does not fit."""
    if misfits:
        more = len(misfits) - 1
        raise UserError(
            f"checkpoint {path} and the config are of different models: {misfits[0]}"
            f"{f' (and {more} more differences)' if more else ''}; {remedy}"
        )


def walk(
    root: Any, children: Callable[[Any, str], Mapping[str, Any]], key: Callable[[Any], Hashable]
) -> list[tuple[Any, str]]:
    """Returns each node of a graph once, with its shortest path; `children` takes both, and `key` identifies a node."""
    nodes, queue, seen = [], collections.deque([(root, "")]), {key(root)}
    while queue:
        node, path = queue.popleft()
        nodes.append((node, path))  # held, since the id of an object is its own only while it lives
        for name, child in children(node, path).items():
            if key(child) not in seen:
                seen.add(key(child))
                queue.append((child, f"{path}/{name}".lstrip("/")))
    return nodes


def _children(item: Any, path: str, sections: tuple[str, ...]) -> dict[str, Any]:
    children = tf.train.TrackableView.children(item)
    return {name: child for name, child in children.items() if path or name in sections}


def _node_children(node: Any, path: str, sections: tuple[str, ...]) -> dict[str, int]:
    return {child.local_name: child.node_id for child in node.children if path or child.local_name in sections}


def variable_keys(node: Any) -> list[str]:
    """Returns the checkpoint's key of a node's value, if the node is a variable."""
    return [attribute.checkpoint_key for attribute in node.attributes if attribute.name == "VARIABLE_VALUE"]
