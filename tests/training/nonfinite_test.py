"""Steps that are not finite: left out or the end of a run, kept, and computed again; spikes of the loss are undone."""

import json

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.data import input_pipeline
from electra_cli.data.input_pipeline import training_dataset
from electra_cli.data.source import read_run
from electra_cli.errors import UserError
from electra_cli.loggers.lines import Lines
from electra_cli.objectives.mlm import MaskedLMObjective
from electra_cli.training import loop, replay
from tests.graphs import without_graphs
from tests.training.loop_test import assert_same_run, events_of, metrics_of, train, weights_of
from tests.training.steps_test import SCHEDULES
from tests.training.survival_test import tiny_config

pytestmark = pytest.mark.slow

BAD_ROW = 3


@pytest.fixture
def config(data_dir):
    return tiny_config(data_dir)


def poison(monkeypatch, *bad_data_steps):
    """Makes an example of the batches of these steps (counted from 0) one whose loss is NaN."""

    def poisoned(*arguments, start_step, **more):
        def spoil(step, batch):
            is_bad = tf.reduce_any(step == tf.constant(bad_data_steps, tf.int64))
            rows = tf.range(tf.shape(batch["masked_lm_weights"])[0])[:, tf.newaxis]
            weights = tf.where(is_bad & (rows == BAD_ROW), np.nan, batch["masked_lm_weights"])
            return {**batch, "masked_lm_weights": tf.ensure_shape(weights, batch["masked_lm_weights"].shape)}

        return training_dataset(*arguments, start_step=start_step, **more).enumerate(start_step).map(spoil)

    monkeypatch.setattr(input_pipeline, "training_dataset", poisoned)


def test_it_ends_the_run_at_once_and_is_explained(config, data_dir, tmp_path, monkeypatch):
    poison(monkeypatch, 4)  # step 5, the first of a call of two
    message = (
        r"step 5: the loss or gradient of replica 0 is infinite or NaN; kept in .*nonfinite/ckpt-5 for --mode=replay\. "
        r"Begin a run with a lower .* \(the last checkpoint here is of step 4\), or allow .*max_nonfinite_steps, now 0"
    )
    with pytest.raises(UserError, match=message):
        train(config, tmp_path, with_evaluation=False)
    assert [line["step"] for line in metrics_of(tmp_path)] == [2, 4]
    record = json.loads((tmp_path / "nonfinite" / "ckpt-5.json").read_text())
    assert record == {"step": 5, "data_step": 4, "phase": 1, "num_replicas": 1, "nonfinite_replicas": [0]}
    before, kept = weights_of(tmp_path), weights_of_bundle(tmp_path / "nonfinite" / "ckpt-5")
    names = kept.keys() & before.keys()
    assert len(names) > 15
    for name in names:
        np.testing.assert_array_equal(kept[name], before[name], err_msg=name)  # of step 4: step 5 changed nothing

    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    lines = []
    assert replay.replay_step(config, str(tmp_path), Lines(lines.append))
    text = "\n".join(lines)
    assert "Replaying step 5: examples 32 to 39 of the training stream, on 1 replica(s); not finite: replica 0." in text
    assert "Weights before the step: all finite; the largest is" in text
    assert "Losses: 1 of 8 examples are not finite; the first:" in text
    worst = lines[lines.index("Losses: 1 of 8 examples are not finite; the first:") + 1]
    assert worst.startswith(f"  example {32 + BAD_ROW} (") and "masked_lm_loss nan" in worst and "[CLS]" in worst
    file, number = worst[worst.index("(") + 1 : worst.index(")")].split(", record ")
    assert_is_record(worst.split("masked_lm_loss nan  ")[1].split(), data_dir, file, int(number))
    assert "Gradients of replica 0: not finite for" in text
    assert "Not finite again." in text
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files

    # Without the cause the step is finite, and the run goes on.
    monkeypatch.undo()
    lines = []
    assert not replay.replay_step(config, str(tmp_path), Lines(lines.append))
    assert "Finite when computed again" in lines[-1]
    assert "Resuming from step 4." in train(config, tmp_path, with_evaluation=False)
    assert [line["step"] for line in metrics_of(tmp_path)] == [2, 4, 6]


@without_graphs()
def test_a_replayed_step_has_the_values_of_its_schedules(config, tmp_path, monkeypatch):
    config.update_from_flattened_dict({"objective.name": "electra", "train.global_batch_size": 4, **SCHEDULES})
    config.train.steps_per_loop = config.train.log_interval = 1
    with monkeypatch.context() as patch, pytest.raises(UserError, match="step 5: the loss or gradient"):
        poison(patch, 4)
        train(config, tmp_path, with_evaluation=False)
    lines = []
    assert not replay.replay_step(config, str(tmp_path), Lines(lines.append))
    train(config, tmp_path, with_evaluation=False)
    step = metrics_of(tmp_path)[4]
    assert step["step"] == 5 and step["discriminator_loss_weight"] < 20
    norms = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("Gradients of replica 0")]
    assert norms == pytest.approx([step["gradient_norm"]], rel=5e-3)
    losses = [float(line.split("rtd_loss ")[1].split()[0]) for line in lines if "  rtd_loss " in line]
    assert len(losses) == 4
    assert sum(losses) / step["real_tokens"] == pytest.approx(step["rtd_loss"], rel=1e-3)


def assert_is_record(shown, data_dir, file, number):
    """Checks that masked tokens are those of a record, as far as they are not masked."""
    dataset = tf.data.TFRecordDataset(file, compression_type="GZIP").skip(number).take(1)
    record = tf.train.Example.FromString(next(iter(dataset)).numpy())
    ids = record.features.feature["input_word_ids"].int64_list.value
    vocabulary = (data_dir / "vocab.txt").read_text().splitlines()
    tokens = " ".join(vocabulary[token] for token in ids).replace(" ##", "").split()
    pairs = [(first, second) for first, second in zip(shown, tokens, strict=False) if "[MASK]" not in first]
    assert len(pairs) > 5 and sum(first == second for first, second in pairs[:5]) >= 4


def weights_of_bundle(path):
    reader = tf.train.load_checkpoint(str(path))
    return {
        name.replace("model/encoder_network/", "encoder/"): reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith("model/") and name.endswith("VARIABLE_VALUE")
    }


def test_within_the_budget_its_update_is_left_out_and_it_goes_on(config, tmp_path, monkeypatch):
    poison(monkeypatch, 2, 4)
    config.watch.max_nonfinite_steps = 2
    lines = train(config, tmp_path / "whole", with_evaluation=False)
    told = [line for line in lines if "Warning" in line]
    assert len(told) == 2 and told[0].startswith("Warning, step 3: ") and "(1 of 2 allowed)" in told[0]
    losses = {line["step"]: line for line in metrics_of(tmp_path / "whole")}
    assert {step: line.get("skipped_updates", 0) for step, line in losses.items()} == {2: 0, 4: 1, 6: 1}
    assert all(np.isfinite(line["masked_lm_loss"]) for line in losses.values())
    assert all(np.isfinite(value).all() for value in weights_of(tmp_path / "whole").values())

    events = events_of(tmp_path / "whole")
    assert [(event["step"], event["replicas"]) for event in events if event["event"] == "nonfinite"] == [
        (3, [0]),
        (5, [0]),
    ]

    # The count outlives a stop: one more is one too many, whenever that comes.
    config.watch.max_nonfinite_steps = 1
    with pytest.raises(UserError, match=r"step 5: .*now 1"):
        train(config, tmp_path / "run", with_evaluation=False)
    with pytest.raises(UserError, match=r"step 5: .*now 1"):
        train(config, tmp_path / "run", with_evaluation=False)
    assert [event["event"] for event in events_of(tmp_path / "run")][-3:] == ["start", "nonfinite", "error"]
    config.watch.max_nonfinite_steps = 2
    lines = train(config, tmp_path / "run", with_evaluation=False)
    assert "Changed since the run began: watch.max_nonfinite_steps: 1 -> 2" in lines
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_weights_that_are_not_finite_are_not_saved(config, tmp_path):
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 3e38, 0
    config.train.steps_per_loop = config.train.checkpoint_interval = config.train.log_interval = 1
    with pytest.raises(UserError, match="step 1 made weights infinite or NaN; they are not saved"):
        train(config, tmp_path, with_evaluation=False)
    assert not list((tmp_path / "checkpoints").glob("ckpt-*"))


def test_a_spike_is_rolled_back_and_passed_over(config, tmp_path, monkeypatch):
    config.train.num_steps, config.train.log_interval, config.train.checkpoint_interval = 40, 2, 4
    config.watch.spike_factor, config.watch.max_rollbacks = 3.0, 1
    config.optimizer.warmup_steps = 2
    summarize = MaskedLMObjective.summarize
    spikes = {}

    def summarize_spike(self, sums):
        # By the examples: their tokens tell that it is a certain interval without a roll-back.
        values = summarize(self, sums)
        if float(sums["real_tokens"]) == spikes.get("tokens"):
            values["total_loss"] *= 10
        return values

    config.data.mask_prob_end = 0.3
    step, spikes["tokens"] = find_interval(config)
    restored = (step - 2) // 4 * 4
    monkeypatch.setattr(MaskedLMObjective, "summarize", summarize_spike)
    built = []
    with monkeypatch.context() as patch:
        build = loop.build_train_steps
        patch.setattr(loop, "build_train_steps", lambda *arguments: built.append(0) or build(*arguments))
        read, opened = loop.training_batches, []
        patch.setattr(loop, "training_batches", lambda *arguments: opened.append(arguments[2:]) or read(*arguments))
        lines = train(config, tmp_path / "run", with_evaluation=False)
    assert opened == [(0, 0), (step, step - restored)]  # as examples, and those of them that were skipped
    assert len(built) == 1  # what is compiled takes minutes on an accelerator
    told = [line for line in lines if "rolled back" in line]
    assert len(told) == 1
    assert told[0].startswith(f"Warning, step {step}: total_loss ") and "is more than 3 times the median" in told[0]
    assert f"rolled back to step {restored}, from where it continues with other examples (1 of 1 times)." in told[0]
    (event,) = [event for event in events_of(tmp_path / "run") if event["event"] == "rollback"]
    assert (event["step"], event["restored_step"]) == (step, restored) and event["total_loss"] > 3 * event["median"]

    # Killed after the roll-back, before anything was saved: it is rolled back again, to the same end.
    def die(*_):
        raise KeyboardInterrupt

    train_phase = loop.train_phase
    with monkeypatch.context() as patch:
        patch.setattr(
            loop, "train_phase", lambda run, *rest: die() if run.step == restored else train_phase(run, *rest)
        )
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "killed", with_evaluation=False)
    lines = train(config, tmp_path / "killed", with_evaluation=False)
    assert any(f"rolled back to step {restored}" in line for line in lines)
    assert_same_run(tmp_path / "run", tmp_path / "killed")

    config.watch.max_rollbacks = 0
    with pytest.raises(
        UserError, match=r"total_loss .* after 0 roll-backs, all that config\.watch\.max_rollbacks allows"
    ):
        train(config, tmp_path / "ended", with_evaluation=False)
    ended, found = metrics_of(tmp_path / "ended"), metrics_of(tmp_path / "run")
    assert [line["step"] for line in found] == list(range(2, 41, 2))
    assert [line["step"] for line in ended] == list(range(2, step, 2))
    assert found[: restored // 2] == ended[: restored // 2]
    assert spikes["tokens"] not in [line["real_tokens"] for line in found]  # it continues with other examples


def find_interval(config):
    """Returns the last step of an interval of two, late in a run, and its real tokens, which no other interval has."""
    (phase,) = read_run(config).phases
    batches = training_dataset(
        phase.source.train,
        phase.masking,
        pad_id=0,
        max_seq_length=config.data.max_seq_length,
        global_batch_size=config.train.global_batch_size,
        seed=0,
        start_step=0,
    )
    counts = [int(batch["input_mask"].numpy().sum()) for batch in batches.take(config.train.num_steps + 4)]
    tokens = {step: counts[step - 2] + counts[step - 1] for step in range(2, len(counts) + 1, 2)}
    step = next(step for step in range(26, 40, 2) if list(tokens.values()).count(tokens[step]) == 1)
    return step, tokens[step]
