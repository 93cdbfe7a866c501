"""`electra-import` and `electra-export` as they are called, and what they leave when something is wrong."""

import json
import pathlib
import resource
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.commands import export_checkpoint, import_checkpoint
from electra_cli.errors import UserError
from electra_cli.interop import delivery, exporting, google_tf1, importing, saved_model, starting_points, tfm
from electra_cli.interop.runs import load_run
from electra_cli.objectives import weights as weights_module
from tests import forking
from tests.cli.app_test import assert_user_error, call
from tests.conftest import make_text
from tests.interop.common import TOKENS, make_workdir, write_vocabulary

IMPORT, EXPORT = "electra_cli.commands.import_checkpoint", "electra_cli.commands.export_checkpoint"
ODD_NAME = "exp [1], ü, a\\b"


def run(module, *arguments):
    """Runs a command in this process, which has TensorFlow already."""
    module.FLAGS.unparse_flags()
    for name in module.FLAGS:
        module.FLAGS[name].unparse()
    module.FLAGS(["command", *map(str, arguments)])
    module._main(module.FLAGS)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("commands") / "run", **{"model.num_layers": 1})


def tree(path):
    return sorted(str(file.relative_to(path)) for file in pathlib.Path(path).rglob("*"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory, workdir):
    """Returns the export of a copy of the workdir in a format; both paths look like patterns."""
    root = tmp_path_factory.mktemp("exported")
    shutil.copytree(workdir, root / ODD_NAME / "run")

    def find(format_name):
        output = root / ODD_NAME / format_name
        if not output.exists():
            run(export_checkpoint, f"--workdir={root / ODD_NAME / 'run'}", f"--format={format_name}",
                f"--output_dir={output}")  # fmt: skip
        return output

    return find


def needs_transformers(format_name):
    if format_name == "huggingface":
        pytest.importorskip("torch")
        pytest.importorskip("transformers")


@pytest.mark.parametrize("module", [IMPORT, EXPORT])
def test_help_does_not_import_tensorflow(module):
    assert "Usage: " in call(module, "--help").stdout
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("module", "arguments", "part"),
    [
        (EXPORT, [], "--workdir is missing"),
        (EXPORT, ["--workdir=x"], "--format is missing: give one of huggingface, saved_model, tfm, google_tf1"),
        (
            EXPORT,
            ["--workdir=x", "--format=onnx"],
            "--format=onnx: must be one of huggingface, saved_model, tfm, google",
        ),
        (EXPORT, ["--workdir=x", "--format=tfm"], "--output_dir is missing"),
        (IMPORT, ["--format=tfm", "--output_dir=y"], "--source is missing"),
        (
            IMPORT,
            ["--format=tfm", "--source=x", "--output_dir=y", "--hparams=z"],
            "--hparams belongs to --format=google_tf1",
        ),
        (
            IMPORT,
            ["--format=tfm", "--source=x", "--output_dir=y", "--generator_size=2"],
            "--generator_size=2.0: must be a",
        ),
    ],
)
def test_mistakes_in_the_command_line(module, arguments, part):
    assert_user_error(call(module, *arguments), part)


def test_checkpoint_best_averages_and_vocabulary_are_those_that_are_asked_for(tmp_path, capsys):
    workdir = make_workdir(tmp_path / "run", **{"optimizer.ema_decay": 0.5, "model.num_layers": 1})
    (workdir / "checkpoints" / "best").mkdir()
    for name in ("index", "data-00000-of-00001"):
        source = workdir / "checkpoints" / f"ckpt-7.{name}"
        (workdir / "checkpoints" / "best" / f"ckpt-7.{name}").write_bytes(source.read_bytes())
        source.unlink()
    flags = ["--checkpoint=best", "--format=google_tf1", "--network=both"]
    run(export_checkpoint, f"--workdir={workdir}", *flags, f"--output_dir={tmp_path / 'averaged'}")
    assert "best/ckpt-7: step 7, averaged." in capsys.readouterr().out
    run(export_checkpoint, f"--workdir={workdir}", *flags, f"--output_dir={tmp_path / 'plain'}", "--noaveraged")
    averaged, plain = (google_tf1.read_weights(str(tmp_path / name / "model.ckpt-7")) for name in ("averaged", "plain"))
    model = load_run(str(workdir), checkpoint="best", notice=lambda _: None).model
    assert weights_module.are_equal(averaged, weights_module.read(model))
    assert all(np.any(averaged[name] != plain[name]) for name in averaged)
    (workdir / "data" / "vocab.txt").unlink()
    with pytest.raises(UserError, match="is not there any more: give its vocabulary, --vocab_file"):
        run(export_checkpoint, f"--workdir={workdir}", *flags, f"--output_dir={tmp_path / 'never'}")
    vocab_file = write_vocabulary(tmp_path)
    flags += [f"--vocab_file={vocab_file}", f"--output_dir={tmp_path / 'again'}"]
    run(export_checkpoint, f"--workdir={workdir}", *flags)
    assert (tmp_path / "again" / "vocab.txt").read_text() == vocab_file.read_text()


def test_ours_is_imported_with_its_averages(tmp_path):
    workdir = make_workdir(
        tmp_path / "run", **{"optimizer.ema_decay": 0.5, "model.embedding_sharing": "word", "model.num_layers": 1}
    )
    run(import_checkpoint, "--format=electra_pretrain", f"--source={workdir}", f"--output_dir={tmp_path / 'start'}")
    first, second = (load_run(str(path), notice=lambda _: None).model for path in (workdir, tmp_path / "start"))
    assert weights_module.are_equal(weights_module.read(first), weights_module.read(second))
    config = (tmp_path / "start" / "config.py").read_text()
    assert "config.model.embedding_sharing = 'word'" in config and "config.optimizer.ema_decay = 0.5" in config


@pytest.mark.parametrize("format_name", export_checkpoint.FORMATS)
def test_a_directory_that_is_there_stays_what_it_is(tmp_path, workdir, format_name):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    flags = [f"--workdir={workdir}", f"--format={format_name}", f"--output_dir={tmp_path / 'there'}"]
    for more in ((), ("--overwrite",)):
        with pytest.raises(UserError, match=r"there holds files that were not written by this command \(mine\.txt\)"):
            run(export_checkpoint, *flags, *more)
    assert tree(tmp_path) == ["there", "there/mine.txt"]
    before = tree(workdir)
    with pytest.raises(UserError, match=r"\(data, metrics\.jsonl\): choose another directory"):
        run(export_checkpoint, *flags[:2], f"--output_dir={workdir}", "--overwrite")
    assert tree(workdir) == before
    with pytest.raises(UserError, match="give a local directory"):
        run(export_checkpoint, *flags[:2], "--output_dir=gs://bucket/there")


def assert_equal_weights(workdir, other):
    first, second = (load_run(str(path), notice=lambda _: None) for path in (workdir, other))
    weights, others = (each.network("discriminator").weights for each in (first, second))
    for part in ("embeddings/word_embeddings", "encoder/layer_0/output/dense/kernel"):
        np.testing.assert_array_equal(weights[part], others[part])


@pytest.mark.parametrize("name", ["exp [1], ü", "a\\b"])  # `ODD_NAME` would do if one of them were a pattern
def test_the_path_of_a_run_is_no_pattern(tmp_path, workdir, name):
    shutil.copytree(workdir, tmp_path / name)
    assert_equal_weights(workdir, tmp_path / name)


@pytest.mark.parametrize("format_name", export_checkpoint.FORMATS)
def test_a_path_is_no_pattern(tmp_path, workdir, exported, format_name):
    needs_transformers(format_name)
    source, start = exported(format_name), tmp_path / ODD_NAME / "start"
    if format_name == "saved_model":
        return
    run(import_checkpoint, f"--format={format_name}", f"--source={source}", f"--output_dir={start}")
    assert_equal_weights(workdir, start)


@pytest.mark.parametrize("format_name", export_checkpoint.FORMATS)
def test_a_full_disk_leaves_nothing(tmp_path, workdir, format_name):
    needs_transformers(format_name)
    loaded = load_run(str(workdir), notice=lambda _: None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written: .*; nothing is left of it"):
            exporting.export_run(
                loaded, format_name, "discriminator", str(tmp_path / "out"), overwrite=False, notice=lambda _: None
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("format_name", export_checkpoint.FORMATS)
def test_an_export_that_computes_something_else_is_refused(tmp_path, workdir, exported, format_name, monkeypatch):
    needs_transformers(format_name)
    loaded = load_run(str(workdir), notice=lambda _: None)
    genuine = weights_module.read

    def altered(model):
        values = genuine(model)
        values["electra/encoder/layer_0/output/LayerNorm/beta"] += 0.01
        return values

    if format_name == "saved_model":  # holds the model itself: alter it behind the writer
        genuine_export = exported("saved_model")

        def write_and_alter(_run, _roles, directory):
            shutil.copytree(genuine_export, directory, dirs_exist_ok=True)
            loaded.model.discriminator_network.transformer_layers[0].output_norm.beta.assign_add([0.01] * 16)

        monkeypatch.setattr(saved_model, "write", write_and_alter)
    elif format_name == "google_tf1":
        monkeypatch.setattr(google_tf1, "read_weights", lambda _: altered(loaded.model))
    else:
        monkeypatch.setattr(weights_module, "read", altered)
    with pytest.raises(UserError, match=r"differs from the checkpoint by .*: nothing was exported"):
        exporting.export_run(
            loaded, format_name, "discriminator", str(tmp_path / "out"), overwrite=False, notice=lambda _: None
        )
    assert tree(tmp_path) == []


@pytest.mark.parametrize("missing", ["torch", "transformers", "safetensors"])
def test_what_is_not_installed_is_told_before_work(tmp_path, workdir, missing, monkeypatch):
    for name in ("torch", "transformers", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else types.ModuleType(name))
    with pytest.raises(UserError, match=rf"needs {missing}, which is not installed: pip install 'electra-pretrain\["):
        run(export_checkpoint, f"--workdir={workdir}", "--format=huggingface", f"--output_dir={tmp_path / 'out'}")
    assert tree(tmp_path) == []


@pytest.mark.parametrize(("name", "missing"), [("model.safetensors", "safetensors"), ("pytorch_model.bin", "PyTorch")])
def test_reading_without_what_reads_is_told(tmp_path, name, missing, monkeypatch):
    for module in ("torch", "safetensors", "safetensors.numpy"):  # which an earlier test may have imported
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "electra"}))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=f"needs (that package|{missing}), which is not installed"):
        starting_points.read_source("huggingface", str(tmp_path))


def test_overwriting_replaces_the_whole(tmp_path, workdir):
    flags = [f"--workdir={workdir}", f"--output_dir={tmp_path / 'out'}"]
    run(export_checkpoint, *flags, "--format=google_tf1")
    with pytest.raises(UserError, match="out is not empty: choose another, or replace it with --overwrite"):
        run(export_checkpoint, *flags, "--format=tfm")
    run(export_checkpoint, *flags, "--format=tfm", "--overwrite")
    assert tree(tmp_path / "out") == sorted(
        ["checkpoint", "encoder.yaml", "tokenizer_config.json", "vocab.txt"]
        + [f"{tfm.CHECKPOINT_NAME}.{end}" for end in ("index", "data-00000-of-00001")]
    )


def test_errors_within_a_new_directory_remove_it(tmp_path):
    for error in (ValueError("x"), KeyboardInterrupt(), OSError(28, "No space left on device")):
        expected = UserError if isinstance(error, OSError) else type(error)
        with pytest.raises(expected), delivery.new_directory(str(tmp_path / "out"), overwrite=False) as directory:
            (pathlib.Path(directory) / "half").write_text("half")
            raise error
        assert tree(tmp_path) == []


def test_workdirs_that_will_not_do(tmp_path, workdir):
    def refuse(message, path):
        with pytest.raises(UserError, match=message):
            load_run(str(path), notice=lambda _: None)

    refuse(r"holds no config\.json", tmp_path)
    (tmp_path / "config.json").write_text("{")
    refuse(r"config\.json is damaged", tmp_path)
    record = json.loads((workdir / "config.json").read_text())
    record["config"]["model"]["new_key"] = 3
    (tmp_path / "config.json").write_text(json.dumps(record))
    refuse(r"was written by another version of this program", tmp_path)
    del record["config"]["model"]["new_key"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    refuse(r"holds no checkpoint", tmp_path)


def test_an_import_that_does_not_fit_its_vocabulary_is_refused_before_anything_is_made(tmp_path, exported):
    shutil.copytree(exported("tfm"), tmp_path / "out")
    (tmp_path / "vocab.txt").write_text("\n".join((*TOKENS, "more", "words")))
    flags = ["--format=tfm", f"--source={tmp_path / 'out'}", f"--output_dir={tmp_path / 'start'}"]
    with pytest.raises(UserError, match="has 110 tokens, the word table 108"):
        run(import_checkpoint, *flags, f"--vocab_file={tmp_path / 'vocab.txt'}")
    assert not (tmp_path / "start").exists()
    (tmp_path / "out" / "vocab.txt").unlink()
    run(import_checkpoint, *flags)  # without: the model alone
    assert "vocab.txt" not in tree(tmp_path / "start") and (tmp_path / "start" / importing.REPORT_FILE).exists()
    with pytest.raises(UserError, match="give its vocabulary"):
        load_run(str(tmp_path / "start"), notice=lambda _: None)


def test_the_only_network_is_exported_unasked(tmp_path):
    workdir = make_workdir(tmp_path / "mlm", **{"objective.name": "mlm"})
    run(export_checkpoint, f"--workdir={workdir}", "--format=huggingface", f"--output_dir={tmp_path / 'hf'}")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"] == ["ElectraForMaskedLM"]


@pytest.mark.slow
def test_an_import_is_trained_on_and_exported_with_the_commands(tmp_path, workdir):
    """google-research/electra to a starting point, continued on other text, to google-research/electra."""
    run(export_checkpoint, f"--workdir={workdir}", "--format=google_tf1", "--network=both",
        f"--output_dir={tmp_path / 'released'}")  # fmt: skip
    (tmp_path / "text.txt").write_text(make_text(100))

    def command(module, *arguments):
        flags = [sys.executable, "-m", module, *arguments]
        result = forking.run(flags, capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    command(IMPORT, "--format=google_tf1", "--source=released", "--output_dir=start", "--num_attention_heads=2")
    command("electra_cli.commands.prepare", "--input=text.txt", "--vocab_file=start/vocab.txt", "--output_dir=data",
            "--max_seq_length=32", "--num_workers=1", "--validation_fraction=0")  # fmt: skip
    flags = ["--config.data.dir=data", "--config.train.num_steps=4", "--config.train.global_batch_size=4",
             "--config.optimizer.warmup_steps=2", "--mode=train", "--config.train.steps_per_loop=2"]  # fmt: skip
    told = command("electra_cli.main", "--config=start/config.py", "--workdir=continued", *flags)
    assert f"Starting at step 0 from the weights of {tmp_path}/start/checkpoints/ckpt-0" in told
    told = command(EXPORT, "--workdir=continued", "--format=google_tf1", "--network=both", "--output_dir=out")
    assert "largest difference 0.0e+00" in told
    reader = tf.train.load_checkpoint(str(tmp_path / "out"))
    assert int(reader.get_tensor("global_step")) == 4
