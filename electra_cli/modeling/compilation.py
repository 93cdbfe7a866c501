"""Functions that XLA compiles one by one, where the step around them is not compiled as a whole.

On a CPU oneDNN's matrix products outrun XLA's, while XLA makes one pass over memory of what lies between them, where
TensorFlow's operations make one each. So there the products stay TensorFlow's, and what lies between is compiled.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

_compiles_parts = False


def set_compiles_parts(value: bool) -> None:
    """Says whether functions marked with `part` are compiled by themselves, in this process, from now on."""
    global _compiles_parts
    _compiles_parts = value


def silence_first_notice() -> None:
    """Compiles something small while standard error is closed.

    XLA says once in a process that it compiled something, whatever TF_CPP_MIN_LOG_LEVEL says.
    """
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))
    finally:
        os.dup2(stderr, 2)
        os.close(nowhere)
        os.close(stderr)


def compiles_parts() -> bool:
    """Returns whether functions marked with `part` are compiled by themselves."""
    return _compiles_parts


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a pure function of tensors as a part that may be compiled by itself.

    Tensors are given by position, Python numbers by keyword; no gradient flows through it, so that nothing is kept for
    one: it is to be called within a `tf.custom_gradient`, or where none is taken.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*tensors: tf.Tensor, **constants: Any) -> Any:
        tensors = tuple(tf.stop_gradient(tensor) for tensor in tensors)
        # Eagerly a part is computed once, to create weights or in a test: not worth a compilation.
        is_compiled = _compiles_parts and not tf.executing_eagerly()
        return (compiled if is_compiled else function)(*tensors, **constants)

    return call
