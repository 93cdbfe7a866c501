"""Plans as structures, as text and as JSON."""

import json
import re

import pytest

from electra_cli.config.pretraining import PRETRAINING
from electra_cli.data.source import find_data
from electra_cli.errors import UserError
from electra_cli.planning.plan import make_plan
from electra_cli.planning.report import to_json, to_text
from tests.config.resolution_test import preset
from tests.conftest import SEQ_LENGTH, VOCAB_SIZE, prepare_small, small_config


def planned(name="small", **changes):
    config = preset(name)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return make_plan(config)


@pytest.mark.parametrize("name", PRETRAINING.names())
def test_presets_fit_a_page_and_json(name):
    plan = planned(name)
    text = to_text(plan, name)
    assert text.startswith(f"{name}: ") and text.count("\n") < 45
    assert max(map(len, text.splitlines())) <= 150
    assert f"{plan.parameters.discriminator:,}" in text and f"{plan.parameters.trained:,}" in text
    found = json.loads(json.dumps(to_json(plan, name), allow_nan=False))
    assert found["parameters"]["trained"] == plan.parameters.trained
    rows = [(row["device"], row["num_devices"]) for row in found["devices"]]
    assert rows[:3] == [("A100 80 GB", number) for number in (1, 8, 256)]
    assert found["vocab_size_is_assumed"]


def test_columns_of_memory_are_wide_enough_and_small_models_are_told_in_mib():
    lines = to_text(planned("tiny"), "tiny").splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("MiB of one accelerator that makes the"))
    head, *rows = lines[start + 1 : lines.index("", start)]
    assert all(int(row.split()[-1].replace(",", "")) >= 10_000 for row in rows)
    ends = [match.end() for match in re.finditer(r"\S+", head)][-5:]
    for row in rows:
        assert [match.end() for match in re.finditer(r"\S+", row)][-5:] == ends
    (phase,) = planned("tiny").phases
    assert rows[0].split()[-5] == f"{phase.memory[0].memory.peak / 2**20:.1f}"
    (checkpoints,) = (line for line in lines if line.startswith("checkpoints"))
    assert " MiB each; " in checkpoints and float(checkpoints.split()[1]) > 1
    small = to_text(planned("small"), "small")
    assert "\nGiB of one accelerator that makes" in small and "\nMiB" not in small


def test_operations_of_the_paper():
    (phase,) = planned("small").phases
    assert phase.paper_flops == pytest.approx(1.29e18, rel=5e-3)
    assert phase.parameter_flops == 6 * planned("small").parameters.trained * 1e6 * 128 * 128
    assert phase.num_positions == 1e6 * 128 * 128 and phase.num_epochs is None


def test_rows_of_devices_agree_with_each_other():
    plan = planned("base", runtime__precision="mixed_bfloat16")
    rows = {(row.device.name, row.num_devices): row for row in plan.devices}
    one, eight = rows["A100 80 GB", 1], rows["A100 80 GB", 8]
    assert one.scaling == 1.0 and 0.5 < eight.scaling <= 1.0
    assert one.seconds / eight.seconds == pytest.approx(8 * eight.scaling)
    assert eight.dollars == pytest.approx(8 * 2.0 * eight.seconds / 3600)
    assert one.positions_per_second * one.seconds == pytest.approx(766_000 * 256 * 512)
    assert one.of_peak == pytest.approx(sum(phase.matmul_flops for phase in plan.phases) / one.seconds / 312e12)
    # 256 examples on 256 devices: one each.
    assert rows["A100 80 GB", 256].placements[0].num_parts == 1


def test_what_does_not_fit_names_the_key():
    text = to_text(planned("large"), "large")
    assert "train.gradient_accumulation_steps=" in text
    assert "config.runtime.precision=mixed_bfloat16 would be" in text
    assert "a batch of 128 cannot be divided: make it a multiple of 256" in to_text(planned("small"), "small")


def test_what_stands_against_all_devices_is_told_once():
    text = to_text(planned("tiny", train__global_batch_size=100), "x")
    assert text.count("cannot be divided") == 2
    assert "\nany of them             8  a batch of 100 cannot be divided: make it a multiple of 8\n" in text
    # One device of each kind, and this CPU, which has no price.
    assert [line.split()[0] for line in text.splitlines() if "elementwise" in line] == [
        "A100", "H100", "TPU", "TPU", "L4", "CPU"]  # fmt: skip
    (cpu,) = [line for line in text.splitlines() if line.startswith("CPU here")]
    assert " -  " in cpu


def test_phases_are_told_one_by_one():
    plan = planned(
        "base",
        train__num_steps=1000,
        phases__num_steps=(900, 100),
        phases__max_seq_length=(128, 512),
        phases__global_batch_size=(1024, 256),
        runtime__precision="mixed_bfloat16",
    )
    assert [phase.num_positions for phase in plan.phases] == [900 * 1024 * 128, 100 * 256 * 512]
    alone = planned("base", train__num_steps=100, train__global_batch_size=256, runtime__precision="mixed_bfloat16")
    assert plan.phases[1].paper_flops == pytest.approx(alone.phases[0].paper_flops)
    first = planned("base", train__num_steps=900, train__global_batch_size=1024, data__max_seq_length=128,
                    runtime__precision="mixed_bfloat16")  # fmt: skip
    assert plan.devices[0].seconds == pytest.approx(alone.devices[0].seconds + first.devices[0].seconds)
    text = to_text(plan, "mine")
    assert "phase 1       900 steps x 1,024 examples" in text and "2: bfloat16 and remat" in text
    assert text.count("\n") < 45


def test_data_tells_vocabulary_and_epochs(data_dir):
    config = small_config(data_dir)
    plan = make_plan(config)
    (phase,) = plan.phases
    assert plan.config.derived.vocab_size == phase.data.vocab_size == VOCAB_SIZE and not plan.assumes_vocab_size
    assert phase.num_epochs == 12 * 8 / phase.data.num_examples
    assert phase.real_tokens == pytest.approx(phase.num_epochs * phase.data.real_tokens)
    text = to_text(plan, "x")
    assert f"epochs of {phase.data.num_examples:,} examples in {phase.data.num_shards} shard" in text
    assert "pass over the same text" not in text
    config.train.num_steps = 12_000
    assert "pass over the same text teaches less than the one before" in to_text(make_plan(config), "x")


def test_data_of_another_length_or_vocabulary(data_dir, corpus_file, tmp_path):
    config = small_config(data_dir)
    config.data.max_seq_length = 16
    with pytest.raises(UserError, match=f"holds examples of {SEQ_LENGTH} tokens but config.data.max_seq_length=16"):
        make_plan(config)
    config = small_config(data_dir)
    config.model.vocab_size = 99
    with pytest.raises(UserError, match=r"config\.model\.vocab_size=99 but the vocabulary"):
        make_plan(config)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat"]) + "\n")
    other, _ = prepare_small(corpus_file, tmp_path / "other", vocab_file=tmp_path / "vocab.txt")
    config = small_config(data_dir)
    config.phases.num_steps, config.phases.data_dir = (6, 6), (str(data_dir), str(other))
    with pytest.raises(UserError, match=r"phases\.data_dir: vocabularies of 7 and 160 entries"):
        make_plan(config)


def test_a_directory_of_any_name_is_data(data_dir, tmp_path, monkeypatch):
    (tmp_path / "DATA").symlink_to(data_dir)
    monkeypatch.chdir(tmp_path)
    config = small_config("DATA")
    assert make_plan(config).phases[0].data is not None and not make_plan(config).assumes_vocab_size
    config.data.dir = ""
    assert make_plan(config).phases[0].data is None and make_plan(config).assumes_vocab_size


def test_data_of_others_is_not_counted(tmp_path):
    tmp_path = tmp_path / "validation_free"
    tmp_path.mkdir()
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]) + "\n")
    for name in ("pretrain_data.tfrecord-0", "pretrain_data.tfrecord-1", "validation.tfrecord-0"):
        (tmp_path / name).write_bytes(b"")
    found = find_data(str(tmp_path), 128).size
    assert (found.vocab_size, found.num_shards, found.num_examples) == (6, 2, None)
    config = preset("tiny")
    config.data.dir = str(tmp_path)
    assert "2 shards without manifest" in to_text(make_plan(config), "tiny")


def test_objectives_are_named():
    assert "no generator" in to_text(planned("tiny", objective__uniform_generator=True), "x")
    assert "one network for both" in to_text(planned("tiny", objective__tied_generator=True), "x")
    assert "masked language modeling" in to_text(planned("small_mlm"), "x")
