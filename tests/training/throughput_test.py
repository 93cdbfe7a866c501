import math

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.training import throughput
from electra_cli.training.distribution import Runtime
from electra_cli.training.throughput import StepsPerCall, Throughput


def test_rates_and_time_left():
    now = [100.0]
    progress = Throughput(10, 40, utilization_at_one_step_a_second=0.25, clock=lambda: now[0])
    progress.add(2000, 0.5)
    progress.add(1000, 1.5)
    now[0] += 20
    rates = progress.rates(20)
    assert rates == {"tokens_per_second": 150.0, "model_flops_utilization": 0.125, "input_wait_fraction": 0.1}
    values = {"total_loss": 1.0, "masked_lm_loss": 2.0, "cloze_loss": 3.0, "rtd_loss": 0.5, "rtd_auc": 0.75, **rates}
    # 10 steps took 20 seconds; 20 are left.
    assert progress.line(20, values) == (
        "step 20/40  total_loss 1.000  masked_lm_loss 2.000  cloze_loss 3.000  rtd_loss 0.5000  rtd_auc 0.750  "
        "150 tokens/s  40s left"
    )
    now[0] += 1
    assert set(progress.rates(20).values()) == {0.0}


def test_pace_is_ten_seconds_of_steps():
    pace = StepsPerCall()
    assert pace.steps == 1
    pace.measure(1, 60.0)  # compiles
    assert pace.steps == 1
    pace.measure(1, 0.5)
    assert pace.steps == 20
    pace.measure(20, 40.0)
    assert pace.steps == 5
    pace.measure(5, 1000.0)
    assert pace.steps == 1


def test_the_time_of_a_step_is_smoothed():
    pace = StepsPerCall()
    pace.measure(1, 60.0)  # compiles
    assert math.isnan(pace.seconds_per_step)
    pace.measure(10, 20.0)
    assert pace.seconds_per_step == 2.0
    pace.measure(30, 30.0)  # a step a second, for as long as is smoothed over
    assert pace.seconds_per_step == pytest.approx(2.0 / math.e + 1.0 * (1 - 1 / math.e))


def test_the_rate_is_that_of_the_products_and_not_of_folded_constants(monkeypatch):
    """It grows with the work until the device is busy, and stays below what any processor of today does."""
    monkeypatch.setattr(throughput, "_CPU_WIDTH", 256)
    seconds = iter(np.arange(20.0))
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(seconds))
    runtime = Runtime(tf.distribute.get_strategy(), False, "", "CPU")
    # Four products of 2 x 256^3 operations in what the clock calls a second.
    assert throughput.measure_flops_per_second(runtime) == 4 * 2 * 256**3
    monkeypatch.undo()
    monkeypatch.setattr(throughput, "_CPU_WIDTH", 1024)  # as outside of tests
    assert 1e9 < throughput.measure_flops_per_second(runtime) < 2e13
