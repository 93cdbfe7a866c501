"""Steps without graphs: making one takes as long as some twenty steps of a small model."""

import contextlib
import warnings
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def without_graphs() -> Iterator[None]:
    """Computes what is compiled otherwise operation by operation."""
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Even though .* does not apply to tf.data functions", UserWarning)
            yield
    finally:
        tf.config.run_functions_eagerly(False)
