from electra_cli.suggestions import did_you_mean, nearest


def test_nearest():
    assert nearest("smal", ["large", "small", "small_mlm"]) == "small"
    keys = ["config.phases.learning_rate", "config.optimizer.learning_rate", "config.train.learning", "learning_rat"]
    for word in ("learning_rate", "config.learning_rate"):
        assert nearest(word, keys) == "config.optimizer.learning_rate"
    assert nearest("phases.learning_rat", ["phases.learning_rate", "optimizer.beta_1"]) == "phases.learning_rate"
    assert nearest("xyzzy", ["large", "small"]) is None
    assert did_you_mean("wrkdir", ["workdir", "config"], "--") == "; did you mean --workdir?"
    assert did_you_mean("xyzzy", ["workdir"]) == ""
