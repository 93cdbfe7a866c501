"""Every command of the documents: all are checked, those of marked blocks are run; and the site builds."""

import contextlib
import gzip
import io
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import time

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests import documents
from tests.conftest import make_text
from tests.documents import Mistake, blocks, check, check_inline, inline, pages, split
from tests.graphs import without_graphs
from tests.planning.common import load_script

PAGES = [pytest.param(page, id=page.name) for page in pages()]


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_what_the_programs_take(page):
    for block in blocks(page):
        for line in block.lines():
            check(split(line))


def test_the_quickstart_calls_what_the_programs_take():
    text = (documents.ROOT / "scripts" / "quickstart.sh").read_text().replace("\\\n", " ").replace('"$@"', "")
    calls = re.findall(r"^ *(electra-.*)$", text, re.M)
    assert len(calls) == 3
    for line in calls:
        check(split(line))


@pytest.mark.parametrize("page", PAGES)
def test_code_in_the_text_names_what_there_is(page):
    for code in inline(page):
        check_inline(code)


@pytest.mark.parametrize(
    "line",
    [
        "electra-pretrain --config=small --config.data.dir=data --wrokdir=run",
        "electra-pretrain --config=smal --workdir=run",
        "electra-pretrain --config=small --config.data.dri=data --workdir=run",
        "electra-pretrain --config=small --config.train.num_steps=many --workdir=run",
        "electra-pretrain --config=small --config.data.mask_prob=2 --workdir=run",
        "electra-pretrain --config=start/config.py --config.model.layers=2 --workdir=run",
        "electra-pretrain --config=small data --workdir=run",
        "electra-plan --config=small --mesure",
        "electra-prepare --input=text --output_dir=data",
        "electra-prepare --input=text --learn_vocab=many --output_dir=data",
        "electra-finetune --config=clasification --config.data.train=x.tsv --init=run --workdir=w",
        "electra-finetune --config=glue --config.task=rte --init=run --workdir=w",
        "electra-export --workdir=run --format=pytorch --output_dir=x",
        "electra-import --format=tfm --source=x",
        "electra-report run --fromat=text",
        "electra-serve run",
        "scripts/quickstart.sh --config.train.steps=1",
        "scripts/quick_start.sh",
        "scripts/run_until_done.sh --conifg=small",
        "SPOT=yes scripts/tpu_vm.sh name zone --config=small --workdir=run",
        "scripts/test.sh tests/dta",
        "scripts/compare_objectives.sh --config=tiny --data=data --probs=a.tsv --output_dir=x",
        "scripts/compare_objectives.sh --config=tiny --data=data --probes=a.tsv --output_dir=x --config.train.seed=3",
        "sbatch --nodes=4 scripts/slurm.sh --config=small --workdri=run",
        "sbatch --noodles=4 scripts/slurm.sh --config=small",
        "python scripts/benchmark.py --prestet=small",
        "python scripts/compile_for.py --config=small --device=v5e,h100 --batches=32",
        "python scripts/bench.py",
        "python -m official.nlp.train --experimint=x",
        "pip install --use-pep517 -c constraints.txt '.[gpus]'",
        "pip install 'electra-pretrained[gpu]'",
        "pip install -c constraint.txt .",
        "tensorboard --logdri=run",
        "gcloud storage mv a b",
        "rm -rf /",
    ],
)
def test_a_mistyped_command_is_found(line):
    with pytest.raises(Mistake):
        check(split(line))


@pytest.mark.parametrize(
    "code", ["config.train.steps", "--config.eval.intervall=0", "--dry-run", "--inspct=data", "electra-plan --jsn"]
)
def test_mistyped_code_in_a_text_is_found(code):
    with pytest.raises(Mistake):
        check_inline(code)


def test_blocks_and_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Text\n\n<!-- runs -->\n```bash\nA=1 one --flag='a b' \\\n  --more  # why\n\ntwo > file\n```\n"
        "1. List\n\n    ```bash\n    three &\n    ```\n"
    )
    first, second = blocks(page)
    assert (first.line, first.runs, second.line, second.runs) == (5, True, 13, False)
    assert [split(line) for line in first.lines()] == [["one", "--flag=a b", "--more"], ["two"]]
    assert [split(line) for line in second.lines()] == [["three"]]
    page.write_text("<!-- runs -->\n\n```bash\none\n```\n")
    with pytest.raises(AssertionError, match="a mark without a block"):
        blocks(page)
    page.write_text('```bash\necho "\n```\n')
    with pytest.raises(Mistake, match="unexpected EOF"):
        blocks(page)[0].lines()


def test_the_configuration_page_is_what_the_code_declares():
    script = load_script("write_config_page")
    assert script.PAGE.read_text() == script.render(), "run scripts/write_config_page.py"


def test_the_site_builds_without_warnings(tmp_path):
    config = load_config(str(documents.ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    page = (tmp_path / "site" / "differences.html").read_text()
    assert 'href="ARCHITECTURE.html#ten-decisions"' in page
    assert (tmp_path / "site" / "ARCHITECTURE.html").exists()
    # Nothing is loaded from other hosts.
    for html in (tmp_path / "site").glob("*.html"):
        assert not [part for part in html.read_text().split("<")[1:] if "src=" in part and "://" in part], html.name


# The models and runs of the documents made small: what is run is otherwise what stands there.
_SMALL = {
    "electra-prepare": ["--num_workers=1", "--validation_fraction=0.2"],
    "electra-pretrain": [
        "--config.model.embedding_size=16",
        "--config.model.num_layers=1",
        "--config.model.hidden_size=16",
        "--config.model.num_attention_heads=2",
        "--config.model.intermediate_size=32",
        "--config.train.num_steps=2",
        "--config.train.global_batch_size=4",
        "--config.train.steps_per_loop=1",
        "--config.train.log_interval=1",
        "--config.train.checkpoint_interval=1",
        "--config.eval.interval=1",
        "--config.eval.num_examples=8",
        "--config.eval.num_samples=0",
        "--config.runtime.jit_compile=false",
    ],
    "electra-finetune": [
        "--config.train.num_epochs=1",
        "--config.train.global_batch_size=16",
        "--config.data.max_seq_length=32",
        "--config.runtime.jit_compile=false",
    ],
}
_LABELS = {"happy": "good", "heavy": "bad"}


def write_inputs(directory):
    """Writes the files that the documents' commands read."""
    for number, name in enumerate(("books", "text", "more_text")):
        (directory / name).mkdir()
        (directory / name / "a.txt").write_text(make_text(60, seed=number))
    with gzip.open(directory / "news.txt.gz", "wt") as file:
        file.write(make_text(20, seed=9))
    nouns = "cat dog bird fish horse farmer child song story letter".split()
    lines = [
        f"{first} {word} {noun} sings\t{label}"
        for word, label in _LABELS.items()
        for noun in nouns
        for first in ("the", "a", "one")
    ]
    (directory / "reviews.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    (directory / "new.tsv").write_text("text\nthe happy river sings\n")
    (directory / "new_words.txt").write_text("rivergarden\nwintersong\n")


def run(line, monkeypatch):
    """Runs a command, ours in this process, as its console script does."""
    program, *arguments = split(line)
    if program not in documents.entry_points():
        subprocess.run(["bash", "-c", line], check=True)
        return
    is_from_workdir = program == "electra-pretrain" and not any(word.startswith("--config") for word in arguments)
    small = [] if is_from_workdir else [*_SMALL.get(program, ())]
    if "--learn_vocab=30522" in arguments:
        small.append("--learn_vocab=150")  # as many tokens as the text has are the most that can be learned
    if any(word.startswith(("--inspect", "--predict")) for word in arguments):
        small = []
    monkeypatch.setattr(sys, "argv", [program, *arguments, *small])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)}
    output = io.StringIO()
    try:
        with without_graphs(), contextlib.redirect_stdout(output), pytest.raises(SystemExit) as end:
            runpy.run_module(documents.entry_points()[program], run_name="__main__")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert end.value.code in (None, 0), f"{line}\n{output.getvalue()}"
    for argument in arguments:
        written = re.match(r"--(?:output_dir|output|workdir)=(.+)", argument)
        assert not written or "--dry_run" in arguments or pathlib.Path(written[1]).exists(), line


@pytest.mark.slow
def test_marked_blocks_run(tmp_path, monkeypatch):
    ran = []
    for page in pages():
        marked = [block for block in blocks(page) if block.runs]
        if not marked:
            continue
        directory = tmp_path / page.stem
        directory.mkdir()
        monkeypatch.chdir(directory)
        write_inputs(directory)
        for block in marked:
            for line in block.lines():
                started = time.monotonic()
                run(line, monkeypatch)
                ran.append(split(line)[0])
                print(f"{page.name}: {time.monotonic() - started:.1f} s: {line}", file=sys.stderr)
    assert set(ran) >= set(documents.entry_points())
