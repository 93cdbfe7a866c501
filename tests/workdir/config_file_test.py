"""The config of a run, read back from its workdir."""

import json

import pytest

from electra_cli.config.resolution import flatten, resolve
from electra_cli.errors import UserError
from electra_cli.workdir.config_file import read_config, read_record, read_settings
from tests.conftest import small_config


def test_a_config_is_read_back_as_it_was_given(tmp_path):
    config = small_config(tmp_path)
    config.phases.num_steps, config.optimizer.name, config.model.generator_layers = (6, 6), "lamb", 1
    resolved = resolve(config, 160)
    (tmp_path / "config.json").write_text(json.dumps({"config": resolved.to_dict()}))
    record = read_record(str(tmp_path))
    assert flatten(read_settings(record, "config.json")) == flatten(config)
    assert read_config(record, "config.json") == resolved


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
            read_settings(record, "config.json")
