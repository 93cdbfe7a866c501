"""Completion, in a real bash; the other shells read their scripts where they are installed."""

import os
import shutil
import subprocess
import sys

import pytest

from electra_cli.cli.completion import completion_script
from electra_cli.cli.help_text import FlagInfo

MODULES = {
    "electra-pretrain": "main",
    "electra-prepare": "commands.prepare",
    "electra-plan": "commands.plan",
    "electra-finetune": "commands.finetune",
    "electra-export": "commands.export_checkpoint",
    "electra-import": "commands.import_checkpoint",
    "electra-report": "commands.report",
}
# What bash does when a tab is typed, as far as the script takes part in it.
HARNESS = """
compopt() { options+="$* "; }
complete_line() {
  COMP_LINE="$1" COMP_POINT=${#1} COMPREPLY=() options=""
  "$2"
  printf '%s|' "${COMPREPLY[@]}"
  printf '%s\\n' "$options"
}
"""


@pytest.fixture(scope="module")
def scripts():
    """By command, what it prints."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.argv[0] = {name!r}; from electra_cli.{module} import main; main()",
             "--print_completion=bash"], stdout=subprocess.PIPE, text=True)
        for name, module in MODULES.items()
    }  # fmt: skip
    return {name: process.communicate()[0] for name, process in processes.items()}


def complete(script, function, *lines, cwd=None, before=""):
    calls = "\n".join(f'complete_line "{line}" {function}' for line in lines)
    result = subprocess.run(
        ["bash", "--norc", "-c", f"{before}\n{script}\n{HARNESS}\n{calls}"],
        capture_output=True, text=True, cwd=cwd, timeout=60,
    )  # fmt: skip
    assert result.stderr == ""
    return [
        ([word for word in line.split("|")[:-1] if word], line.rpartition("|")[2].strip())
        for line in result.stdout.splitlines()
    ]


def test_flags_keys_presets_and_values(scripts, tmp_path):
    (tmp_path / "mine.py").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "notes.txt").touch()
    cases = {
        "--mo": (["--mode="], "-o nospace"),
        "--qu": (["--quiet"], ""),
        "--mode=": (["train", "eval", "train_and_eval", "replay", "score"], ""),
        "--quiet --mode=ev": (["eval"], ""),
        "--mode ev": (["eval"], ""),
        "--config=s": (["small", "small_mlm", "small_plus_plus", "small_teams"], "-o filenames"),
        "--config=m": (["modern_base", "modern_small", "mine.py"], "-o filenames"),
        "--config=r": (["run"], "-o filenames"),
        "--config.tr": (["--config.train."], "-o nospace"),
        "--config.train.num": (["--config.train.num_steps="], "-o nospace"),
        "--config.optimizer.name=adam": (["adam_weight_decay", "adamw"], ""),
        "--config.model.remat=": (["true", "false"], ""),
        "--workdir=": (["run"], "-o filenames"),
        "--checkpoint=n": (["notes.txt"], "-o filenames"),
        "--config.train.num_steps=": ([], ""),
        "--config.data.dir=": (["run"], "-o filenames"),
        "--config.phases.data_dir=one,r": (["one,run"], ""),
        "--config.init.checkpoint=n": (["notes.txt"], "-o filenames"),
        "--config.init.vocab_file=no": (["notes.txt"], "-o filenames"),
        "--config.eval.probes=n": (["notes.txt"], "-o filenames"),
        "r": ([], ""),
    }
    found = complete(
        scripts["electra-pretrain"], "_electra_pretrain", *(f"electra-pretrain {line}" for line in cases), cwd=tmp_path
    )
    assert dict(zip(cases, found, strict=True)) == cases


def test_words_that_do_not_end_at_an_equals_sign(scripts):
    found = complete(
        scripts["electra-pretrain"], "_electra_pretrain", "electra-pretrain --mode=ev", before="COMP_WORDBREAKS=' '"
    )
    assert found == [(["--mode=eval"], "")]


def test_lists_of_paths(scripts, tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).touch()
    found = complete(scripts["electra-prepare"], "_electra_prepare", "electra-prepare --input=a.txt,b", cwd=tmp_path)
    assert found == [(["a.txt,b.txt"], "")]


def test_keys_in_no_section(scripts):
    lines = [f"electra-finetune {word}" for word in ("--config.ta", "--config.tr", "--config.task=qn", "--config=gl")]
    found = complete(scripts["electra-finetune"], "_electra_finetune", *lines)
    assert [words for words, _ in found] == [["--config.task="], ["--config.train."], ["qnli"], ["glue"]]


def test_values_of_keys_of_fine_tuning(scripts, tmp_path):
    (tmp_path / "dev.tsv").touch()
    (tmp_path / "glue").mkdir()
    cases = {
        "--config.primary_score=ex": ["exact_match"],
        "--config.data.format=con": ["conll", "conllu"],
        "--config.model.network=g": ["generator"],
        "--config.data.validation=d": ["dev.tsv"],
        "--config.data.train=": ["dev.tsv", "glue"],
        "--config.data.dir=": ["glue"],
        "--config.data.text=": [],
        "--predict=de": ["dev.tsv"],
    }
    lines = [f"electra-finetune {word}" for word in cases]
    found = complete(scripts["electra-finetune"], "_electra_finetune", *lines, cwd=tmp_path)
    assert {word: sorted(words) for word, (words, _) in zip(cases, found, strict=True)} == cases


def test_directories_that_stand_without_a_flag(scripts, tmp_path):
    for name in ("run_base", "run_small"):
        (tmp_path / name).mkdir()
    (tmp_path / "run_notes.txt").touch()
    cases = {
        "run_ba": (["run_base"], "-o filenames"),
        "run_base run_": (["run_base", "run_small"], "-o filenames"),
        "--format=text run_s": (["run_small"], "-o filenames"),
        "--format text run_s": (["run_small"], "-o filenames"),
        "--format t": (["text"], ""),
        "--for": (["--format="], "-o nospace"),
    }
    lines = [f"electra-report {line}" for line in cases]
    found = complete(scripts["electra-report"], "_electra_report", *lines, cwd=tmp_path)
    assert {line: (sorted(words), how) for line, (words, how) in zip(cases, found, strict=True)} == cases


@pytest.mark.parametrize("name", MODULES)
def test_every_command_has_its_completion(scripts, name):
    function = "_" + name.replace("-", "_")
    result = subprocess.run(
        ["bash", "--norc", "-c", f"{scripts[name]}\ncomplete -p {name}"], capture_output=True, text=True, timeout=60
    )
    assert result.stdout == f"complete -F {function} {name}\n"
    (words, _) = complete(scripts[name], function, f"{name} -")[0]
    assert {"--help", "--print_completion="} < set(words)


FLAGS = [
    FlagInfo("mode", "train|eval", "What: [to] do, of the user's.", choices=("train", "eval")),
    FlagInfo("quiet", "", "Print less."),
    FlagInfo("workdir", "DIR", "Where."),
    FlagInfo("config.phases.data_dir", "DIR[,...]", "Data."),
]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(shell, tmp_path):
    script = completion_script("do-it", shell, FLAGS, takes_directories=True)
    (tmp_path / "script").write_text(script)
    if shell == "zsh":
        assert (
            r"'--mode=[What\: \[to\] do, of the user'\"'\"'s.]:train or eval:(train eval)'".replace('\\"', '"')
            in script
        )
        assert "'--noquiet[Print less.]'" in script and "'--workdir=[Where.]:DIR:_files -/'" in script
        assert "'--config.phases.data_dir=[Data.]:DIR[,...]:_sequence _files -/'" in script
        assert "    '*:directory:_files -/' " in script
    else:
        assert "complete -c do-it -l mode -x -a 'train eval' -d 'What: [to] do, of the user\\'s.'" in script
        assert "complete -c do-it -l noquiet -d 'Print less.'" in script
        assert "complete -c do-it -l config.phases.data_dir -x -a '(__fish_complete_directories)' -d" in script
        assert "complete -c do-it -a '(__fish_complete_directories)'\n" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, env=os.environ, timeout=60)
