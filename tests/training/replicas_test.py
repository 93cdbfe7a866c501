"""One step, whatever it is divided over: replicas and parts, of one process with several logical CPUs.

All values that can change over a run change.
"""

import json
import sys

import pytest

from tests import forking

pytestmark = pytest.mark.slow

NUM_STEPS = 50
PROGRAM = """
import json, sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
from electra_cli.objectives.electra import ElectraObjective
from electra_cli.training.steps import build_train_steps
from electra_cli.training.distribution import Runtime
from electra_cli.data.source import read_run
from electra_cli.training.run import build_model
from electra_cli.data.input_pipeline import training_dataset
from tests import forking
from tests.conftest import small_config

data_dir, num_steps = sys.argv[1], int(sys.argv[2])
divisions = [tuple(map(int, division.split("x"))) for division in sys.argv[3:]]
NAMES = ("masked_lm_loss", "rtd_loss", "gradient_norm", "masked_lm_weight")  # those of the test
MARK, MARKED_ROW = 0.625, 5  # a draw that no other slot has; an example of the step after those that are compared


def make(num_replicas, num_parts, **changes):
    config = small_config(data_dir)
    config.model.num_layers = 1
    config.data.mask_prob_end, config.objective.sampling_temperature_end = 0.3, 0.5
    config.objective.generator_loss_weight_end, config.objective.discriminator_loss_weight_end = 2.0, 10.0
    config.model.hidden_dropout = config.model.attention_dropout = 0.0
    config.train.gradient_accumulation_steps, config.train.num_steps = num_parts, num_steps
    config.update_from_flattened_dict(changes)
    run = read_run(config)
    resolved, (phase,) = run.resolved, run.phases
    names = [f"CPU:{index}" for index in range(num_replicas)]
    strategy = tf.distribute.MirroredStrategy(names) if num_replicas > 1 else tf.distribute.get_strategy()
    runtime = Runtime(strategy, False, "")
    model, optimizer = build_model(resolved, runtime)
    replica, row = divmod(MARKED_ROW, 8 // num_replicas)

    def mark(index, batch):
        draws = batch["sampling_uniform"]
        marked = tf.tensor_scatter_nd_update(draws, [[row, 0]], [MARK])
        is_marked = index == num_steps * num_replicas + replica
        return {**batch, "sampling_uniform": tf.where(is_marked, marked, draws)}

    def dataset(part):
        batches = training_dataset(
            phase.source.train, phase.masking, pad_id=0, max_seq_length=32, global_batch_size=8, seed=0, start_step=0,
            part=part)
        return batches.enumerate().map(mark)  # replicas take batches in turn

    train_steps = build_train_steps(model, optimizer, runtime, phase.config)
    iterator = iter(runtime.distribute(dataset))
    return model, optimizer, lambda first, count: train_steps(
        iterator, tf.constant(first, tf.int64), tf.constant(count, tf.int64))


FROZEN = {"objective.frozen_generator": True, "model.embedding_sharing": "gradient_disentangled"}


def frozen(num_replicas):
    tf.config.run_functions_eagerly(num_replicas == 1)  # the graph of five steps takes more time to make
    model, _, train_steps = make(num_replicas, 1, **FROZEN)
    before = [variable.numpy() for variable in model.non_trainable_variables]
    sums = train_steps(0, 5)
    assert all((old == new.numpy()).all() for old, new in zip(before, model.non_trainable_variables, strict=True))
    return [len(before), *(float(sums[name]) for name in NAMES)]


if divisions == [(1, 1)] or divisions == [(2, 1)]:  # sums of other shapes would need other groups
    print(json.dumps({"frozen": frozen(divisions[0][0])}))
    sys.exit()

# One example makes its replica's loss NaN.
training_loss = ElectraObjective.training_loss


def training_loss_with_a_fault(self, model, inputs, *more):
    total, sums = training_loss(self, model, inputs, *more)
    fault = tf.where(tf.reduce_any(inputs["sampling_uniform"] == MARK), np.nan, 0.0)
    return total + fault, {**sums, "rtd_loss": sums["rtd_loss"] + fault}


ElectraObjective.training_loss = training_loss_with_a_fault
result = {"losses": {}, "faults": {}}
for replicas, parts in divisions:
    model, optimizer, train_steps = make(replicas, parts)
    losses = result["losses"][f"{replicas}x{parts}"] = []
    for first in range(0, num_steps, 5):
        sums = train_steps(first, 5)
        losses.append([float(sums[name]) for name in NAMES])
    before = model.get_weights()
    sums = train_steps(num_steps, 1)
    result["faults"][f"{replicas}x{parts}"] = {
        "nonfinite_replicas": sums["nonfinite_replicas"].numpy().tolist(),
        "num_updates": float(sums["num_updates"]),
        "num_steps": float(sums["num_steps"]),
        "iterations": int(optimizer.iterations.numpy()),
        "is_unchanged": all((first == second).all() for first, second in zip(before, model.get_weights())),
    }
print(json.dumps(result))
"""


# One process has groups of one size only.
PROCESSES = (("1x1", "1x2", "4x1"), ("2x2",), ("1x1",), ("2x1",))


@pytest.fixture(scope="module")
def result(data_dir, made_once):
    def fill(directory):
        for number, divisions in enumerate(PROCESSES):
            arguments = [sys.executable, "-c", PROGRAM, str(data_dir), str(NUM_STEPS), *divisions]
            process = forking.run(arguments, capture_output=True, text=True, timeout=500)
            assert process.returncode == 0, process.stderr[-3000:]
            (directory / f"{number}.json").write_text(process.stdout.splitlines()[-1])

    directory = made_once("replicas", fill)
    first, second, *frozen = (
        json.loads((directory / f"{number}.json").read_text()) for number in range(len(PROCESSES))
    )
    both = {name: first[name] | second[name] for name in ("losses", "faults")}
    return {**both, "frozen": [each["frozen"] for each in frozen]}


@pytest.mark.parametrize("division", ["4x1", "1x2", "2x2"])
def test_replicas_and_parts_make_the_steps_of_one(result, division):
    expected, found = result["losses"]["1x1"], result["losses"][division]
    assert len(found) == NUM_STEPS // 5
    for first, second in zip(expected, found, strict=True):
        (*losses, norm, weight), (*found_losses, found_norm, found_weight) = first, second
        assert found_losses == pytest.approx(losses, rel=1e-5)
        assert found_norm == pytest.approx(norm, rel=1e-3)
        assert found_weight == weight
    assert found[0] != found[-1]  # it trains


def test_a_frozen_generator_is_that_of_one_replica(result):
    one, two = result["frozen"]
    assert one[0] > 20 and one[1:] == pytest.approx(two[1:], rel=1e-3)


@pytest.mark.parametrize("division", ["1x1", "4x1", "1x2", "2x2"])
def test_the_replica_that_is_not_finite_is_known_and_nothing_is_updated(result, division):
    replicas = int(division[0])
    at = {1: 0, 2: 1, 4: 2}[replicas]  # where the row 5 of 8 is
    assert result["faults"][division] == {
        "nonfinite_replicas": [float(index == at) for index in range(replicas)],
        "num_updates": 0.0,
        "num_steps": 1.0,
        "iterations": NUM_STEPS + 1,
        "is_unchanged": True,
    }
