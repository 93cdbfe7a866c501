"""The first steps of an objective, divided over replicas and parts, or compiled; in a process with two logical CPUs."""

import json
import pathlib
import sys
from typing import Any

from tests import forking

_PROGRAM = """
import json, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from electra_cli.data.input_pipeline import training_dataset
from electra_cli.data.source import read_run
from electra_cli.objectives.base import objective_of
from electra_cli.training.distribution import Runtime
from electra_cli.training.run import build_model
from electra_cli.training.steps import build_train_steps
from tests.conftest import small_config

data_dir, changes, divisions = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])


def run(num_replicas, num_parts, jit_compile):
    is_undivided = (num_replicas, num_parts, jit_compile) == (1, 1, False)
    tf.config.run_functions_eagerly(is_undivided)  # the graph of three steps takes more time to make
    config = small_config(data_dir)
    config.model.hidden_dropout = config.model.attention_dropout = 0.0
    config.train.gradient_accumulation_steps, config.optimizer.warmup_steps = num_parts, 0
    config.update_from_flattened_dict(changes)
    opened = read_run(config)
    names = [f"CPU:{index}" for index in range(num_replicas)]
    strategy = tf.distribute.MirroredStrategy(names) if num_replicas > 1 else tf.distribute.get_strategy()
    runtime = Runtime(strategy, jit_compile, "")
    model, optimizer = build_model(opened.resolved, runtime)
    (phase,) = opened.phases
    iterator = iter(runtime.distribute(lambda part: training_dataset(
        phase.source.train, phase.masking, pad_id=0, max_seq_length=32, global_batch_size=8, seed=0, start_step=0,
        part=part)))
    train_steps = build_train_steps(model, optimizer, runtime, phase.config)
    compared = (*objective_of(phase.config).loss_names, "masked_lm_loss", "gradient_norm", "positives")
    return [{name: float(value) for name, value in train_steps(
                iterator, tf.constant(step, tf.int64), tf.constant(1, tf.int64)).items() if name in compared}
            for step in range(3)]


print(json.dumps([run(*division) for division in divisions]))
"""

Sums = dict[str, float]


def divided_steps(
    data_dir: pathlib.Path, changes: dict[str, Any], divisions: list[tuple[int, int, bool]]
) -> list[list[Sums]]:
    """Returns losses, gradient norm and replaced tokens of three steps of the small config, for each division.

    A division has a number of replicas (only one number above 1), of parts, and whether XLA compiles the steps.
    """
    arguments = [sys.executable, "-c", _PROGRAM, str(data_dir), json.dumps(changes), json.dumps(divisions)]
    process = forking.run(arguments, capture_output=True, text=True, timeout=500)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])
