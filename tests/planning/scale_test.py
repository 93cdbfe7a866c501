"""Times and fits, by hand and as properties."""

import dataclasses

import pytest

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.objectives import costs
from electra_cli.objectives.sizes import count_parameters, kept_of_example
from electra_cli.planning import scale
from electra_cli.planning.scale import (
    ACCELERATORS,
    GIB,
    Device,
    Placement,
    StepTime,
    largest_part,
    place,
    step_time,
    this_cpu,
)
from tests.config.resolution_test import preset
from tests.planning.common import load_script

A100 = ACCELERATORS[0]
# Round numbers: 100 operations, 10 bytes of memory and 2 of a link a second; groups of 4.
ROUND = Device("round", 200.0, 100.0, 0.5, 1e12, 10.0, 2.0, 4, 0.25, 4, 1.0)


def resolved(name="small", **changes):
    config = preset(name)
    config.data.dir = "data"
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return resolve(config, 30_522)


def test_a_step_by_hand():
    config = resolved(train__global_batch_size=64)
    found = step_time(config, ROUND, 4, 1, remat=False)
    trained = 4 * count_parameters(config).trained
    assert found.products == costs.matmul_flops(config) / 4 / (0.5 * 100.0)
    assert found.all_reduce == 2 * 3 / 4 * trained / 2.0
    # Four devices share a host's input: 64 examples of 128 tokens.
    assert found.input == 64 / (2 * 25_000)
    kept = 16 * kept_of_example(config, compiled=True)
    assert found.elementwise == pytest.approx((11.55 * kept + 8 * trained) / 10.0)
    assert found.total == found.products + found.elementwise + found.all_reduce + scale.HOST_SECONDS
    config = resolved(train__global_batch_size=64, runtime__precision="mixed_bfloat16")
    in_bfloat16 = step_time(config, ROUND, 4, 1, remat=False)
    assert in_bfloat16.products == found.products / 2 and in_bfloat16.elementwise < found.elementwise
    again = step_time(config, ROUND, 4, 1, remat=True)
    assert again.products == pytest.approx(1.17 * in_bfloat16.products)


def test_input_is_waited_for_only_when_it_is_slower():
    assert StepTime(5.0, 1.0, 2.0, 0.5).total == 5.5 + scale.HOST_SECONDS
    assert StepTime(2.0, 1.0, 2.0, 0.5).total == 3.5 + scale.HOST_SECONDS
    times = [(5.0, 1.0, 2.0, 0.5), (0.0, 1.0, 2.0, 0.5), (0.0, 1.0, 2.0, 9.0), (0.0, 0.0, 0.0, 0.0)]
    assert [StepTime(*time).bound for time in times] == ["input", "elementwise", "all-reduce", "host"]
    assert StepTime(0.0, 1.0, 2.0, 0.5).corrected(2.0) == StepTime(0.0, 2.0, 4.0, 0.5)


def test_input_of_long_examples_takes_longer():
    short, long = resolved(), resolved(data__max_seq_length=512)
    times = [step_time(config, A100, 1, 1, remat=False).input for config in (short, long)]
    assert times[1] == 4 * times[0]


def test_rings_beyond_a_machine_share_its_network():
    assert ROUND.all_reduce_bandwidth(4) == 2.0
    assert ROUND.all_reduce_bandwidth(8) == 1.0
    assert dataclasses.replace(ROUND, network=9.0).all_reduce_bandwidth(8) == 2.0


def test_placement_takes_the_fewest_parts_that_fit():
    config = resolved("large", runtime__precision="mixed_bfloat16")
    found = place(config, A100, 8, remat=False)
    assert isinstance(found, Placement) and not found.remat and found.num_parts > 1
    assert found.memory.peak <= 0.9 * 80 * GIB
    examples = 2048 // 8
    fewer = max(number for number in range(1, found.num_parts) if examples % number == 0)
    assert scale.memory_of(config, examples // fewer, A100, 8, fewer, remat=False).peak > 0.9 * 80 * GIB
    most = largest_part(config, A100, remat=False)
    assert examples // found.num_parts <= most < examples // fewer
    tiny = dataclasses.replace(A100, memory=GIB)
    assert "even with recomputation" in place(config, tiny, 8, remat=False)
    assert largest_part(config, tiny, remat=True) == 0


def test_blocks_are_computed_again_only_when_one_example_does_not_fit():
    config = resolved("small_plus_plus")
    kept, again = (scale.memory_of(config, 1, A100, 8, 16, remat=remat).peak for remat in (False, True))
    between = dataclasses.replace(A100, memory=(kept + again) / 2 / 0.9)
    found = place(config, between, 8, remat=False)
    assert isinstance(found, Placement) and found.remat
    found = place(config, dataclasses.replace(A100, memory=kept * 1.01 / 0.9), 8, remat=False)
    assert isinstance(found, Placement) and not found.remat and found.num_parts == 16


def test_a_batch_that_cannot_be_divided():
    config = resolved(train__gradient_accumulation_steps=4)
    assert place(config, A100, 64, remat=False) == "a batch of 128 cannot be divided: make it a multiple of 256"
    found = place(config, A100, 8, remat=False)
    assert isinstance(found, Placement) and found.num_parts == 4


def test_published_throughput_of_bert_large():
    """What NVIDIA published, on 1 to 256 GPUs (`PUBLISHED` of the script), within a tenth."""
    script = load_script("write_scale_page")
    for number, length, examples, parts, precision, published in script.PUBLISHED:
        config = script.published_config(length, number * examples * parts, parts, precision)
        predicted = config.train.global_batch_size / step_time(config, A100, number, parts, remat=False).total
        assert predicted == pytest.approx(published, rel=0.1)


def test_the_cpu_here():
    cpu = this_cpu()
    assert cpu.memory > GIB and cpu.rate("float32") >= 80e9 and not cpu.is_compiled
    assert default_config().runtime.precision == "float32"


def test_float32_has_the_rate_of_bfloat16_on_tpus_and_half_of_it_on_gpus():
    for device in ACCELERATORS:
        expected = 1.0 if device.name.startswith("TPU") else 0.5
        rates = device.peak_rate("float32"), device.peak_rate("mixed_bfloat16")
        assert rates[0] / rates[1] == pytest.approx(expected, rel=0.01), device.name
