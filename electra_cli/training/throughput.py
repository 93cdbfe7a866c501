"""Throughput, the progress line, and the number of steps per call."""

import functools
import math
import time
from collections.abc import Callable

import tensorflow as tf
import tf_keras

from electra_cli.loggers.logger import METRIC_DIGITS, format_duration
from electra_cli.training.distribution import Runtime

# Large enough that a device is busy, small enough to take a fraction of a second.
_CPU_WIDTH, _ACCELERATOR_WIDTH = 1024, 8192
# Enough runs that other work does not disturb all of them; all workers must make the same number.
_NUM_PRODUCTS, _NUM_RUNS = 4, 10


def measure_flops_per_second(runtime: Runtime) -> float:
    """Returns the operations a second, of all devices together, of the best of some runs of matrix products."""
    width = _CPU_WIDTH if "CPU" in runtime.devices else _ACCELERATOR_WIDTH
    dtype = tf_keras.mixed_precision.global_policy().compute_dtype

    def multiply(factor):
        product = factor
        for _ in range(_NUM_PRODUCTS):
            product = tf.matmul(product, factor)
        return tf.reduce_sum(tf.cast(product, tf.float32))

    @functools.partial(tf.function, autograph=False)
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


_SECONDS_AT_ONCE = 10.0
# Seconds over which the time of a step is smoothed.
_SECONDS_SMOOTHED = 30.0


class Throughput:
    """Measures rates and the time left, without evaluation.

    `utilization_at_one_step_a_second` is the fraction of the devices' rate of matrix products that it takes.
    """

    def __init__(
        self,
        step: int,
        num_steps: int,
        utilization_at_one_step_a_second: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._num_steps = num_steps
        self._utilization_at_one_step_a_second = utilization_at_one_step_a_second
        self._clock = clock
        self.restart(step)

    def restart(self, step: int) -> None:
        """Starts a new interval at `step`."""
        self._tokens = self._input_wait = 0.0
        self._start, self._start_step = self._clock(), step

    def add(self, tokens: float, input_wait: float) -> None:
        """Counts real tokens, without padding, and seconds for which steps waited for their batches."""
        self._tokens += tokens
        self._input_wait += input_wait

    def rates(self, step: int) -> dict[str, float]:
        """Returns metrics of the interval up to `step`; utilization is that by the model's matrix products."""
        seconds = max(self._clock() - self._start, 1e-9)
        steps_per_second = (step - self._start_step) / seconds
        return {
            "tokens_per_second": self._tokens / seconds,
            "model_flops_utilization": self._utilization_at_one_step_a_second * steps_per_second,
            "input_wait_fraction": self._input_wait / seconds,
        }

    def line(self, step: int, values: dict[str, float]) -> str:
        """Returns the progress line of `step` and starts a new interval there."""
        seconds_per_step = (self._clock() - self._start) / max(step - self._start_step, 1)
        left = format_duration(seconds_per_step * (self._num_steps - step))
        self.restart(step)
        metrics = [f"{name} {values[name]:.{digits}f}" for name, digits in METRIC_DIGITS.items() if name in values]
        rate = f"{values['tokens_per_second']:,.0f} tokens/s"
        return "  ".join([f"step {step:,}/{self._num_steps:,}", *metrics, rate, f"{left} left"])


class StepsPerCall:
    """The number of steps to make in one call, so that a stop need not wait for long.

    Attributes:
      steps: as many as took `_SECONDS_AT_ONCE` in the last call; 1 until one was measured.
      seconds_per_step: smoothed over the last calls; NaN until one was measured.
    """

    def __init__(self) -> None:
        self.steps = 1
        self.seconds_per_step = math.nan
        self.num_calls = 0

    def measure(self, num_steps: int, seconds: float) -> None:
        """Counts a call, and measures all but the first, which compiles."""
        self.num_calls += 1
        if self.num_calls > 1 and num_steps:
            self.steps = max(1, int(_SECONDS_AT_ONCE * num_steps / max(seconds, 1e-9)))
            share, last = math.exp(-seconds / _SECONDS_SMOOTHED), seconds / num_steps
            before = last if math.isnan(self.seconds_per_step) else self.seconds_per_step
            self.seconds_per_step = share * before + (1 - share) * last
