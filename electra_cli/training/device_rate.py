"""How many operations a second devices make in matrix products: the yardstick of utilization."""

import time

import tensorflow as tf
import tf_keras

from electra_cli.training.distribution import Runtime

# Large enough that a device is busy, small enough to take a fraction of a second.
_CPU_WIDTH, _ACCELERATOR_WIDTH = 1024, 8192
# Enough runs that one is not disturbed where other work comes and goes; all workers must make the same number.
_NUM_PRODUCTS, _NUM_RUNS = 4, 10


def measure_flops_per_second(runtime: Runtime) -> float:
    """Measures the rate of square matrix products in the compute dtype, on all devices at once.

    Returns:
      Operations a second, of all devices together: the best of some runs.
    """
    width = _CPU_WIDTH if "CPU" in runtime.devices else _ACCELERATOR_WIDTH
    dtype = tf_keras.mixed_precision.global_policy().compute_dtype

    def multiply(factor):
        product = factor
        for _ in range(_NUM_PRODUCTS):
            product = tf.matmul(product, factor)
        return tf.reduce_sum(tf.cast(product, tf.float32))

    @tf.function
    def multiply_on_all(factor):
        sums = runtime.strategy.run(multiply, args=(factor,))
        return runtime.strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    # Small values: powers of the matrix must stay finite in float16.
    factor = tf.fill([width, width], tf.cast(1.0 / width, dtype))
    float(multiply_on_all(factor))
    seconds = []
    for _ in range(_NUM_RUNS):
        start = time.perf_counter()
        float(multiply_on_all(factor))  # waits for the result
        seconds.append(time.perf_counter() - start)
    return 2.0 * width**3 * _NUM_PRODUCTS * runtime.num_replicas / min(seconds)
