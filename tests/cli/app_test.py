"""The console commands as a user calls them, as far as they end before TensorFlow is imported."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest

from electra_cli.config.resolution import resolve
from tests import forking
from tests.conftest import SEQ_LENGTH, VOCAB_SIZE, small_config

EARLIER = pathlib.Path(__file__).parent.parent / "earlier" / "run"
PRETRAIN, PREPARE, PLAN = "electra_cli.main", "electra_cli.commands.prepare", "electra_cli.commands.plan"


def call(module, *arguments, env=None):
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        env=env,
    )


def call_and_time(module, *arguments):
    """Calls a command three times; returns the last result and the least processor time, whatever else is running."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = call(module, *arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return result, min(seconds)


def assert_user_error(result, *parts):
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert "error: " in result.stderr
    for part in parts:
        assert part in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("module", [PRETRAIN, PREPARE, PLAN])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_fast_and_does_not_import_tensorflow(module, flag):
    result, seconds = call_and_time(module, flag)
    assert result.returncode == 0
    assert "Usage: " in result.stdout and result.stderr == ""
    assert seconds < 1.0
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--config is missing: give a file or a preset (base, large, modern_base, modern_small, "),
        (["--config=small"], "--workdir is missing"),
        (
            ["--config=smal", "--workdir=x"],
            "presets: base, large, modern_base, modern_small, small, small_mlm, small_plus_plus, small_teams, tiny, "
            "xsmall; did you mean small?",
        ),
        (["--config=small", "--workdir=x"], "config.data.dir=''"),
        (["--config=small", "--wrkdir=x"], "there is no flag --wrkdir; did you mean --workdir?"),
        (["--config=small", "--train.num_steps=3"], "--train.num_steps; did you mean --config.train.num_steps?"),
        (["--config=small", "--xyzzy"], "there is no flag --xyzzy (see "),
        (
            ["--config=small", "--workdir=x", "--mode=evl"],
            "--mode=evl: must be one of train, eval, train_and_eval, replay, score; did you mean eval?",
        ),
        (["--config=small", "--workdir=x", "--mode=eval", "--dry_run"], "it does not go with --mode=eval"),
        (["--config=small", "--workdir=x", "--json"], "--json goes with --check_devices: leave it out"),
        (["--check_devices", "--workdir=x"], "--workdir is not read by --check_devices: leave it out"),
        (["--check_devices", "--config.model.hidden_size=7"], "must be a multiple of config.model.num_attention_head"),
        (
            ["--workdir=nowhere", "--mode=eval"],
            "--workdir=nowhere: no such directory; give the workdir of electra-pret",
        ),
        (["--workdir=x"], "--config is missing: give a file or a preset"),
        (["--workdir=x", "--mode=eval", "--print_config"], "--config is missing: give a file or a preset"),
        (["--workdir=/", "--mode=eval"], "--workdir=/ holds no config.json: give the workdir of electra-pretrain, or"),
        (["--workdir=x", "--mode=score", "--input=y"], "--workdir=x: no such directory; give the workdir"),
        (["--workdir=x", "--mode=replay"], "--workdir=x: no such directory; give the workdir"),
        (["--print_completion=bsh"], "--print_completion=bsh: must be one of bash, zsh, fish; did you mean bash?"),
        (
            ["--config=small", "--workdir=x", "--config.data.dir=d", "--config.runtime.precision=mixed_bf16"],
            "must be one of float32, mixed_bfloat16, mixed_float16; did you mean mixed_bfloat16?",
        ),
        (
            ["--config=small", "--workdir=x", "--config.data.dir=d", "--config.train.best_metric=rtd_acc"],
            "did you mean rtd_accuracy?",
        ),
        (["--config=small", "--workdir=x", "extra"], "unexpected argument 'extra'"),
        (
            ["--config=small", "--workdir=x", "--config.train.num_stepz=3"],
            "config.train has no key 'num_stepz'; did you mean config.train.num_steps?",
        ),
        (["--config=small", "--config.clip_norm=3"], "no key 'clip_norm'; did you mean config.optimizer.clip_norm?"),
        (
            ["--config=small", "--workdir=x", "--config.train.zzzzz=3"],
            "config.train has no key 'zzzzz'; its keys: async_checkpoints, best_metric",
        ),
        (
            ["--config=small", "--workdir=x", "--config.trian.num_steps=3"],
            "config has no key 'trian'; did you mean config.train.num_steps?",
        ),
        (["--config=small", "--workdir=x", "--config.train=3"], "config.train is a section; its keys"),
        (
            ["--config=small", "--workdir=x", "--config.train.num_steps=1e3"],
            "num_steps=1e3: config.train.num_steps takes a whole number, such as 1000",
        ),
        (
            ["--config.train.num_steps=0", "--config", "small", "--workdir=x", "--config.data.dir=d"],
            "config.train.num_steps=0: must be",
        ),
        (
            ["--config=small", "--workdir=x", "--config.train.num_steps"],
            "Missing value for flag --config.train.num_steps",
        ),
    ],
)
def test_mistakes_in_the_command_line(arguments, part):
    assert_user_error(call(PRETRAIN, *arguments), part)


@pytest.mark.parametrize("module", [PRETRAIN, PREPARE, PLAN])
def test_a_path_that_is_not_utf_8_is_refused(module):
    result = subprocess.run([sys.executable, "-m", module, b"--xyzzy=caf\xe9"], capture_output=True, text=True)
    assert_user_error(result, r"'--xyzzy=caf\udce9' is not UTF-8, in which paths are read: rename the file")


@pytest.mark.parametrize("module", [PREPARE, PLAN, PRETRAIN])
def test_paths_are_utf_8_in_any_locale(tmp_path, module):
    flag = "--inspect" if module == PREPARE else "--config"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = call(module, f"{flag}={tmp_path}/\u0434\u0430\u043d\u043d\u044b\u0435", env={**os.environ, **locale})
    assert_user_error(result, f"{flag}={tmp_path}/\u0434\u0430\u043d\u043d\u044b\u0435: no such")


def test_a_run_is_corrected_by_its_workdir_and_a_key(tmp_path):
    record = {"config": resolve(small_config(tmp_path / "nowhere"), VOCAB_SIZE).to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(record))
    result = call(PRETRAIN, f"--workdir={tmp_path}", "--mode=eval", "--config.data.dir=moved")
    assert_user_error(result, "config.data.dir=moved: no such directory")


def test_workers_that_go_on_need_their_own_commands(tmp_path):
    config = small_config(tmp_path / "nowhere")
    config.runtime.worker_addresses = "a:1,b:1"
    (tmp_path / "config.json").write_text(json.dumps({"config": resolve(config, VOCAB_SIZE).to_dict()}))
    told = call(PRETRAIN, f"--workdir={tmp_path}")
    assert_user_error(told, "is a run of several workers, each of which needs its own --config.runtime.worker_index")
    # Looking at it takes one: here it comes as far as the data.
    assert_user_error(call(PRETRAIN, f"--workdir={tmp_path}", "--mode=eval"), "nowhere: no such directory")


@pytest.mark.parametrize(
    ("module", "arguments", "part"),
    [
        (PRETRAIN, ["--config.data.dir=nowhere"], "config.data.dir=nowhere: no such directory; give the dir"),
        (
            PRETRAIN,
            ["--config.data.dir={file}"],
            "manifest.json: is a file, not a directory; give the dir",
        ),
        (PRETRAIN, ["--config.data.dir={data}"], f"holds examples of {SEQ_LENGTH} tokens but config.data.max_seq_leng"),
        (
            PRETRAIN,
            ["--config.data.dir={data}", f"--config.data.max_seq_length={SEQ_LENGTH}", "--config.model.vocab_size=9"],
            f"has {VOCAB_SIZE} entries: leave the key unset",
        ),
        (
            PRETRAIN,
            ["--config.data.dir={data}", f"--config.data.max_seq_length={SEQ_LENGTH}", "--checkpoint=run/ckpt-5"],
            "--checkpoint=run/ckpt-5: no such checkpoint or directory; give a directory of checkpoints",
        ),
        *(
            (
                PRETRAIN,
                ["--config.data.dir={data}", f"--config.data.max_seq_length={SEQ_LENGTH}", *arguments],
                part,
            )
            for arguments, part in (
                (["--config.init.checkpoint=nowhere"], "config.init.checkpoint=nowhere: no such checkpoint or dir"),
                (["--config.init.generator=nowhere"], "config.init.generator=nowhere: no such checkpoint or dir"),
                (
                    ["--config.objective.frozen_generator=true", "--config.model.embedding_sharing=none"],
                    "its weights would stay random",
                ),
            )
        ),
        (PREPARE, ["--inspect=nowhere"], "--inspect=nowhere: no such directory; give the output"),
        (
            "electra_cli.commands.finetune",
            ["--config=classification", "--config.data.train=x", "--workdir=y", "--init=nowhere"],
            "--init=nowhere: no such checkpoint or directory; give a workdir",
        ),
        (
            "electra_cli.commands.finetune",
            ["--config=classification", "--config.data.train=x", "--workdir={earlier}", "--init={earlier}"],
            "config.json is not of electra-finetune: give a workdir that it wrote",
        ),
        (
            "electra_cli.commands.finetune",
            [
                *("--config=classification", "--config.data.train=x", "--workdir=y", "--init={earlier}"),
                "--vocab_file=nowhere",
            ],
            "--vocab_file=nowhere: no such file",
        ),
        (
            "electra_cli.commands.import_checkpoint",
            ["--format=tfm", "--source=nowhere", "--output_dir=x"],
            "--source=nowhere: no such checkpoint or directory; give the model's",
        ),
        (
            "electra_cli.commands.import_checkpoint",
            ["--format=tfm", "--source={data}", "--output_dir={data}"],
            "holds files that were not written by this command",
        ),
        (
            "electra_cli.commands.import_checkpoint",
            ["--format=google_tf1", "--source={data}", "--output_dir=x", "--hparams=nowhere"],
            "--hparams=nowhere: no such file",
        ),
        (
            "electra_cli.commands.export_checkpoint",
            ["--format=tfm", "--workdir=nowhere", "--output_dir=x"],
            "--workdir=nowhere: no such directory; give the directory of a run",
        ),
        (
            "electra_cli.commands.import_checkpoint",
            ["--format=electra_pretrain", "--source={earlier}", "--output_dir=x", "--checkpoint=nowhere"],
            "--checkpoint=nowhere: no such checkpoint or directory",
        ),
        *(
            (
                "electra_cli.commands.export_checkpoint",
                ["--format=tfm", "--workdir={earlier}", "--output_dir=x", *arguments],
                part,
            )
            for arguments, part in (
                (["--workdir={data}"], "holds no config.json: give the workdir"),
                (["--output_dir={data}"], "holds files that were not written by this command"),
                (["--checkpoint=nowhere"], "--checkpoint=nowhere: no such checkpoint or directory"),
                (["--vocab_file={data}/nowhere"], "nowhere: no such file"),
                (["--seed=1"], "--seed=1 applies only to a fine-tuned model"),
            )
        ),
    ],
)
def test_missing_files_are_told_before_tensorflow_is_imported(module, arguments, part, data_dir):
    arguments = [
        argument.format(data=data_dir, file=data_dir / "manifest.json", earlier=EARLIER) for argument in arguments
    ]
    if module == PRETRAIN:
        arguments += ["--config=small", "--workdir=x"]
    code = f"import sys, runpy; sys.modules['tensorflow'] = None; runpy.run_module('{module}', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert_user_error(result, part)


def test_workdirs_of_other_runs_are_refused_before_tensorflow_is_imported(data_dir, tmp_path):
    config = small_config(data_dir)
    record = {"config": resolve(config, VOCAB_SIZE).to_dict(), "data_fingerprint": "x", "devices": "CPU"}
    (tmp_path / "config.json").write_text(json.dumps(record))
    code = f"import sys, runpy; sys.modules['tensorflow'] = None; runpy.run_module('{PRETRAIN}', run_name='__main__')"
    flags = ["--config=small", f"--config.data.dir={data_dir}", f"--config.data.max_seq_length={SEQ_LENGTH}"]
    for name, given, part in (
        ("", flags, "holds a run of another config: model.embedding_size: 8 -> 128"),
        ("", [], "holds a run on other data than config.data.dir="),
        ("config.json", flags, "config.json is a file, not a directory: choose another"),
    ):
        command = [sys.executable, "-c", code, *given, f"--workdir={tmp_path / name}"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert_user_error(result, part)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("x = 1", "cannot be loaded (AttributeError"),
        ("def get_config(:", "cannot be loaded (SyntaxError"),
        (
            "def get_config():\n    raise KeyError('y')",
            "cannot be loaded (KeyError: 'y'): give a Python file with get_config()",
        ),
        (
            "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'x': 1})",
            "were added or are missing: data.dir",
        ),
    ],
)
def test_config_files_that_will_not_do(tmp_path, content, part):
    (tmp_path / "mine.py").write_text(content)
    assert_user_error(call(PRETRAIN, f"--config={tmp_path / 'mine.py'}", "--workdir=x"), part)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--input is missing"),
        (["--input=a"], "--output_dir is missing"),
        (
            ["--input=a", "--output_dir=b"],
            "give one of --vocab_file=FILE, --tokenizer_file=FILE, --learn_vocab=SIZE and --learn_bpe=SIZE",
        ),
        (
            ["--input=a", "--output_dir=b", "--vocab_file=c", "--tokenizer_file=c.json"],
            "give one of --vocab_file=FILE, --tokenizer_file=FILE, --learn_vocab=SIZE and --learn_bpe=SIZE",
        ),
        (["--input=a", "--output_dir=b", "--learn_vocab=500", "--learn_bpe=500"], "give one of --vocab_file=FILE"),
        (["--input=a", "--output_dir=b", "--learn_bpe=260"], "--learn_bpe=260: must be at least 261 tokens"),
        (
            ["--input=a", "--output_dir=b", "--learn_bpe=500", "--vocab_type=character"],
            "--vocab_type is for WordPiece: it does not go with --learn_bpe",
        ),
        (
            ["--input=a", "--output_dir=b", "--learn_bpe=500", "--nolower_case"],
            "--lower_case is for WordPiece: byte-level BPE splits text in its own way",
        ),
        (["--input=a", "--output_dir=b", "--tokenizer_file=vocab.txt"], "vocab.txt: give a tokenizer.json, or any"),
        (
            ["--input=a", "--output_dir=b", "--tokenizer_file=c.json", "--strip_accents"],
            "--strip_accents is for WordPiece: a tokenizer.json splits text in its own way",
        ),
        (
            ["--input=a", "--output_dir=b", "--tokenizer_file=c.json", "--vocab_sample_mb=1"],
            "--vocab_sample_mb says how to learn a vocabulary: it does not go with --tokenizer_file",
        ),
        (["--learn_vocab=4k"], "error: --learn_vocab=4k: must be a whole number, such as 4000 (see "),
        (["--max_seq_length=1.5"], "error: --max_seq_length=1.5: must be a whole number, such as 128 (see "),
        (["--shard_size_mb=64MB: or so"], "error: --shard_size_mb=64MB: or so: must be a number, such as 64.0 (see "),
        (["--lower_case=maybe"], "error: --lower_case=maybe: must be true or false (see "),
        (["--packing=fulls"], "--packing=fulls: must be one of pairs, single, full; did you mean full? (see "),
        (["--input=a", "--output_dir=b", "--learn_vocab=10"], "--learn_vocab=10: must be at least 100"),
        (["--input=a", "--output_dir=b", "--learn_vocab=100", "--max_seq_length=4"], "must be from 8 to 8192"),
        (["--input=a", "--output_dir=b", "--learn_vocab=100", "--validation_fraction=1"], "must be a fraction"),
        (["--input=a", "--output_dir=b", "--learn_vocab=100", "--num_workers=0"], "must be at least 1"),
        (["--input=a", "--output_dir=gs://b", "--learn_vocab=100"], "give a local directory"),
        (
            ["--input=/nowhere", "--output_dir=/tmp/never", "--learn_vocab=100", "--num_workers=1"],
            "/nowhere: no such file",
        ),
    ],
)
def test_mistakes_in_preparing(arguments, part):
    assert_user_error(call(PREPARE, *arguments), part)


def test_beam_that_is_not_installed(tmp_path):
    (tmp_path / "text.txt").write_text("text")
    code = f"import sys, runpy; sys.modules['apache_beam'] = None; runpy.run_module({PREPARE!r}, run_name='__main__')"
    flags = [f"--input={tmp_path}/text.txt", "--learn_vocab=100", f"--output_dir={tmp_path}/data", "--runner=beam"]
    result = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, timeout=300)
    assert_user_error(result, "--runner=beam needs Apache Beam", "pip install 'electra-pretrain[beam]'")


def test_beam_options_need_beam(tmp_path):
    flags = ["--input=x", "--learn_vocab=100", f"--output_dir={tmp_path}/data", "--beam_options=--runner=FlinkRunner"]
    assert_user_error(call(PREPARE, *flags), "--beam_options=--runner=FlinkRunner needs --runner=beam")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_training_ends_the_command_in_one_line(number):
    program = (
        "import os, sys; from electra_cli.cli import app; sys.argv = ['bin/electra-pretrain']; app.end_when_stopped(); "
        f"os.kill(os.getpid(), {int(number)})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 75
    name = signal.Signals(number).name
    assert (
        result.stderr
        == f"electra-pretrain: stopped by {name}, and nothing more was saved; run the same command again\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_preparing_ends_the_command_in_one_line(number):
    program = (
        "import os, sys; from electra_cli.cli import app; from electra_cli.commands import prepare; "
        "assert 'numpy' not in sys.modules; sys.argv = ['bin/electra-prepare']; "
        f"app.run = lambda *_, **__: os.kill(os.getpid(), {int(number)}); prepare.main()"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 75
    told = f"stopped by {signal.Signals(number).name}; nothing was written, the same command starts again"
    assert result.stderr == f"electra-prepare: {told}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            "tf.zeros([10**6, 10**6])",
            "a device has too little memory (OOM when allocating tensor with shape[1000000,1000000])",
        ),
        ("raise PermissionError(13, 'Permission denied', 'run')", "denied: 'run': ask for access to it, or choose"),
        (
            "raise tf.errors.PermissionDeniedError(None, None, 'run; Permission denied')",
            "error: run; Permission denied",
        ),
        ("tf.constant([1])[5]", None),
        ("open('nowhere')", None),
    ],
)
def test_memory_and_permissions_that_are_missing_are_one_line_and_other_errors_are_defects(raised, message):
    program = (
        f"from absl import flags; from electra_cli.cli import app\n"
        f"def main(_):\n    import tensorflow as tf\n    {raised}\n"
        f"app.run(main, flags.FlagValues(), 'Usage')"
    )
    result = forking.run([sys.executable, "-c", program], capture_output=True, text=True)
    if message is None:
        assert result.returncode == 1 and "Traceback" in result.stderr, result.stderr
    else:
        assert_user_error(result, message)
