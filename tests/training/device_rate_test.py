import numpy as np
import tensorflow as tf

from electra_cli.training import throughput
from electra_cli.training.distribution import Runtime


def test_the_rate_is_that_of_the_products_and_not_of_folded_constants(monkeypatch):
    """It grows with the work until the device is busy, and stays below what any processor of today does."""
    monkeypatch.setattr(throughput, "_CPU_WIDTH", 256)
    seconds = iter(np.arange(20.0))
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(seconds))
    runtime = Runtime(tf.distribute.get_strategy(), False, "", "CPU")
    # Four products of 2 x 256^3 operations in what the clock calls a second.
    assert throughput.measure_flops_per_second(runtime) == 4 * 2 * 256**3
    monkeypatch.undo()
    assert 1e9 < throughput.measure_flops_per_second(runtime) < 2e13
