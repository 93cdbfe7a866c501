from electra_cli.suggestions import did_you_mean, nearest


def test_nearest():
    assert nearest("smal", ["large", "small", "small_mlm"]) == "small"
    assert nearest("xyzzy", ["large", "small"]) is None
    assert did_you_mean("wrkdir", ["workdir", "config"], "--") == "; did you mean --workdir?"
    assert did_you_mean("xyzzy", ["workdir"]) == ""
