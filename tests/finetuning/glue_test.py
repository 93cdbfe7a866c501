"""The files of GLUE's official download, with a line or two of each."""

import pytest

from electra_cli.config.finetuning import check
from electra_cli.errors import UserError
from electra_cli.finetuning import glue
from electra_cli.finetuning.tasks import build_task, load_file, load_splits
from tests.finetuning.common import config_of

MNLI = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
# name: (folder, {file: (header, rows)}, text, second text, label of the first training row)
LAYOUTS = {
    "cola": ("CoLA", {
        "train": (None, ["gj04|1||Our friends won't buy it.", "gj04|0|*|Them is here."]),
        "dev": (None, ["gj04|1||The sailors rode."]),
        "test": ("index|sentence", ["0|Bill whistled."]),
    }, "Our friends won't buy it.", None, "1"),
    "sst2": ("SST-2", {
        "train": ("sentence|label", ['a "good" film|1', "no|0"]),
        "dev": ("sentence|label", ["so|0"]),
        "test": ("index|sentence", ["0|well"]),
    }, 'a "good" film', None, "1"),
    "mrpc": ("MRPC", {
        "train": ("\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String", ["1|702|703|Amrozi said|He \"said", "0|1|2|a|b"]),
        "dev": ("Quality|#1 ID|#2 ID|#1 String|#2 String", ["1|5|6|c|d"]),
        "test": ("index|#1 ID|#2 ID|#1 String|#2 String", ["0|7|8|e|f"]),
    }, "Amrozi said", 'He "said', "1"),
    "stsb": ("STS-B", {
        "train": ("index|genre|filename|year|old_index|source1|source2|sentence1|sentence2|score",
                  ["0|main|MSR|2012|1|none|none|A plane.|An air plane.|5.000", "1|m|M|2012|4|n|n|x|y|3.8"]),
        "dev": ("index|genre|filename|year|old_index|source1|source2|sentence1|sentence2|score",
                ["0|m|M|2012|0|n|n|a|b|0.500"]),
        "test": ("index|genre|filename|year|old_index|source1|source2|sentence1|sentence2",
                 ["0|m|M|2012|0|n|n|a|b"]),
    }, "A plane.", "An air plane.", 5.0),
    "qqp": ("QQP", {
        "train": ("id|qid1|qid2|question1|question2|is_duplicate",
                  ["133|213|214|How?|What?|0", "1|2|3|broken", "4|5|6|How to?||0", "7|8|9|Who?|Who is?|1"]),
        "dev": ("id|qid1|qid2|question1|question2|is_duplicate", ["1|2|3|a|b|1"]),
        "test": ("id|question1|question2", ["0|c|d"]),
    }, "How?", "What?", "0"),
    "mnli": ("MNLI", {
        "train": (f"{MNLI} sentence1 sentence2 label1 gold_label".replace(" ", "|"),
                  ["0|1|2|g|p|p|p|p|It is.|It was.|neutral|neutral", "1|1|2|g|p|p|p|p|a|b|x|entailment"]),
        "dev_matched": (f"{MNLI} sentence1 sentence2 label1 label2 gold_label".replace(" ", "|"),
                        ["0|1|2|g|p|p|p|p|c|d|neutral|x|entailment"]),
        "dev_mismatched": (f"{MNLI} sentence1 sentence2 label1 gold_label".replace(" ", "|"),
                           ["0|1|2|g|p|p|p|p|e|f|x|neutral"]),
        "test_matched": (f"{MNLI} sentence1 sentence2".replace(" ", "|"), ["0|1|2|g|p|p|p|p|g|h"]),
        "test_mismatched": (f"{MNLI} sentence1 sentence2".replace(" ", "|"), ["0|1|2|g|p|p|p|p|i|j"]),
    }, "It is.", "It was.", "neutral"),
    "qnli": ("QNLI", {
        "train": ("index|question|sentence|label", ["0|When?|In May.|entailment", "1|a|b|not_entailment"]),
        "dev": ("index|question|sentence|label", ["0|c|d|entailment"]),
        "test": ("index|question|sentence", ["0|e|f"]),
    }, "When?", "In May.", "entailment"),
    "rte": ("RTE", {
        "train": ("index|sentence1|sentence2|label", ["0|No.|Yes.|not_entailment", "1|a|b|entailment"]),
        "dev": ("index|sentence1|sentence2|label", ["0|c|d|entailment"]),
        "test": ("index|sentence1|sentence2", ["0|e|f"]),
    }, "No.", "Yes.", "not_entailment"),
    "wnli": ("WNLI", {
        "train": ("index|sentence1|sentence2|label", ["0|I stuck a pin.|It had a hole.|1", "1|a|b|0"]),
        "dev": ("index|sentence1|sentence2|label", ["0|c|d|0"]),
        "test": ("index|sentence1|sentence2", ["0|e|f"]),
    }, "I stuck a pin.", "It had a hole.", "1"),
}  # fmt: skip


def write(directory, name):
    folder, layout = LAYOUTS[name][:2]
    (directory / folder).mkdir()
    for file, (header, rows) in layout.items():
        lines = ([header] if header else []) + rows
        content = "".join(line.replace("|", "\t") + "\n" for line in lines)
        (directory / folder / f"{file}.tsv").write_text(content)


def config_for(directory, name):
    config = config_of(name, dir=str(directory))
    check(config)
    return config


def test_all_nine_are_there():
    assert list(glue.TASKS) == list(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("is_parent", [True, False], ids=["download", "folder"])
def test_the_download_is_read(tmp_path, name, is_parent):
    write(tmp_path, name)
    folder, _, text, second_text, label = LAYOUTS[name]
    config = config_for(tmp_path if is_parent else tmp_path / folder, name)
    task = build_task(config)
    splits = load_splits(config, task, 0)
    first = splits.train[0]
    assert (first.text, first.second_text, first.label) == (text, second_text, label)
    assert len(splits.train) == 2 and len(splits.validation) == 1 and len(splits.test) == 1
    assert splits.validation[0].is_labelled and not splits.test[0].is_labelled
    assert task.primary_score == {"cola": "mcc", "stsb": "spearman"}.get(name, "accuracy")
    assert task.num_outputs == (1 if name == "stsb" else 2)
    assert sorted(splits.more) == (["test_mismatched", "validation_mismatched"] if name == "mnli" else [])
    assert all(len(examples) == 1 for examples in splits.more.values())
    broken = [notice for notice in splits.notices if "train.tsv: bad examples skipped: 2 of" in notice]
    assert len(broken) == (1 if name == "qqp" else 0)
    test_file = next(iter(sorted((tmp_path / folder).glob("test*.tsv"))))
    assert load_file(str(test_file), config, task).examples == splits.test
    dev_file = next(iter(sorted((tmp_path / folder).glob("dev*.tsv"))))
    assert load_file(str(dev_file), config, task).examples == splits.validation  # labels too


def test_a_file_can_take_the_place_of_the_folders(tmp_path):
    write(tmp_path, "rte")
    (tmp_path / "mine.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\tg\th\tentailment\n")
    config = config_for(tmp_path, "rte")
    config.data.test = "mine.tsv"
    assert [example.label for example in load_splits(config, build_task(config), 0).test] == ["entailment"]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no RTE/train\.tsv for --config\.task=rte: give the folder of GLUE's"):
        glue.find_folder(str(tmp_path), "rte")
    with pytest.raises(UserError, match=r"glue \(no such directory\)"):
        glue.find_folder(str(tmp_path / "glue"), "rte")
    write(tmp_path, "rte")
    (tmp_path / "RTE" / "dev.tsv").unlink()
    (tmp_path / "RTE" / "test.tsv").unlink()
    config = config_for(tmp_path, "rte")
    with pytest.raises(UserError, match=r"RTE/dev\.tsv: no such file$"):
        load_splits(config, build_task(config), 0)
    write(tmp_path / "RTE", "rte")
    assert glue.find_folder(str(tmp_path / "RTE"), "rte") == str(tmp_path / "RTE" / "RTE")
    (tmp_path / "link").symlink_to("/nowhere")
    with pytest.raises(UserError, match=r"link \(a broken link, to /nowhere\): no RTE/train\.tsv"):
        glue.find_folder(str(tmp_path / "link"), "rte")
    (tmp_path / "RTE" / "RTE" / "train.tsv").unlink()
    (tmp_path / "RTE" / "RTE" / "train.tsv").symlink_to("/nowhere/train.tsv")
    config = config_for(tmp_path / "RTE", "rte")
    with pytest.raises(UserError, match=r"RTE/RTE/train\.tsv: a broken link, to /nowhere/train\.tsv"):
        load_splits(config, build_task(config), 0)


def test_a_label_that_training_never_had(tmp_path):
    write(tmp_path, "rte")
    (tmp_path / "RTE" / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\tg\th\tmaybe\n")
    config = config_for(tmp_path, "rte")
    with pytest.raises(
        UserError, match=r"RTE/dev\.tsv:2: label 'maybe' does not occur in the training data, which has"
    ):
        load_splits(config, build_task(config), 0)
