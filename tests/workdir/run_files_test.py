import json

import pytest

from electra_cli.config.fields import flatten
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.config.resolution import resolve
from electra_cli.errors import UserError
from electra_cli.workdir.run_files import (
    check_checkpoint_flag,
    named_checkpoint,
    read_config,
    read_record,
)
from tests.conftest import small_config


def test_names_of_checkpoints_are_those_of_the_workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^--checkpoint=best: run keeps no best checkpoint, for which config\.train\."):
        named_checkpoint("run", "best")
    (tmp_path / "run" / "checkpoints" / "best").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^--checkpoint=run/checkpoints/ckpt-500: no such checkpoint or directory"):
        named_checkpoint("run", "ckpt-500")
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    for path in ("run/checkpoints/ckpt-500", "other/checkpoints/ckpt-500", "ckpt-5x"):
        (tmp_path / f"{path}.index").touch()
    assert named_checkpoint("run", "best") == "run/checkpoints/best"
    assert named_checkpoint("run", "ckpt-500") == "run/checkpoints/ckpt-500"
    for path in ("other/checkpoints/ckpt-500", "other", "ckpt-5x"):
        assert named_checkpoint("run", path) == path
    (tmp_path / "ckpt-500.index").touch()  # what lies here is meant
    assert named_checkpoint("run", "ckpt-500") == "ckpt-500"


def test_a_checkpoint_may_be_a_directory_an_index_or_what_is_left_of_one(tmp_path):
    (tmp_path / "ckpt-1.index").touch()
    (tmp_path / "ckpt-2.data-00000-of-00001").touch()
    for name in ("", "ckpt-1", "ckpt-1.index", "ckpt-2"):
        check_checkpoint_flag(str(tmp_path / name))
    with pytest.raises(UserError, match=r"ckpt-3: no such checkpoint or directory; give a directory of"):
        check_checkpoint_flag(str(tmp_path / "ckpt-3"))


def test_a_config_is_read_back_as_it_was_given(tmp_path):
    config = small_config(tmp_path)
    config.phases.num_steps, config.optimizer.name, config.model.generator_layers = (6, 6), "lamb", 1
    resolved = resolve(config, 160)
    (tmp_path / "config.json").write_text(json.dumps({"config": resolved.to_dict()}))
    record = read_record(str(tmp_path))
    assert flatten(PRETRAINING.restore(record["config"], "config.json")) == flatten(config)
    assert read_config(record, "config.json") == resolved


def test_relative_paths_are_those_from_where_the_run_began(tmp_path, monkeypatch):
    (tmp_path / "begun" / "first").mkdir(parents=True)
    (tmp_path / "begun" / "probe.tsv").touch()
    config = small_config("data")
    config.data.dir, config.init.vocab_file, config.init.checkpoint = "first", "", "gone"
    config.phases.data_dir, config.eval.probes = ("first, /second",), ("probe.tsv:text=0,label=1", "gs://bucket/x")
    typed = {"config": resolve(small_config("data"), 160).to_dict() | config.to_dict()}
    monkeypatch.chdir(tmp_path)
    for record in (typed, {**typed, "directory": str(tmp_path / "begun")}):
        (tmp_path / "config.json").write_text(json.dumps(record))
        read = read_record(str(tmp_path))["config"]
        begun = f"{tmp_path}/begun/" if "directory" in record else ""
        assert read["data"]["dir"] == f"{begun}first"
        assert (read["init"]["vocab_file"], read["init"]["checkpoint"]) == ("", "gone")
        assert list(read["eval"]["probes"]) == [f"{begun}probe.tsv:text=0,label=1", "gs://bucket/x"]
        assert list(read["phases"]["data_dir"]) == ([f"{begun}first", "/second"] if begun else ["first, /second"])


def test_what_is_no_config_of_a_run(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json: give the workdir of electra-pretrain, or what"):
        read_record(str(tmp_path))
    for content, message in (
        ("{", r"config\.json is damaged"),
        ('{"model_type": "electra"}', r"is no workdir of electra-pretrain: its config\.json is another program's"),
        ('{"config": 1}', r"is damaged \(config is no object\): put it back"),
        ('{"finetuning": {}}', "holds a fine-tuned model: give the workdir of its encoder"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=message):
            read_record(str(tmp_path))
    for record in ({"config": {"new": {"key": 1}}}, {"config": {"train": {"num_steps": "x"}}}):
        with pytest.raises(UserError, match="was written by another version of this program"):
            PRETRAINING.restore(record["config"], "config.json")
