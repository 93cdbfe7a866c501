import sys

import pytest
from absl import flags

from electra_cli.cli import config_flag


@pytest.mark.parametrize(
    ("argument", "key", "expected"),
    [
        ("--config.phases.data_dir=/data/128,/data/512", "phases.data_dir", ("/data/128", "/data/512")),
        ("--config.phases.data_dir=('a', 'b')", "phases.data_dir", ("a", "b")),
        ("--config.phases.num_steps=90,10", "phases.num_steps", (90, 10)),
        ("--config.eval.probes=/x/a b.tsv:text=0,label=1", "eval.probes", ("/x/a b.tsv:text=0", "label=1")),
        ("--config.eval.probes=", "eval.probes", ()),
        ("--config.data.dir=a,b", "data.dir", "a,b"),
    ],
)
def test_values_of_several_parts_need_no_quotes(monkeypatch, argument, key, expected):
    monkeypatch.setattr(sys, "argv", ["program"])
    values = flags.FlagValues()
    config_flag.define(values)
    config_flag.parse(["program", "--config=tiny", argument], values)
    section, name = key.split(".")
    assert config_flag.given(values)[section][name] == expected
