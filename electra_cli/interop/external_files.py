"""The one way in which files of other libraries are read: what is wrong with one is a line that names file and field.

Paths may be remote where a format's may.
"""

import contextlib
import glob
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from electra_cli import files
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.errors import UserError
from electra_cli.objectives.weights import Weights
from electra_cli.workdir.checkpoint_files import find_damage

_T = TypeVar("_T")


def find(directory: str, name: str) -> str | None:
    """Returns the path of a file in a directory; None: there is none. Raises as `check_regular`."""
    path = files.join(directory, name)
    check_regular(path)
    return path if files.size(path) is not None else None


def check_regular(path: str) -> None:
    """Raises a `UserError` for a local path that exists and is no regular file: reading a FIFO waits."""
    if not files.is_remote(path) and os.path.lexists(path) and not os.path.isfile(path):
        state = "is no regular file" if os.path.exists(path) else "is a broken link"
        raise UserError(f"{path} {state}: put the model's own file in its place, or remove it")


def check_checkpoint(prefix: str) -> None:
    """Raises a `UserError` where a checkpoint of TensorFlow, named without the endings of its files, is damaged."""
    for path in glob.glob(f"{glob.escape(prefix)}.*"):
        check_regular(path)
    damage = find_damage(prefix)
    if damage is not None:
        raise UserError(f"{prefix} is no checkpoint that can be read: {damage}")


@contextlib.contextmanager
def parsing(file: str) -> Iterator[None]:
    """Raises a `UserError` with the reason where a library fails at the content of a file, whatever it raises then."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{file} cannot be read: {reason[:200] or type(error).__name__}; copy it again") from error


def field(record: Mapping[str, Any], name: str, value_type: type[_T], file: str, default: _T) -> _T:
    """Returns a value of a JSON object; absent or null, the default. A `UserError` where it has another type."""
    value = record.get(name)
    if value is None:
        return default
    if type(value) is not value_type:
        raise UserError(f"{file}: {name} is {abbreviate(value)}, where a value of type {value_type.__name__} belongs")
    return value


def settings(record: Mapping[str, Any], names: Mapping[str, str], file: str) -> dict[str, Any]:
    """Returns those of the values in a JSON object that our config has, checked as its own values are.

    Args:
      names: our key of each name there.

    Raises:
      UserError: a value that its key cannot have.
    """
    values: dict[str, Any] = {}
    for name in sorted(names.keys() & record.keys()):
        key, value = PRETRAINING.fields[names[name]], record[name]
        if key.type_name == "float" and type(value) is int and abs(value) < 2**53:
            value = float(value)
        kind = {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(key.type_name, "text")
        mistake = f"must be {kind}" if type(value).__name__ != key.type_name else key.find_mistake(value)
        if mistake is not None:
            raise UserError(f"{file}: {name} is {abbreviate(value)}: {mistake}")
        values[names[name]] = value
    return values


def to_float32(tensors: Mapping[str, Any], file: str) -> tuple[Weights, list[str]]:
    """Returns those of some NumPy arrays or PyTorch tensors that hold floats as float32, and notices for the user.

    Raises:
      UserError: a tensor is none of numbers in memory: sparse, quantized, without data, or larger than its data.
    """
    weights: Weights = {}
    others: set[str] = set()
    for name, value in tensors.items():
        dtype = str(value.dtype).removeprefix("torch.")
        if "float" not in dtype:
            continue
        others |= {dtype} - {"float32"}
        if not isinstance(value, np.ndarray):
            if value.is_meta or value.is_quantized or str(value.layout) != "torch.strided":
                raise UserError(
                    f"{file}: the tensor {name} is sparse, quantized or without data: save it as a dense one"
                )
            # Strides of 0 make a terabyte of a number.
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise UserError(f"{file}: the tensor {name} of shape {list(value.shape)} is larger than its data")
            with parsing(f"{file}: the tensor {name}"):
                value = value.detach().float().numpy()
        with np.errstate(over="ignore"):  # what becomes infinite is refused with the weights
            weights[name] = np.asarray(value, np.float32)
    return weights, [f"Weights of type {', '.join(sorted(others))} became float32."] if others else []


def abbreviate(value: Any) -> str:
    """Returns a value of JSON for a message, in a few characters."""
    text = str(value)[:100] if isinstance(value, str | float | int | None) else f"a {type(value).__name__}"
    return repr(text) if isinstance(value, str) else text
