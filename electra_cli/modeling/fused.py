"""The operations between the matrix products of a Transformer, in one pass over memory each, with their gradients.

All compute in float32 at least, return their input's dtype, and can be differentiated once. They keep nothing that a
gradient can compute again from what is kept anyhow: no random bits, no normalized input.

On a CPU oneDNN's matrix products outrun XLA's, while XLA makes one pass over memory of several operations, where
TensorFlow makes one each. So there the products stay TensorFlow's, and the rest consists of regions that XLA compiles
one by one (`jit_region`), where the tracing of a step enables that (`with_jit_regions`).
"""

import contextvars
import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import optimization_barrier
from tensorflow.python.ops import control_flow_util

from electra_cli.modeling.randomness import hash_bits

LAYER_NORM_EPSILON = 1e-12
# Added to the attention scores of keys that a query must not see.
PADDING_SCORE = -10_000.0
_jit_regions_enabled = contextvars.ContextVar("jit_regions_enabled", default=False)


def with_jit_regions(function: Callable[..., Any], enabled: bool = True) -> Callable[..., Any]:
    """Wraps a function so that XLA compiles regions within it, or does not, while it is traced in this thread."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        with _JitRegions(enabled):
            return function(*arguments, **keywords)

    return call


class _JitRegions:
    """A context manager; as a generator AutoGraph could not convert it."""

    def __init__(self, enabled: bool):
        self._enabled = enabled

    def __enter__(self) -> None:
        self._token = _jit_regions_enabled.set(self._enabled)

    def __exit__(self, *_: object) -> None:
        _jit_regions_enabled.reset(self._token)


def jit_region(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a pure function of tensors as a region that may be compiled by itself.

    Tensors are passed by position, Python numbers by keyword. No gradient flows through it, so that nothing is kept for
    one: call it within a `tf.custom_gradient`, or where none is taken.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*tensors: tf.Tensor, **constants: Any) -> Any:
        tensors = tuple(tf.stop_gradient(tensor) for tensor in tensors)
        # Eagerly a region is computed once, to create weights or in a test: not worth a compilation.
        is_compiled = _jit_regions_enabled.get() and not tf.executing_eagerly()
        return (compiled if is_compiled else function)(*tensors, **constants)

    return call


def is_compiled_by_xla() -> bool:
    """Returns whether XLA compiles all of what is traced here."""
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def in_order(first: Any, then: Any) -> tuple[Any, Any]:
    """Returns two structures of tensors, where `is_compiled_by_xla`; the second is available only after the first.

    So what the first are computed from need not be in memory together with what follows from the second.
    """
    tensors = optimization_barrier(*tf.nest.flatten((first, then)))
    return tf.nest.pack_sequence_as((first, then), tensors)


def gelu(x: tf.Tensor) -> tf.Tensor:
    """The exact GELU (with erf, not its tanh approximation), of any float dtype and shape."""

    @tf.custom_gradient
    def apply(x):
        return _gelu(x), lambda gradient: _gelu_gradient(x, gradient)

    return apply(x)


def dropout(x: tf.Tensor, rate: float, key: tf.Tensor | None) -> tf.Tensor:
    """Zeroes a fraction `rate` of `x` and scales up the rest; without a key (uint32 [2]) returns `x`.

    The decisions follow from key and shape alone.
    """
    if key is None or rate == 0.0:
        return x

    @tf.custom_gradient
    def apply(x, key):
        return _dropout(x, key, rate=rate), lambda gradient: (_dropout(gradient, key, rate=rate), None)

    return apply(x, key)


def layer_norm(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor | None, epsilon: float = LAYER_NORM_EPSILON
) -> tf.Tensor:
    """LayerNorm of `x` [..., width] over the last axis, with scale gamma and offset beta or none, float32 [width]."""

    @tf.custom_gradient
    def apply(x, gamma, *betas):
        def gradients(gradient):
            inner, scaled = _layer_norm_gradient(x, gradient, gamma, epsilon=epsilon)
            return inner, column_sums(scaled), *(column_sums(gradient) for _ in betas)

        return _layer_norm(x, gamma, *betas, epsilon=epsilon), gradients

    return apply(x, gamma, *([] if beta is None else [beta]))


def add_and_norm(
    x: tf.Tensor,
    residual: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor | None,
    rate: float,
    key: tf.Tensor | None,
    epsilon: float = LAYER_NORM_EPSILON,
) -> tf.Tensor:
    """LayerNorm of residual + dropout(x), all [..., width]; other arguments as above."""
    if key is None or rate == 0.0:
        return layer_norm(residual + x, gamma, beta, epsilon)

    @tf.custom_gradient
    def apply(x, residual, key, gamma, *betas):
        normal, total = _add_and_norm(x, residual, key, gamma, *betas, rate=rate, epsilon=epsilon)

        def gradients(gradient):
            inner, dropped, scaled = _add_and_norm_gradient(total, gradient, gamma, key, rate=rate, epsilon=epsilon)
            return dropped, inner, None, column_sums(scaled), *(column_sums(gradient) for _ in betas)

        return normal, gradients

    return apply(x, residual, key, gamma, *([] if beta is None else [beta]))


def attention_probabilities(
    scores: tf.Tensor, padding_scores: tf.Tensor, scale: float, rate: float, key: tf.Tensor | None
) -> tf.Tensor:
    """Dropout of softmax(scores x scale + padding_scores), with scores [batch, heads, queries, keys].

    `padding_scores`, float32, can be broadcast to `scores` and gets no gradient; `key` is uint32 [2], None: no dropout.
    """
    has_dropout = key is not None and rate > 0.0

    @tf.custom_gradient
    def apply(scores, padding_scores, *keys):
        if has_dropout:
            probabilities, dropped = _softmax_and_dropout(scores, padding_scores, *keys, scale=scale, rate=rate)
        else:
            probabilities = dropped = _softmax(scores, padding_scores, scale=scale)

        def gradients(gradient):
            inner = scores_gradient(probabilities, dropped, gradient, scale, rate if has_dropout else 0.0)
            return inner, None, *(None for _ in keys)

        return dropped, gradients

    return apply(scores, padding_scores, *([key] if has_dropout else []))


def scores_gradient(
    probabilities: tf.Tensor, dropped: tf.Tensor, gradient: tf.Tensor, scale: float, rate: float
) -> tf.Tensor:
    """Returns the gradient of attention scores by that of their probabilities after dropout, `dropped`."""
    if rate == 0.0:
        return _softmax_gradient(probabilities, gradient, scale=scale)
    return _softmax_and_dropout_gradient(probabilities, dropped, gradient, scale=scale, rate=rate)


def rotate(x: tf.Tensor, cos: tf.Tensor, sin: tf.Tensor) -> tf.Tensor:
    """Rotates entry i of the first half of the last axis of `x` [..., size] with entry i of the second half.

    `cos` and `sin` of the angles, float32, can be broadcast to [..., size / 2] and get no gradient.
    """

    @tf.custom_gradient
    def apply(x, cos, sin):
        return _rotate(x, cos, sin), lambda gradient: (_rotate(gradient, cos, -sin), None, None)

    return apply(x, cos, sin)


def affine(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """x [..., inputs] @ kernel [inputs, outputs] + bias [outputs], if any, all of one dtype, and x of known rank.

    In two dimensions, of which TensorFlow makes one operation.
    """

    @tf.custom_gradient
    def apply(rows, kernel, bias):
        def gradients(gradient):
            return (
                tf.matmul(gradient, kernel, transpose_b=True),
                tf.matmul(rows, gradient, transpose_a=True),
                tf.cast(column_sums(gradient), bias.dtype),
            )

        return tf.nn.bias_add(tf.matmul(rows, kernel), bias), gradients

    rows = tf.reshape(x, [-1, x.shape[-1]])
    output = tf.matmul(rows, kernel) if bias is None else apply(rows, kernel, bias)
    # A SavedModel takes texts of any length.
    sizes = (known or tf.shape(x)[axis] for axis, known in enumerate(x.shape[1:-1], 1))
    return tf.reshape(output, [-1, *sizes, kernel.shape[-1]])


def column_sums(x: tf.Tensor) -> tf.Tensor:
    """Sums `x` [..., width] over all axes but the last: float32 [width]."""
    rows = tf.reshape(x, [-1, x.shape[-1]])
    if not _jit_regions_enabled.get():
        return tf.reduce_sum(tf.cast(rows, tf.float32), axis=0)
    # As a product, which oneDNN sums up in float32, several times as fast as TensorFlow or XLA on a CPU.
    return tf.cast(tf.matmul(tf.ones([1, tf.shape(rows)[0]], x.dtype), rows)[0], tf.float32)


def widen(x: tf.Tensor) -> tf.Tensor:
    """Returns `x` in float32, or in its own dtype where that is as wide."""
    return x if x.dtype.size >= 4 else tf.cast(x, tf.float32)


@jit_region
def _gelu(x):
    wide = widen(x)
    return tf.cast(0.5 * wide * (1.0 + tf.math.erf(wide * math.sqrt(0.5))), x.dtype)


@jit_region
def _gelu_gradient(x, gradient):
    wide = widen(x)
    cumulative = 0.5 * (1.0 + tf.math.erf(wide * math.sqrt(0.5)))
    density = tf.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
    return tf.cast(widen(gradient) * (cumulative + wide * density), x.dtype)


def drop(x: tf.Tensor, bits: tf.Tensor, rate: float) -> tf.Tensor:
    """Zeroes `x` where `bits`, random uint32 of its shape, are among the lowest fraction `rate`; scales up the rest."""
    return tf.where(bits >= tf.constant(int(rate * 2**32), tf.uint32), x * (1.0 / (1.0 - rate)), 0.0)


def _drop(x, key, rate):
    return drop(x, hash_bits(tf.shape(x), key), rate)


@jit_region
def _dropout(x, key, *, rate):
    return tf.cast(_drop(widen(x), key, rate), x.dtype)


@jit_region
def _rotate(x, cos, sin):
    first, second = tf.split(widen(x), 2, axis=-1)
    return tf.cast(tf.concat([first * cos - second * sin, second * cos + first * sin], axis=-1), x.dtype)


def _standardize(wide, epsilon):
    """Returns (standardized, reciprocal of the standard deviation)."""
    centered = wide - tf.reduce_mean(wide, axis=-1, keepdims=True)
    reciprocal = tf.math.rsqrt(tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True) + epsilon)
    return centered * reciprocal, reciprocal


def _standardize_gradient(wide, gradient, gamma, epsilon):
    """Returns (gradient of the input, product whose sum is gamma's gradient)."""
    standard, reciprocal = _standardize(wide, epsilon)
    inner = gradient * gamma
    projection = tf.reduce_mean(inner * standard, axis=-1, keepdims=True)
    inner = reciprocal * (inner - tf.reduce_mean(inner, axis=-1, keepdims=True) - standard * projection)
    return inner, gradient * standard


@jit_region
def _layer_norm(x, gamma, *betas, epsilon):
    return tf.cast(sum(betas, _standardize(widen(x), epsilon)[0] * gamma), x.dtype)


@jit_region
def _layer_norm_gradient(x, gradient, gamma, *, epsilon):
    inner, scaled = _standardize_gradient(widen(x), widen(gradient), gamma, epsilon)
    return tf.cast(inner, x.dtype), tf.cast(scaled, x.dtype)


@jit_region
def _add_and_norm(x, residual, key, gamma, *betas, rate, epsilon):
    total = tf.cast(widen(residual) + _drop(widen(x), key, rate), x.dtype)
    return tf.cast(sum(betas, _standardize(widen(total), epsilon)[0] * gamma), x.dtype), total


@jit_region
def _add_and_norm_gradient(total, gradient, gamma, key, *, rate, epsilon):
    inner, scaled = _standardize_gradient(widen(total), widen(gradient), gamma, epsilon)
    return tf.cast(inner, total.dtype), tf.cast(_drop(inner, key, rate), total.dtype), tf.cast(scaled, total.dtype)


@jit_region
def _softmax(scores, padding_scores, *, scale):
    # In float32: bfloat16 has too few digits for sums over hundreds of keys.
    return tf.cast(tf.nn.softmax(widen(scores) * scale + padding_scores), scores.dtype)


@jit_region
def _softmax_gradient(probabilities, gradient, *, scale):
    wide, inner = widen(probabilities), widen(gradient)
    inner = wide * (inner - tf.reduce_sum(wide * inner, axis=-1, keepdims=True)) * scale
    return tf.cast(inner, probabilities.dtype)


@jit_region
def _softmax_and_dropout(scores, padding_scores, key, *, scale, rate):
    probabilities = tf.nn.softmax(widen(scores) * scale + padding_scores)
    return tf.cast(probabilities, scores.dtype), tf.cast(_drop(probabilities, key, rate), scores.dtype)


@jit_region
def _softmax_and_dropout_gradient(probabilities, dropped, gradient, *, scale, rate):
    wide = widen(probabilities)
    # A probability that underflowed to 0 looks as if dropped; its gradient is 0 all the same.
    inner = tf.where(dropped > 0, widen(gradient) * (1.0 / (1.0 - rate)), 0.0)
    inner = wide * (inner - tf.reduce_sum(wide * inner, axis=-1, keepdims=True)) * scale
    return tf.cast(inner, probabilities.dtype)
