"""The reference of a config's keys, read from the source of the module that declares them. No TensorFlow here.

Such a module has a function `default_config`, which returns a `ConfigDict` of one dict: of values, each with a comment
above it, and of sections, each made by a function: `{"task": "", "train": _train_section(), ...}`. There every key is
an assignment, and the comment above it describes it, or the keys up to the next comment.
"""

import ast
import dataclasses
import inspect
import io
import tokenize
from collections.abc import Callable
from types import ModuleType
from typing import Any

import ml_collections

from electra_cli.config import defaults


@dataclasses.dataclass(frozen=True)
class Entry:
    """A key of a config.

    Attributes:
      section: such as 'train'; '' of a key in none.
      key: such as 'num_steps'.
      type: name of the type of its value: int, float, str, bool or tuple.
      default: its default as in Python, or 'unset'.
      description: what stands above it in the source, as one line; keys that follow each other may share it.
    """

    section: str
    key: str
    type: str
    default: str
    description: str

    @property
    def path(self) -> str:
        """The key with its section, such as 'train.num_steps'."""
        return f"{self.section}.{self.key}" if self.section else self.key


def entries(module: ModuleType = defaults) -> list[Entry]:
    """Returns the keys that a module declares, in its order.

    Raises:
      ValueError: the module is not of that shape: a key has no description, or stands elsewhere.
    """
    config = module.default_config()
    found = []
    comments, function = _parse(module.default_config)
    for key, value in _items(function):
        name = str(key.value)
        if not isinstance(value, ast.Call):
            found.append(_entry(config, "", name, _comment_above(comments, key.lineno)))
            continue
        assert isinstance(value.func, ast.Name)
        section_comments, section = _parse(getattr(module, value.func.id))
        description = ""
        for node in section.body:
            assigned = _assigned_key(node)
            if assigned is not None:
                description = _comment_above(section_comments, node.lineno) or description
                found.append(_entry(config, name, assigned, description))
    existing = {path for name, value in config.items() for path in _paths(name, value)}
    wrong = sorted({entry.path for entry in found} ^ existing) or [
        entry.path for entry in found if not entry.description
    ]
    if wrong:
        raise ValueError(f"{module.__name__}: these keys are not declared as the reference reads them: {wrong}")
    return found


def _paths(name: str, value: Any) -> list[str]:
    return [f"{name}.{key}" for key in value] if isinstance(value, ml_collections.ConfigDict) else [name]


def _parse(function: Callable) -> tuple[dict[int, str], ast.FunctionDef]:
    """Returns the comments of a function by their lines, and its syntax tree."""
    source = inspect.getsource(function)
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    return _comments(source), node


def _items(function: ast.FunctionDef) -> list[tuple[ast.Constant, ast.expr]]:
    """Returns keys and values of the dict in `default_config`."""
    (found,) = (node for node in ast.walk(function) if isinstance(node, ast.Dict))
    return [(key, value) for key, value in zip(found.keys, found.values, strict=True) if isinstance(key, ast.Constant)]


def _assigned_key(node: ast.stmt) -> str | None:
    """Returns `num_steps` of `train.num_steps = ...`, None for other statements."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
        return node.targets[0].attr
    return None


def _comments(source: str) -> dict[int, str]:
    """Returns the comments that have a line of their own, by the number of the line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokens
        if token.type == tokenize.COMMENT and token.line.strip().startswith("#")
    }


def _comment_above(comments: dict[int, str], line: int) -> str:
    lines = []
    while line - 1 in comments:
        line -= 1
        lines.append(comments[line])
    return " ".join(reversed(lines))


def _entry(config: Any, section: str, key: str, description: str) -> Entry:
    values = config[section] if section else config
    default = "unset" if values.get(key) is None else repr(values.get(key))
    return Entry(section, key, values.get_type(key).__name__, default, description)
