"""Whether a checkpoint is of a model: which variable of the one is which of the other, what does not fit; restored."""

import collections
import dataclasses
from collections.abc import Collection
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from electra_cli.errors import UserError

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"


@dataclasses.dataclass(frozen=True)
class Match:
    """How a checkpoint and the objects of a program fit.

    Attributes:
      variables: the variable that each of the checkpoint's keys is for.
      misfits: what does not fit, a phrase each, by the path of the object.
      graph: the checkpoint's own description of its objects, serialized.
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
      root: holds the objects.
      path: of the checkpoint, which `checkpoint_files.find_damage` found complete.
      sections: attributes of `root` that must fit: each variable in both, of the same shape and type.
      may_differ_in_rows: references (`ref()`) to variables whose first dimension may be another.
    """
    reader = tf.train.load_checkpoint(path)
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    if GRAPH_KEY not in shapes:
        return Match({}, ["it was not written by tf.train.Checkpoint"], b"")
    serialized = reader.get_tensor(GRAPH_KEY)
    nodes = TrackableObjectGraph.FromString(serialized).nodes
    variables: dict[str, tf.Variable] = {}
    misfits: list[str] = []
    matched_nodes, matched_variables = set(), set()

    queue = collections.deque([(root, 0, "")])
    seen = {(id(root), 0): root}  # holds what it saw: an id is of one object only while that lives
    while queue:
        item, node_id, name = queue.popleft()
        keys = _variable_keys(nodes[node_id])
        if isinstance(item, tf.Variable) and keys:
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
        children = {child.local_name: child.node_id for child in nodes[node_id].children}
        for child_name, child in _children(item, name, sections).items():
            child_id = children.get(child_name)
            if child_id is not None and (id(child), child_id) not in seen:
                seen[id(child), child_id] = child
                queue.append((child, child_id, f"{name}/{child_name}".lstrip("/")))

    missing = _our_variables(root, sections)
    extra = _their_variables(nodes, sections)
    misfits += [f"{name} is not in the checkpoint" for key, name in missing.items() if key not in matched_variables]
    misfits += [f"{name} is only in the checkpoint" for key, name in extra.items() if key not in matched_nodes]
    # The model first: it says more than the moments of the optimizer, which differ with it.
    return Match(variables, sorted(misfits, key=lambda misfit: misfit.startswith("optimizer")), serialized)


def restore(root: tf.train.Checkpoint, path: str, sections: tuple[str, ...]) -> None:
    """Restores objects from a complete checkpoint that fits them.

    Args:
      root: holds the objects.
      path: of the checkpoint, which `checkpoint_files.find_damage` found complete.
      sections: attributes of `root` that are restored.

    Raises:
      UserError: it is of other objects; nothing is restored.
    """
    require_no_misfits(path, match(root, path, sections).misfits)
    items = {name: getattr(root, name) for name in sections}
    tf.train.Checkpoint(**items).read(path).assert_existing_objects_matched().expect_partial()


def require_no_misfits(path: str, misfits: list[str]) -> None:
    """Raises a `UserError` that names the first of what does not fit."""
    if misfits:
        more = len(misfits) - 1
        raise UserError(
            f"checkpoint {path} and the config are of different models: {misfits[0]}"
            f"{f' (and {more} more differences)' if more else ''}; give the config that it was trained with, or "
            f"another checkpoint"
        )


def _children(item: Any, name: str, sections: tuple[str, ...]) -> dict[str, Any]:
    children = tf.train.TrackableView.children(item)
    return {key: child for key, child in children.items() if name or key in sections}


def _variable_keys(node: Any) -> list[str]:
    return [attribute.checkpoint_key for attribute in node.attributes if attribute.name == "VARIABLE_VALUE"]


def _our_variables(root: Any, sections: tuple[str, ...]) -> dict[int, str]:
    """Returns the shortest path of every variable, by the variable's id."""
    found: dict[int, str] = {}
    queue, seen = collections.deque([(root, "")]), {id(root): root}
    while queue:
        item, name = queue.popleft()
        if isinstance(item, tf.Variable):
            found[id(item)] = name
        for child_name, child in _children(item, name, sections).items():
            if id(child) not in seen:
                seen[id(child)] = child
                queue.append((child, f"{name}/{child_name}".lstrip("/")))
    return found


def _their_variables(nodes: Any, sections: tuple[str, ...]) -> dict[int, str]:
    """Returns the shortest path of every variable of a checkpoint, by the number of its node."""
    found: dict[int, str] = {}
    queue, seen = collections.deque([(0, "")]), {0}
    while queue:
        node_id, name = queue.popleft()
        if _variable_keys(nodes[node_id]):
            found[node_id] = name
        for child in nodes[node_id].children:
            if child.node_id not in seen and (name or child.local_name in sections):
                seen.add(child.node_id)
                queue.append((child.node_id, f"{name}/{child.local_name}".lstrip("/")))
    return found
