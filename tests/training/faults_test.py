"""What happens to machines and files, inflicted on runs in processes of their own, which go on as if it had not."""

import collections
import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time

import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from electra_cli.config import default_config
from electra_cli.config.fields import flatten
from electra_cli.config.resolution import resolve
from electra_cli.data.input_pipeline import _shard_order, locate_example, parse_split
from electra_cli.data.source import open_data
from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.data.vocabulary import SPECIAL_TOKENS, Vocabulary, WordRules
from electra_cli.errors import UserError
from electra_cli.modeling.randomness import DROPOUT_VERSION
from electra_cli.workdir.run_files import check_config, read_metrics
from electra_cli.workdir.workdir import Workdir, changed_devices
from tests.conftest import prepare_small, small_config
from tests.training.loop_test import assert_same_run, metrics_of, weights_of
from tests.training.processes import Run, clock_set_back, limit_files, slow_disk, without_coverage
from tests.training.survival_test import steps_in

pytestmark = pytest.mark.slow

NUM_KILLS = 20
SECONDS_TO_STOP = 30.0  # from the end of the step under way to the end of the process


class Starter:
    """Starts runs of a config in a workdir."""

    def __init__(self, config, workdir, logs=None):
        self.config, self.workdir = config, workdir
        self._logs = logs or workdir.parent / f"{workdir.name}.logs"
        self._logs.mkdir()
        default = flatten(default_config())
        self._keys = {key: value for key, value in flatten(config).items() if value != default[key]}

    def elsewhere(self, workdir):
        """Returns what starts the same runs in another workdir."""
        return Starter(self.config, workdir)

    def start(self, *faults, mode="train_and_eval", **changes) -> Run:
        """Starts a process with other values of some keys (`train__seed` is train.seed)."""
        keys = {**self._keys, **{key.replace("__", "."): value for key, value in changes.items()}}
        flags = [f"--config.{key}={value}" for key, value in keys.items()]
        return Run(["--config=small", *flags, f"--workdir={self.workdir}", f"--mode={mode}"], self._logs, *faults)

    def finish(self, *faults, **changes) -> Run:
        """Starts a process, which must end well."""
        run = self.start(*faults, **changes)
        assert run.end() == 0, run.output + run.errors
        assert run.errors == "" and " is damaged (" not in run.output
        return run

    def fail(self, *faults, **changes) -> str:
        """Starts a process that must end as at a mistake of the user's, and returns the one line that it tells."""
        run = self.start(*faults, **changes)
        assert run.end() == 2, run.output + run.errors
        return told(run)


def told(run):
    """Returns the one line that a run that has ended told on standard error."""
    assert run.errors.count("\n") == 1 and run.errors.startswith("electra-pretrain: "), run.errors
    return run.errors.strip()


@pytest.fixture(scope="session")
def data(corpus_file, made_once):
    """Prepared data of some twenty shards, of which a run of 12 steps reads a few."""
    return made_once("shards", lambda root: prepare_small(corpus_file, root / "data", shard_size_mb=0.0006)) / "data"


def quick_config(data_dir):
    """Twelve steps, saved every two and evaluated every four, of the network that is quickest to build."""
    config = small_config(data_dir)
    config.objective.name = "mlm"
    config.model.num_layers = 1
    config.model.generator_size = default_config().model.generator_size
    config.train.checkpoint_interval, config.train.keep_checkpoints = 2, 10
    config.eval.interval = 4
    return config


@pytest.fixture(scope="session")
def whole(data, made_once):
    """The run of that config that was never disturbed."""
    workdir = made_once("undisturbed", lambda root: Starter(quick_config(data), root / "run").finish()) / "run"
    assert steps_in(workdir / "checkpoints") == [2, 4, 6, 8, 10, 12]
    return workdir


@pytest.fixture
def begun(whole, data, tmp_path):
    """Begins a run: a workdir as it was after step 6."""

    def begin(workdir=tmp_path / "run", data_dir=data, undisturbed=whole):
        shutil.copytree(undisturbed, workdir)
        for path in (workdir / "checkpoints").glob("ckpt-*"):
            if int(re.match(r"ckpt-(\d+)", path.name)[1]) > 6:
                path.unlink()
        file = workdir / "metrics.jsonl"
        kept = [line for line in file.read_text().splitlines() if json.loads(line)["step"] <= 6]
        file.write_text("".join(f"{line}\n" for line in kept))
        return Starter(quick_config(data_dir), workdir, tmp_path / f"{workdir.name}.logs")

    return begin


@dataclasses.dataclass
class Moment:
    """When to kill: behind the beginning of something, by a share of the time that it usually takes."""

    stage: str
    occurrence: int
    share: float
    in_background: bool

    def kill(self, starter: Starter, usual: dict[str, float]) -> Run:
        run = starter.start(slow_disk, without_coverage, train__async_checkpoints=self.in_background)
        assert self.stage == "starting" or run.wait_for(self.stage, self.occurrence), "the run was done before"
        # At most until two more are saved, or a machine that is slow at times would be done before the last kill.
        run.let_pass(self.share * usual[self.stage], max_saved=2)
        run.send(signal.SIGKILL)
        assert run.end() == -signal.SIGKILL, run.output + run.errors
        assert run.errors == ""
        return run


def draw_moments(seed):
    """Draws when to kill: the first time before anything is saved, then in any order."""
    rng = random.Random(seed)
    stages = ["starting"] * 4 + ["computing"] * 3 + ["evaluating"] * 3 + ["saving"] * 9
    rng.shuffle(stages)
    moments = []
    for stage in ["starting", *stages]:
        in_background = rng.random() < 0.5
        # The first checkpoint of a process is written in the foreground; the first step is part of starting.
        later = stage == "computing" or (stage == "saving" and in_background)
        moments.append(Moment(stage, 2 if later else 1, rng.random(), in_background))
    return moments


@pytest.fixture(scope="module")
def long(data, tmp_path_factory):
    """A longer run that keeps the best, never disturbed: what started it, and its process."""
    config = quick_config(data)
    config.train.num_steps, config.eval.interval = 48, 6
    config.train.keep_checkpoints, config.train.keep_every_steps = 2, 8
    config.train.best_metric = "masked_lm_loss"
    starter = Starter(config, tmp_path_factory.mktemp("long") / "run")
    return starter, starter.finish(slow_disk)


def assert_same_workdir(first, second):
    """Checks that two runs have made and kept the same."""
    assert_same_run(first, second)
    for directory in ("checkpoints", "checkpoints/best"):
        names = [sorted(path.name for path in (workdir / directory).iterdir()) for workdir in (first, second)]
        assert names[0] == names[1]
    records = [(workdir / "checkpoints" / "best" / "best.json").read_text() for workdir in (first, second)]
    assert records[0] == records[1]


def test_killed_at_twenty_random_moments_equals_never_killed(long, tmp_path):
    whole, undisturbed = long
    usual = {name: sum(times) / len(times) for name in ("computing", "saving", "evaluating")
             for times in [undisturbed.seconds(name)[1:]]}  # fmt: skip
    begin = next(when for note, when in undisturbed.noted if note == "end computing")
    usual["starting"] = begin - undisturbed.started

    starter = whole.elsewhere(tmp_path / "run")
    killed_in: collections.Counter[str] = collections.Counter()
    saved = 0
    for number, moment in enumerate(draw_moments(seed=5), 1):
        run = moment.kill(starter, usual)
        going_on = re.search(r"Resuming from step (\d+)\.", run.output)
        if going_on:
            # Nothing that was saved is lost; the checkpoint that the kill before fell into may count or not.
            assert saved <= int(going_on[1]) <= saved + 2
        elif saved:
            # It was killed before it said so; an evaluation that is due comes first, and saving what is best by it.
            assert run.doing <= {"evaluating", "saving"}
        assert " is damaged (" not in run.output
        stage = "+".join(sorted(run.doing)) or ("starting" if not run.noted else "between")
        killed_in.update(run.doing or [stage])
        saved = max([saved, int(going_on[1]) if going_on else 0, *run.saved])
        print(f"kill {number:2}: {'background' if moment.in_background else 'foreground'} {stage:22} saved {saved}")
    assert sum(killed_in.values()) >= NUM_KILLS
    assert killed_in["saving"] >= 3 and killed_in["evaluating"] >= 1, killed_in
    assert killed_in["starting"] + killed_in["computing"] >= 2, killed_in

    going_on = re.search(r"Resuming from step (\d+)\.", starter.finish().output)
    assert saved <= (int(going_on[1]) if going_on else 0) <= saved + 2
    assert_same_workdir(whole.workdir, starter.workdir)


# Of runs one after the other: what is under way when the signal comes, how many times it has begun, the seconds since
# then, and keys.
STOPS = {
    "the first step is compiled": ("computing", 1, 0.5, {}),
    "saving the best": ("saving", 4, 0.02, {}),  # after steps 2, 4 and 6, when that is evaluated
    "evaluating": ("evaluating", 1, 0.0, {}),
    "saving": ("saving", 2, 0.02, {}),  # after the best of the evaluation that was stopped
    "saving in the background": ("saving", 2, 0.02, {"train__async_checkpoints": True}),
}


def test_sigterm_loses_nothing_whatever_is_under_way(long, tmp_path):
    starter = long[0].elsewhere(tmp_path / "run")
    stopped = None
    for name, (stage, occurrence, seconds, changes) in STOPS.items():
        run = starter.start(functools.partial(slow_disk, 0.05), **changes)
        assert run.wait_for(stage, occurrence), name
        time.sleep(seconds)
        sent = run.send(signal.SIGTERM)
        assert run.end() == 75, name + run.output + run.errors
        assert stage in run.doing_at(sent), f"{name}: the signal came when it was over"
        line = re.fullmatch(
            r"electra-pretrain: stopped by SIGTERM (at|while evaluating) step (\d+); "
            r"saved: the same command resumes from there",
            told(run),
        )
        assert line, told(run)
        step_end = next(when for note, when in run.noted if note == "end computing")
        assert run.ended - max(sent, step_end) < SECONDS_TO_STOP
        assert steps_in(starter.workdir / "checkpoints")[-1] == int(line[2])
        assert stopped is None or f"Resuming from step {stopped}." in run.output
        stopped = line[2]
        print(f"SIGTERM while {name}: {told(run)} after {run.ended - sent:.2f} s")
    assert f"Resuming from step {stopped}." in starter.finish().output
    assert_same_workdir(long[0].workdir, starter.workdir)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets a test mount nothing")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk, bytes_left):
    status = os.statvfs(disk)
    with open(disk / "ballast", "wb") as stream:
        stream.write(bytes(status.f_bavail * status.f_bsize - bytes_left))


def content_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_a_disk_full_while_something_is_written_loses_nothing(whole, begun, small_disk):
    starter = begun(small_disk / "run")

    # The config.
    before = content_of(starter.workdir)
    fill(small_disk, 0)
    message = starter.fail(train__log_interval=4)
    assert "config.json" in message and "No space left on device" in message
    assert content_of(starter.workdir) == before

    # A checkpoint.
    (small_disk / "ballast").unlink()
    checkpoints = starter.workdir / "checkpoints"
    before = content_of(checkpoints)
    assert len(before["ckpt-6.data-00000-of-00001"]) > 60_000
    fill(small_disk, 48_000)  # for config, metrics and TensorBoard
    message = starter.fail()
    assert "no checkpoint of step 8 could be written to" in message and "No space left on device" in message
    assert content_of(checkpoints) == before and [path for path in checkpoints.iterdir() if path.is_dir()] == []

    # Metrics.
    (small_disk / "ballast").unlink()
    run = starter.start()
    assert run.wait_for("computing")
    fill(small_disk, 0)
    assert run.end() == 2, run.output + run.errors
    assert re.search(r"metrics of step \d+ could not be written to .*No space left on device", told(run)), told(run)

    (small_disk / "ballast").unlink()
    assert "Resuming from step 6." in starter.finish().output
    assert_same_run(whole, starter.workdir)


def test_a_write_that_fails_while_saving_leaves_the_checkpoints_before(whole, begun):
    """The same on machines that let a test mount nothing: the kernel refuses to let a file grow."""
    starter = begun()
    before = content_of(starter.workdir / "checkpoints")
    faults = (functools.partial(limit_files, 32_000), without_coverage)  # whose file would grow beyond it
    message = starter.fail(*faults, train__async_checkpoints=True)
    assert "no checkpoint of step 8 could be written to" in message and "File too large" in message
    assert content_of(starter.workdir / "checkpoints") == before
    assert "Resuming from step 6." in starter.finish().output
    assert_same_run(whole, starter.workdir)


def test_a_clock_that_is_set_back_changes_nothing(whole, begun):
    starter = begun()
    for step, seconds in ((2, 4_000_000_000), (4, 2_000_000_000), (6, 1_000_000_000)):  # 2096, 2033, 2001
        for path in (starter.workdir / "checkpoints").glob(f"ckpt-{step}.*"):
            os.utime(path, (seconds, seconds))
    for name in ("config.json", "metrics.jsonl", "checkpoints/checkpoint"):
        os.utime(starter.workdir / name, (4_000_000_000, 4_000_000_000))
    run = starter.finish(clock_set_back)
    assert "Resuming from step 6." in run.output
    assert_same_run(whole, starter.workdir)
    rates = [line["tokens_per_second"] for line in read_metrics(str(starter.workdir)) if line["split"] == "train"]
    usual = [line["tokens_per_second"] for line in read_metrics(str(whole)) if line["split"] == "train"]
    assert len(rates) == 6
    assert usual[-1] / 30 < rates[-1] < usual[-1] * 30
    left = re.findall(r"tokens/s  (.*) left", run.output)
    assert left and left[-1] == "0s" and all(re.fullmatch(r"\d+s", text) for text in left)


def test_a_second_run_in_a_workdir_ends_and_does_not_disturb_the_first(whole, data, tmp_path):
    starter = Starter(quick_config(data), tmp_path / "run")
    first = starter.start(slow_disk)
    assert first.wait_for("computing")
    assert starter.fail() == (
        f"electra-pretrain: error: --workdir={starter.workdir}: another process trains here; wait for it or choose "
        f"another directory"
    )
    assert starter.fail(train__log_interval=4).endswith("choose another directory")
    assert first.wait_for("saving", 2)
    reader = starter.start(mode="eval")  # evaluating takes no lock
    assert reader.end() == 0, reader.errors
    assert re.search(r"Held-out evaluation at step \d+ on 20 examples", reader.output)
    assert first.end() == 0 and first.errors == ""
    assert_same_run(whole, starter.workdir)
    assert "Held-out evaluation at step 12" in starter.finish().output  # the lock is gone with the process


def cut(file):
    file.write_bytes(file.read_bytes()[:-20])


def flip(file):
    content = bytearray(file.read_bytes())
    content[100] ^= 4  # within the first example
    file.write_bytes(content)


def shard_of_step(data_dir, step):
    """Returns the file that the first example of a step lies in."""
    split = open_data(str(data_dir), quick_config(data_dir).data.max_seq_length).train
    config = quick_config(data_dir)
    slot, _ = locate_example(split.examples, config.train.seed, step * config.train.global_batch_size)
    assert slot < len(split.files)  # of the first epoch
    return pathlib.Path(split.files[int(_shard_order(len(split.files), config.train.seed, 0)[slot])])


# One after the other: the step that reads the file (None: evaluation), what is done to it, and what is told, the first
# of prepared data, the second of TFRecords of others.
SHARD_FAULTS = {
    "cut": (9, cut, ["{} has [0-9,]+ bytes, not [0-9,]+: copy it again", "{} is cut off or no TFRecord file"]),
    "removed": (9, pathlib.Path.unlink, ["{} is missing: copy it again", "other data than config.data.dir="]),
    "held out, altered": (None, flip, [r"failed in evaluation: {} is damaged \(.*\); copy it again"] * 2),
    "altered": (
        9,
        flip,
        [r"between steps (8 and 9|8 and 10|9 and 10): {} is damaged \(.*\); copy it again"] * 2,
    ),
}


def test_damaged_shards_are_named_and_not_trained_on(whole, data, begun, foreign, tmp_path):
    def damage_and_mend(kind):
        source, undisturbed = (data, whole) if kind == "prepared" else foreign
        copy = tmp_path / f"{kind}_data"
        shutil.copytree(source, copy)
        starter = begun(tmp_path / kind, copy, undisturbed)
        for name, (step, inflict, messages) in SHARD_FAULTS.items():
            file = shard_of_step(copy, step) if step else min(copy.glob("validation-*"))
            content = file.read_bytes()
            before = content_of(starter.workdir / "checkpoints")
            inflict(file)
            line = starter.fail()
            print(f"{kind} shard {name}: {line}")
            assert re.search(messages[kind == "foreign"].format(file), line), line
            # What was computed before is as in the run that was not disturbed; of the damaged shard, nothing.
            expected = metrics_of(undisturbed)
            assert metrics_of(starter.workdir) == expected[: len(metrics_of(starter.workdir))]
            steps = steps_in(starter.workdir / "checkpoints")
            assert steps == ([2, 4, 6, 8] if "altered" in name else [2, 4, 6])
            after = content_of(starter.workdir / "checkpoints")
            assert all(after[kept] == before[kept] for kept in before if kept != "checkpoint")
            file.write_bytes(content)
        assert "Resuming from step 8." in starter.finish().output
        assert_same_run(undisturbed, starter.workdir)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(damage_and_mend, ["prepared", "foreign"]))


@pytest.fixture(scope="module")
def foreign(data, tmp_path_factory):
    """The same examples as google-research/electra writes them, without a manifest, and a run on them."""
    target = tmp_path_factory.mktemp("foreign")
    source = open_data(str(data), quick_config(data).data.max_seq_length)
    (target / "data").mkdir()
    shutil.copy(data / "vocab.txt", target / "data")
    names = {"input_word_ids": "input_ids", "input_mask": "input_mask", "input_type_ids": "segment_ids"}
    for split in (source.train, source.validation):
        for file in split.files:
            records = tf.data.TFRecordDataset(file, compression_type=split.compression).batch(1000).get_single_element()
            batch = parse_split(records, split, quick_config(data).data.max_seq_length, source.vocabulary.pad_id)
            with tf.io.TFRecordWriter(str(target / "data" / pathlib.Path(file).name)) as writer:
                for row in range(len(records)):
                    features = {
                        theirs: tf.train.Feature(int64_list=tf.train.Int64List(value=batch[ours][row].numpy()))
                        for ours, theirs in names.items()
                    }
                    example = tf.train.Example(features=tf.train.Features(feature=features))
                    writer.write(example.SerializeToString())
    Starter(quick_config(target / "data"), target / "run").finish()
    return target / "data", target / "run"


CHANGEABLE = re.compile(
    r"data\.dir|phases\.data_dir|model\.remat|train\.(log_interval|checkpoint_interval|steps_per_loop|keep_checkpoints|"
    r"keep_every_steps|best_metric|async_checkpoints|histograms)|(eval|watch)\..*|init\.(checkpoint|generator|"
    r"vocab_file)|"
    r"runtime\.(strategy|worker_addresses|worker_index|tpu|logical_cpus|jit_compile|attention)"
)


def another(value):
    """Returns another value of the same type."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case tuple():
            return (*value, 3)
        case None:
            return 7
    raise TypeError(value)


UNREAD = " (not read: the run resumes from its own checkpoint, if it has any)"


def adopt(workdir, config):
    """Does what a start does with its config; returns the differences that it lists."""
    differences = check_config(workdir.path, config, "fingerprint") + changed_devices(workdir.path, config, "CPU")
    workdir.write_config(config, "fingerprint", "CPU", TokenizerSettings(Vocabulary(SPECIAL_TOKENS), WordRules(True)))
    return differences


def test_every_key_may_be_changed_or_is_refused_with_the_difference(data, tmp_path):
    resolved = resolve(quick_config(data), 160)
    keys = [key for key in flatten(resolved) if not key.startswith("derived.")]
    assert {key for key in keys if CHANGEABLE.fullmatch(key)} > {"eval.interval", "data.dir", "runtime.tpu"}
    with Workdir(str(tmp_path)) as workdir:
        assert adopt(workdir, resolved) == []
        for key in keys:
            changed = ml_collections.ConfigDict(resolved.to_dict())
            section, name = key.split(".")
            before = changed[section][name]
            with changed.ignore_type():
                changed[section][name] = another(before)
            changed = ml_collections.FrozenConfigDict(changed)
            difference = f"{key}: {json.dumps(before)} -> {json.dumps(another(before))}"
            record = (tmp_path / "config.json").read_text()
            if CHANGEABLE.fullmatch(key):
                assert adopt(workdir, changed) == [difference + (UNREAD if section == "init" else "")]
                assert (tmp_path / "config.json").read_text() != record  # what the run is now
                assert len(adopt(workdir, resolved)) == 1
            else:
                with pytest.raises(UserError, match=f"another config: {re.escape(difference)}; give the old values"):
                    adopt(workdir, changed)
            assert (tmp_path / "config.json").read_text() == record


@pytest.mark.parametrize("rate", [0.1, 0.0])
def test_other_masks_of_dropout_are_reported_once(data, tmp_path, rate):
    config = quick_config(data)
    config.model.hidden_dropout, config.model.attention_dropout = rate, 0.0
    resolved = resolve(config, 160)
    with Workdir(str(tmp_path)) as workdir:
        assert adopt(workdir, resolved) == []
        record = json.loads((tmp_path / "config.json").read_text())
        assert record.pop("dropout_version") == DROPOUT_VERSION  # runs of earlier versions have none
        (tmp_path / "config.json").write_text(json.dumps(record))
        expected = [
            "dropout: its masks follow from the seed in another way than in the version that wrote this workdir"
        ]
        assert adopt(workdir, resolved) == (expected if rate else [])
        assert adopt(workdir, resolved) == []


def test_all_that_may_change_at_once_changes_no_weight(whole, data, begun, tmp_path):
    shutil.copytree(data, tmp_path / "moved")
    starter = begun()
    changes = {
        "data.dir": str(tmp_path / "moved"),
        "train.log_interval": 4,
        "train.checkpoint_interval": 3,
        "train.steps_per_loop": 1,
        "train.keep_checkpoints": 3,
        "train.keep_every_steps": 6,
        "train.best_metric": "masked_lm_accuracy",
        "train.async_checkpoints": True,
        "eval.interval": 3,
        "eval.num_examples": 10,
        "watch.max_nonfinite_steps": 5,
        "watch.spike_factor": 1000.0,
        "watch.max_rollbacks": 1,
        "runtime.strategy": "one_device",
    }
    output = starter.finish(**{key.replace(".", "__"): value for key, value in changes.items()}).output
    listed = re.findall(r"^Changed since the run began: (\S+): (.*) -> (.*)$", output, re.M)
    assert {key: json.loads(new) for key, _, new in listed} == changes
    assert steps_in(starter.workdir / "checkpoints") == [6, 9, 12]
    lines = metrics_of(starter.workdir)
    assert [line["step"] for line in lines if line["split"] == "train"] == [2, 4, 6, 8, 12]
    expected, found = weights_of(whole), weights_of(starter.workdir)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if name.startswith(("model", "encoder", "optimizer")):
            np.testing.assert_array_equal(value, found[name], err_msg=name)
    # One that may not, amid those that may: the difference is told, and nothing changes.
    before = content_of(starter.workdir)
    message = starter.fail(**{"eval__interval": 6, "optimizer__learning_rate": 0.01, "train__num_steps": 14})
    assert "optimizer.learning_rate: 0.005 -> 0.01; train.num_steps: 12 -> 14; give the old values" in message
    assert content_of(starter.workdir) == before


def test_metrics_with_a_line_that_is_none_or_cut_in_the_middle(whole, begun):
    starter = begun()
    file = starter.workdir / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([b"\0" * 300 + b"\n", *lines]))
    before = content_of(starter.workdir)
    assert "metrics.jsonl" in starter.fail()
    assert content_of(starter.workdir) == before
    assert json.loads(lines[-1])["step"] == 6
    file.write_bytes(b"".join(lines)[:-100])
    starter.finish()
    # The checkpoint is beyond the line: it cannot be computed again, and the others are intact.
    expected = [line for line in metrics_of(whole) if (line["step"], line["split"]) != (6, "train")]
    assert metrics_of(starter.workdir) == expected
    assert weights_of(starter.workdir).keys() == weights_of(whole).keys()


def test_a_config_emptied_and_checkpoints_replaced_by_a_file(whole, begun):
    starter = begun()
    file = starter.workdir / "config.json"
    content = file.read_bytes()
    file.write_bytes(b"")
    before = content_of(starter.workdir)
    assert re.search(r"config\.json is damaged .*another --workdir", starter.fail())
    assert "config.json is damaged" in starter.fail(mode="eval")
    assert content_of(starter.workdir) == before
    file.write_bytes(content)

    checkpoints = starter.workdir / "checkpoints"
    checkpoints.rename(starter.workdir / "away")
    checkpoints.write_text("x")
    before = content_of(starter.workdir)
    assert re.search(rf"{checkpoints} is no directory", starter.fail())
    assert content_of(starter.workdir) == before  # metrics too, which belong to checkpoints that may be elsewhere
    assert "is no directory" in starter.fail(mode="eval")
    checkpoints.unlink()
    (starter.workdir / "away").rename(checkpoints)
    assert "Resuming from step 6." in starter.finish().output
    assert_same_run(whole, starter.workdir)


def test_a_workdir_that_is_read_only(begun, small_disk):
    starter = begun(small_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    message = starter.fail()
    assert f"--workdir={starter.workdir} cannot be written" in message and "Read-only file system" in message
    evaluated = starter.start(mode="eval")
    assert evaluated.end() == 0, evaluated.errors
    assert "Held-out evaluation at step 6 on 20 examples" in evaluated.output
