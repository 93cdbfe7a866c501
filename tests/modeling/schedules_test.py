import math

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.config import default_config
from electra_cli.modeling.schedules import Schedule, schedule_of, scheduled_values


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0.3, 0.25, 0.2, 0.15, 0.1, 0.1]),
        ("cosine", [0.3, 0.2 + 0.1 * math.cos(math.pi / 4), 0.2, 0.2 - 0.1 * math.cos(math.pi / 4), 0.1, 0.1]),
    ],
)
def test_values_by_hand(shape, expected):
    schedule = Schedule(0.3, 0.1, 5, shape)
    values = [schedule.at(tf.constant(step, tf.int64)).numpy() for step in (0, 1, 2, 3, 4, 900)]
    assert values == pytest.approx(expected, rel=1e-6)
    assert (values[0], values[4], values[5]) == (np.float32(0.3), np.float32(0.1), np.float32(0.1))  # exactly
    assert float(Schedule(0.3, 0.1, 1, shape).at(0)) == np.float32(0.3)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_ends_are_exact_in_long_runs(shape):
    schedule = Schedule(0.0, 1.0, 1_000_000, shape)
    assert [float(schedule.at(step)) for step in (0, 999_999)] == [0.0, 1.0]
    middle = [float(schedule.at(step)) for step in (250_000, 500_000, 750_000)]
    assert middle == pytest.approx([0.25, 0.5, 0.75] if shape == "linear" else [0.146447, 0.5, 0.853553], abs=1e-5)


def test_only_keys_with_an_end_change():
    config = default_config()
    config.train.num_steps, config.objective.sampling_temperature_end = 3, 0.5
    assert schedule_of(config, "data.mask_prob") is None
    assert schedule_of(config, "objective.sampling_temperature") == Schedule(1.0, 0.5, 3, "linear")
    values = scheduled_values(config, ("data.mask_prob", "objective.sampling_temperature"), 1)
    assert {name: float(value) for name, value in values.items()} == {"sampling_temperature": 0.75}
