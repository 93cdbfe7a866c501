from electra_cli.config.suggestions import did_you_mean, did_you_mean_file, nearest


def test_nearest():
    assert nearest("smal", ["large", "small", "small_mlm"]) == "small"
    keys = ["config.phases.learning_rate", "config.optimizer.learning_rate", "config.train.learning", "learning_rat"]
    for word in ("learning_rate", "config.learning_rate"):
        assert nearest(word, keys) == "config.optimizer.learning_rate"
    assert nearest("phases.learning_rat", ["phases.learning_rate", "optimizer.beta_1"]) == "phases.learning_rate"
    assert nearest("xyzzy", ["large", "small"]) is None
    assert did_you_mean("wrkdir", ["workdir", "config"], "--") == "; did you mean --workdir?"
    assert did_you_mean("xyzzy", ["workdir"]) == ""


def test_files_are_compared_without_their_endings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("trec.tsv", "a.png", "dev.tsv.gz", ".nofile.tsv"):
        (tmp_path / name).touch()
    (tmp_path / "trec").mkdir()
    (tmp_path / "trec.csv.gz").touch()
    found = {name: did_you_mean_file(name) for name in ("tre.tsv", "Trec.csv", "dev.tsv", "nofile.tsv", "no/trec.tsv")}
    trec = "; did you mean trec.tsv?"
    assert found == {
        "tre.tsv": trec, "Trec.csv": trec, "dev.tsv": "; did you mean dev.tsv.gz?", "nofile.tsv": "", "no/trec.tsv": ""
    }  # fmt: skip
    assert did_you_mean_file(f"{tmp_path}/trec.ts") == f"; did you mean {tmp_path}/trec.tsv?"
