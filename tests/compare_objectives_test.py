"""scripts/compare_objectives.sh, with a stand-in for electra-pretrain, and once with the real one."""

import json
import os
import re
import stat
import subprocess
import sys
import time
import xml.etree.ElementTree

import pytest

from electra_cli.config.pretraining import PRETRAINING
from electra_cli.config.resolution import resolve
from electra_cli.objectives import costs
from tests import forking
from tests.conftest import VOCAB_SIZE
from tests.planning.common import load_script
from tests.scripts_test import SCRIPTS

# Writes the lines that a run would, with scores that follow from objective, seed and step.
STAND_IN = """#!{python}
import json, os, sys
flags = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
if os.environ.get("FAILS_AT_SEED") == flags["config.train.seed"]:
    sys.exit(75)
open({calls!r}, "a").write(json.dumps(flags) + "\\n")
os.makedirs(flags["workdir"], exist_ok=True)
total, interval = int(flags["config.train.num_steps"]), int(flags["config.eval.interval"])
with open(os.path.join(flags["workdir"], "metrics.jsonl"), "w") as stream:
    stream.write(json.dumps({{"step": total, "split": "train", "total_loss": 1.0}}) + "\\n")
    for step in [*range(interval, total, interval), total]:
        score = step / total / (2 if "mlm" in flags["workdir"] else 1) - 0.1 * int(flags["config.train.seed"])
        line = {{"step": step, "split": "probe", "trec/accuracy": score, "trec/accuracy_random": 0.25}}
        stream.write(json.dumps(line | {{"sts/spearman": -score, "sts/spearman_random": 0.0}}) + "\\n")
"""


# Writes what a fine-tuning would, with scores that follow from the step it starts from and its seed.
FINETUNING_STAND_IN = """#!{python}
import json, os, sys
flags = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
open({calls!r}, "a").write(json.dumps(flags) + "\\n")
os.makedirs(flags["workdir"], exist_ok=True)
step = 0 if flags["init"] == "random" else int(flags["init"].rpartition("-")[2])
scores = {{str(seed): {{"accuracy": 0.5, "f1": step / 1000 + seed / 10}} for seed in (0, 1)}}
splits = {{"validation": {{"seeds": {{"0": {{"accuracy": 9, "f1": 9}}}}}}, "test": {{"seeds": scores}}}}
with open(os.path.join(flags["workdir"], "scores.json"), "w") as stream:
    json.dump({{"primary_score": "f1", "splits": splits}}, stream)
"""


@pytest.fixture(scope="module")
def comparison():
    return load_script("comparison")


@pytest.fixture
def start(tmp_path, data_dir):
    """Starts the script with a stand-in for electra-pretrain; returns (process, what the stand-in was called with)."""
    calls = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    for name, text in (("electra-pretrain", STAND_IN), ("electra-finetune", FINETUNING_STAND_IN)):
        program = tmp_path / "bin" / name
        program.write_text(text.format(python=sys.executable, calls=str(calls)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def start(*flags, **environment):
        process = compare(
            f"--data={data_dir}", f"--output_dir={tmp_path / 'out'}", *flags,
            PATH=f"{program.parent}:{os.environ['PATH']}", **environment,
        )  # fmt: skip
        return process, [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    return start


def compare(*flags, before="", **environment):
    code = f"{before}\nimport runpy, sys\nsys.path.insert(0, {str(SCRIPTS)!r})\n"
    code += f"runpy.run_path({str(SCRIPTS / 'compare_objectives.py')!r}, run_name='__main__')"
    command = [sys.executable, "-c", code, "--config=tiny", *flags]
    return forking.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment})


def config_of(call):
    scope = {}
    with open(call["config"]) as stream:
        exec(stream.read(), scope)
    config = scope["get_config"]()
    for key, value in call.items():
        if key.startswith("config."):
            key = key.removeprefix("config.")
            old = config.get_type(key) if "." not in key else config[key.split(".")[0]].get_type(key.split(".")[1])
            value = value == "True" if old is bool else (value,) if old is tuple else old(value)
            config.update_from_flattened_dict({key: value})
    return resolve(config, VOCAB_SIZE)


def test_table_and_picture_hold_what_was_probed(start, tmp_path, comparison):
    flags = ("--probes=trec.tsv,sts.tsv", "--num_steps=2000", "--seeds=0,3", "--config.model.hidden_dropout=0.2")
    process, calls = start(*flags)
    assert process.returncode == 0, process.stderr
    assert [os.path.basename(call["workdir"]) for call in calls] == [
        "electra-seed0", "mlm-seed0", "electra-seed3", "mlm-seed3",
    ]  # fmt: skip
    electra, mlm = config_of(calls[2]), config_of(calls[3])  # each is a config that can be trained with
    assert (electra.objective.name, mlm.objective.name) == ("electra", "mlm")
    assert (mlm.data.mask_token_prob, mlm.data.random_token_prob) == (0.8, 0.1)
    assert electra.train.num_steps == 2000
    for section in ("model", "optimizer"):
        assert electra[section].to_dict() == mlm[section].to_dict()
    assert electra.model.hidden_dropout == 0.2 and electra.train.seed == mlm.train.seed == 3
    one_step = costs.training_flops(mlm) / mlm.train.num_steps
    assert abs(costs.training_flops(electra) - costs.training_flops(mlm)) < one_step

    table = (tmp_path / "out" / "comparison.md").read_text()
    assert f"| ELECTRA | 2,000 | {costs.training_flops(electra) / 2000:.4e} |" in table
    rows = dict(re.findall(r"## (\w+)\n(.*?)(?=\n## |\Z)", table, re.DOTALL))
    assert "| random weights |  | 0.2500 (0.2500 to 0.2500) | 0.2500 (0.2500 to 0.2500) |" in rows["trec"]
    ends = rows["trec"].splitlines()[-1].split(" | ")
    assert ends[2:] == ["0.8500 (0.7000 to 1.0000)", "0.3500 (0.2000 to 0.5000) |"]
    assert ends[0].endswith(", 2,000") and ends[1].endswith(f", {mlm.train.num_steps:,}")
    assert rows["sts"].splitlines()[-1].count("-0.8500 (-1.0000 to -0.7000)") == 1
    assert len(rows["trec"].strip().splitlines()) == 2 + 1 + 10

    picture = xml.etree.ElementTree.parse(tmp_path / "out" / "comparison.svg").getroot()
    assert picture.tag.endswith("svg")
    curves = []
    for name, config in (("electra", electra), ("mlm", mlm)):
        steps, flops = config.train.num_steps, costs.training_flops(config) / config.train.num_steps
        contender = comparison.Contender(name, name, "", config)
        plan = comparison.Plan(contender, steps, flops, config.train.steps_per_loop, config.eval.interval)
        workdirs = [str(tmp_path / "out" / f"{name}-seed{seed}") for seed in (0, 3)]
        curves.append(comparison.Curve(plan, comparison.read_probes(plan, workdirs)))
    first, second = comparison.draw(curves).axes
    assert (first.get_title(), first.get_ylabel(), second.get_title()) == ("trec", "accuracy", "sts")
    lines = first.get_lines()
    assert list(lines[0].get_xdata())[-1] == pytest.approx(list(lines[1].get_xdata())[-1], rel=1e-3)
    assert list(lines[0].get_ydata()) == pytest.approx([step / 2000 - 0.15 for step in range(200, 2001, 200)])
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 3


def test_it_goes_on_and_ends_as_a_run_does(start, tmp_path):
    flags = ("--probes=trec.tsv", "--num_steps=100", "--seeds=0,1")
    process, calls = start(*flags, FAILS_AT_SEED="1")
    assert process.returncode == 75 and len(calls) == 2
    assert "seed 0." in (tmp_path / "out" / "comparison.md").read_text()  # what is done is shown
    process, calls = start(*flags)
    assert process.returncode == 0 and len(calls) == 2 + 4
    first = (tmp_path / "out" / "comparison.svg").read_bytes()
    start(*flags)
    assert (tmp_path / "out" / "comparison.svg").read_bytes() == first


def test_a_signal_reaches_the_run_once(tmp_path, data_dir):
    program, notes = tmp_path / "electra-pretrain", tmp_path / "notes"
    program.write_text(
        f"#!/bin/bash\ntrap 'echo x >> {notes}; exit 75' TERM\ntouch {notes}\nwhile :; do sleep 0.05; done\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "compare_objectives.py"), "--config=tiny", f"--data={data_dir}",
         "--probes=a.tsv", f"--output_dir={tmp_path / 'out'}"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not notes.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    assert process.wait(20) == 75 and notes.read_text() == "x\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--probes=a.tsv", "--seeds=0,0"], "--seeds=0,0: give different numbers"),
        ([], "--probes is missing, and --finetune too"),
        (["--probes=a.tsv", "--against=tiny"], "of different names: tiny, tiny"),
        (["--probes=a.tsv", "--against=small_mlm:mlm"], ":mlm follows a config of objective.name=electra"),
        (["--probes=a.tsv", "--against=no.py"], "--config=no.py: no such file"),
        (["--probes=a.tsv", "--against=mlm"], "--config=mlm: "),
        (["--finetune=no.py"], "--config=no.py: no such file"),
        (["--probes=a.tsv", "--config.train.log_interval=20"], "--config.train.log_interval is set here"),
        (["--probes=a.tsv", "--config.objective.name=mlm"], "--config.objective.name is set here"),
        (["--probes=a.tsv", "--num_steps=0"], "config.train.num_steps=0: must be greater than 0"),
        (["--probes=a.tsv:label=,b.tsv"], "may follow a file"),
    ],
)
def test_mistakes_end_it_before_a_run_begins(start, tmp_path, flags, message):
    process, calls = start(*flags)
    assert (process.returncode, calls) == (2, [])
    assert message in process.stderr and len(process.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
@pytest.mark.parametrize("num_steps", [1, 2, 17, 999, 1001, 123_456, 1_000_000])
def test_flops_are_equal_at_the_end_and_nearly_so_at_every_probe(comparison, name, num_steps):
    scope = {}
    with open(PRETRAINING.path(name)) as stream:
        exec(stream.read(), scope)
    config = scope["get_config"]()
    config.data.dir = "data"
    for key in ("log_interval", "checkpoint_interval", "steps_per_loop"):
        config.train[key] = 1
    config.eval.interval = 1
    contenders = [comparison.Contender(name, name, "", config, objective) for objective in ("", "mlm")]
    electra, mlm = comparison.make_plans(contenders, num_steps, 30_522)
    total = num_steps * electra.flops_per_step
    assert electra.num_steps == num_steps and electra.flops_per_step > mlm.flops_per_step
    assert abs(total - mlm.num_steps * mlm.flops_per_step) <= mlm.flops_per_step / 2 * (1 + 1e-9)
    assert len(electra.probed_steps) == len(mlm.probed_steps) == min(10, int(num_steps**0.5))
    for plan in (electra, mlm):
        assert plan.interval % plan.steps_per_loop == 0
    if num_steps > 900:
        for ours, other in zip(electra.probed_steps, mlm.probed_steps, strict=True):
            assert abs(ours * electra.flops_per_step - other * mlm.flops_per_step) < 0.01 * total


@pytest.mark.parametrize(
    ("number", "steps"), [(1, [1000]), (2, [500, 1000]), (3, [300, 600, 1000]), (10, list(range(100, 1001, 100)))]
)
def test_what_is_fine_tuned_ends_with_the_last_step(comparison, number, steps):
    assert comparison.Plan(None, 1000, 1.0, 1, 100, number).finetuned_steps == steps


def test_any_configs_are_compared_and_fine_tuned(start, tmp_path, comparison):
    (tmp_path / "trec.py").write_text(
        "from electra_cli.finetuning.config_defaults import default_config as get_config\n"
    )
    flags = ("--against=modern_small,modern_small:mlm", f"--finetune={tmp_path}/trec.py", "--finetune_points=2")
    process, calls = start(*flags, "--num_steps=2000", "--seeds=5", "--config.model.num_layers=2",
                           "--config.model.generator_num_layers=1")  # fmt: skip
    assert process.returncode == 0, process.stderr
    runs = [call for call in calls if "init" not in call]
    names = ["tiny", "modern_small", "modern_small-mlm"]
    assert [os.path.basename(run["workdir"]) for run in runs] == [f"{name}-seed5" for name in names]
    tiny, modern, mlm = map(config_of, runs)
    assert [config.model.architecture for config in (tiny, modern, mlm)] == ["electra", "modern", "modern"]
    assert [config.objective.name for config in (tiny, modern, mlm)] == ["electra", "electra", "mlm"]
    for config in (modern, mlm):
        assert config.model.num_layers == 2
        difference = costs.training_flops(config) - costs.training_flops(tiny)
        assert abs(difference) <= costs.training_flops(config) / config.train.num_steps / 2 * (1 + 1e-9)
    # Weights of two steps of each run, which it keeps, and random ones.
    for config, run in zip((tiny, modern, mlm), runs, strict=True):
        steps = [call["init"].rpartition("-")[2] for call in calls if call.get("init", "").startswith(run["workdir"])]
        assert steps[1] == str(config.train.num_steps) and int(steps[0]) % config.train.keep_every_steps == 0
        assert config.train.checkpoint_interval == config.train.keep_every_steps
        assert sum(call.get("like") == run["workdir"] for call in calls) == 1
    table = (tmp_path / "out" / "comparison.md").read_text().splitlines()
    assert table[0] == "# tiny, modern_small and modern_small, masked language modeling at equal training FLOPs"
    assert table[-7] == "## trec, fine-tuned"
    shown = [f"{config.train.num_steps / 1000 + 0.05:.4f}" for config in (tiny, modern, mlm)]
    assert [cell.split()[0] for cell in table[-1].strip("| ").split(" | ")][3:] == [*shown, *["0.5000"] * 3]
    assert table[-3].startswith("| random weights |  |  | 0.0500 (0.0000 to 0.1000) |")
    picture = (tmp_path / "out" / "comparison.svg").read_text()
    assert "modern_small, masked language modeling" in picture and "trec, fine-tuned" in picture


def test_every_objective_of_a_config_is_compared(start, tmp_path):
    (tmp_path / "trec.py").write_text(
        "from electra_cli.finetuning.config_defaults import default_config as get_config\n"
    )
    others = [name for name in costs.OUTLINES if name != "electra"]
    against = ",".join(f"tiny:{name}" for name in others)
    process, calls = start(f"--against={against}", f"--finetune={tmp_path}/trec.py", "--num_steps=2000", "--seeds=5")
    assert process.returncode == 0, process.stderr
    tiny, *configs = (config_of(call) for call in calls if "init" not in call)
    assert [config.objective.name for config in configs] == others
    for config in configs:
        difference = costs.training_flops(config) - costs.training_flops(tiny)
        assert abs(difference) <= costs.training_flops(config) / config.train.num_steps / 2 * (1 + 1e-9)
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert all(f"tiny, {costs.OUTLINES[name].title}" in table for name in others)


# What the script starts, in forked processes.
FORKED = """
import subprocess, sys
from tests import forking
subprocess.Popen = lambda command, **options: forking.Popen(
    [sys.executable, "-m", "electra_cli.main", *command[1:]], **options)
"""


@pytest.mark.slow
def test_real_runs(data_dir, tmp_path):
    words = [f"the {noun} {verb}.\t{verb}" for noun in ("cat", "dog", "farmer", "bird") for verb in ("sees", "likes")]
    (tmp_path / "words.tsv").write_text("\n".join(["sentence\tlabel", *words * 3]) + "\n")
    sizes = {"num_layers": 1, "hidden_size": 16, "intermediate_size": 32, "embedding_size": 8, "generator_size": 0.5}
    process = compare(
        f"--data={data_dir}", f"--probes={tmp_path / 'words.tsv'}", f"--output_dir={tmp_path}", "--num_steps=4",
        "--seeds=1", "--config.data.max_seq_length=32", "--config.train.global_batch_size=8",
        "--config.eval.num_examples=8", "--config.eval.num_samples=0", "--config.runtime.jit_compile=false",
        *(f"--config.model.{name}={value}" for name, value in sizes.items()), before=FORKED,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    table = (tmp_path / "comparison.md").read_text().splitlines()
    for objective, column in (("electra", 3), ("mlm", 4)):
        lines = [json.loads(line) for line in (tmp_path / f"{objective}-seed1" / "metrics.jsonl").open()]
        (*_, last) = [line for line in lines if line["split"] == "probe"]
        assert table[-1].split(" | ")[column - 1].startswith(f"{last['words/accuracy']:.4f}")
    assert (tmp_path / "comparison.svg").stat().st_size > 1000
