"""The commands of README.md and docs/*.md: found, and checked without being run.

A fenced `bash` block below the comment `<!-- runs -->` is run by `docs_test.py`; each command of any block is checked
here, and so is a command that stands as code in a line of text.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import os
import pathlib
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator

import setuptools
from absl import flags

from electra_cli.config import finetuning as finetuning_config
from electra_cli.config import resolution
from electra_cli.config.finetuning import FINETUNING
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.errors import UserError
from tests.planning.common import load_script

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUNS = "<!-- runs -->"
_BLOCK = re.compile(rf"^(?P<indent> *)(?P<mark>{RUNS}\n *)?```bash\n(?P<text>.*?)^ *```$", re.M | re.S)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
# What a line of code is checked for when it stands in a text: whole commands, keys, flags.
_KEY = re.compile(r"(?:--)?config\.([a-z_0-9]+(?:\.[a-z_0-9]+)?)")
# Programs that are no part of this project, with what the documents may call. Nothing here could check more of them.
_FOREIGN = {
    "gcloud": (("storage", "cp"), ("compute", "tpus", "tpu-vm", "delete")),
    "source": ((".venv/bin/activate",),),
    "cat": ((),),
}


class Mistake(Exception):
    """A command of a document that would not work as it stands there."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of commands.

    Attributes:
      page: name of the document.
      line: of its first command, from 1.
      text: its lines.
      runs: whether it is marked to be run.
    """

    page: str
    line: int
    text: str
    runs: bool

    def lines(self) -> list[str]:
        """Returns its commands, each as one line.

        Raises:
          Mistake: bash does not read it.
        """
        done = subprocess.run(["bash", "-n"], input=self.text, capture_output=True, text=True)
        if done.returncode:
            raise Mistake(f"{self.page}:{self.line}: {done.stderr.strip()}")
        found, line = [], ""
        for part in self.text.replace("\\\n", " ").splitlines():
            line += part
            with contextlib.suppress(ValueError):  # a quotation that ends in a later line
                if split(line):
                    found.append(line.strip())
                line = ""
        return found


def pages() -> list[pathlib.Path]:
    """Returns the documents, README first."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: pathlib.Path) -> list[Block]:
    """Returns the blocks of commands of a document."""
    text = page.read_text()
    found = [
        Block(page.name, text[: match.start("text")].count("\n") + 1, match["text"], bool(match["mark"]))
        for match in _BLOCK.finditer(text)
    ]
    # A mark or a block that the expression above does not see would be neither run nor checked.
    assert len(re.findall(rf"^ *{RUNS}", text, re.M)) == sum(block.runs for block in found), (
        f"{page.name}: a mark without a block below it"
    )
    assert len(re.findall(r"^ *```(?:bash|sh|shell|console)", text, re.M)) == len(found), f"{page.name}: a block's form"
    return found


def inline(page: pathlib.Path) -> Iterator[str]:
    """Yields what stands as code in a document's text."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S)
    for match in _INLINE.finditer(text):
        yield match[1].replace("\\|", "|")


def split(line: str) -> list[str]:
    """Returns the words of a command line without comment, assignments, redirection and `&`.

    Raises:
      Mistake: it holds several commands.
      ValueError: it ends within quotes.
    """
    words = shlex.split(line, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if ">" in words:
        words = words[: words.index(">")]
    if any(word in ("&&", "||", "|", ";") for word in words):
        raise Mistake(f"{line}: several commands in a line are not read here")
    return [word for word in words if word not in ("&", "...")]


def check(words: list[str], *, is_whole: bool = True) -> None:
    """Checks that program, flags, keys, presets and extras of a command exist.

    Args:
      words: the command.
      is_whole: False for one that a text shortens to what it is about.

    Raises:
      Mistake: what does not.
    """
    program, *arguments = words
    if program in entry_points():
        _check_ours(program, arguments, is_whole=is_whole)
    elif program.endswith((".sh", ".ci/run")):
        _check_script(program, arguments, is_whole=is_whole)
    elif program == "sbatch":
        script = next((place for place, word in enumerate(arguments) if not word.startswith("-")), len(arguments))
        _expect(script < len(arguments), words, "no script is given")
        options = arguments[:script]
        _expect(all(re.fullmatch(r"--(nodes|gpus-per-node)=\d+", option) for option in options), words, "sbatch")
        _check_script(arguments[script], arguments[script + 1 :])
    elif program in ("python", "python3"):
        _check_python(arguments)
    elif program == "pip":
        _check_pip(arguments)
    elif program == "tensorboard":
        _parse(_tensorboard_parser(), arguments)
    elif program == "mkdocs":
        _expect(arguments in (["build", "--strict"], ["serve"]), words, "mkdocs is called otherwise here")
    elif program == "eval":
        inner = re.fullmatch(r"\$\((.+)\)", arguments[0])
        _expect(inner is not None, words, "is no command in $(...)")
        check(split(inner[1]))
    else:
        known = [call for call in _FOREIGN.get(program, ()) if tuple(arguments[: len(call)]) == call]
        _expect(bool(known), words, "no check knows this command: add one, or do without it")


def check_inline(code: str) -> None:
    """Checks code in a text where it is a command, a flag or a key; other code is not looked at.

    Raises:
      Mistake: what does not exist.
    """
    if code.startswith(("electra-", "scripts/", "eval ")) and " " in code:
        check(split(code), is_whole=False)
        return
    if re.fullmatch(r"(scripts|tests|docs|configs|electra_cli)/[\w./]*", code) and not (ROOT / code).exists():
        raise Mistake(f"`{code}`: there is no such file")
    for key in _KEY.findall(code):
        known = key in _all_keys() or key in {path.split(".")[0] for path in _all_keys()} | _NO_KEYS
        if not known:
            raise Mistake(f"`{code}`: there is no key config.{key}")
    flag = re.match(r"--([\w-]+)(?!\.)\b", code)
    if flag and flag[1] not in _all_flags():
        raise Mistake(f"`{code}`: no command has a flag --{flag[1]}")


_NO_KEYS = {"json", "py", "derived"}  # config.json and start/config.py are files


@functools.cache
def entry_points() -> dict[str, str]:
    """Returns the modules of the console commands by their names, as setup.py declares them."""
    declared = _setup()["entry_points"]["console_scripts"]
    return {name.strip(): module.strip().split(":")[0] for name, module in (line.split("=") for line in declared)}


@functools.cache
def _setup() -> dict:
    found: dict = {}
    original, setuptools.setup = setuptools.setup, found.update
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = original
    return found


@functools.cache
def _all_keys() -> set[str]:
    return {key for presets in (PRETRAINING, FINETUNING) for key in presets.fields}


@functools.cache
def _all_flags() -> set[str]:
    """Returns the flags of all commands, and those of others that the texts name."""
    ours = {name for module in entry_points().values() for name in importlib.import_module(module).FLAGS}
    ours |= set(load_script("compare_objectives").FLAGS)
    others = {"help", "print_completion", "use", "nodes", "logdir", "init_checkpoint"}
    beam = {"setup_file", "requirements_file", "environment_type"}
    return ours | {f"no{name}" for name in ours} | others | beam


def _check_ours(program: str, arguments: list[str], *, is_whole: bool = True) -> None:
    if arguments == ["--help"] or any(word.startswith("--print_completion=") for word in arguments):
        return
    # A module of its own for each command line: flags keep what they were given.
    with _config_files([program, *arguments]) as argv:
        module = runpy.run_module(entry_points()[program], run_name="documented")
        values = module["FLAGS"]
        try:
            rest = (module.get("parse_flags") or (module["CONFIG"].parse if "CONFIG" in module else values))(argv)
            if len(rest) > 1:
                raise UserError(f"unexpected argument {rest[1]}")
            if is_whole:
                _check_values(program, module, values)
        except (UserError, flags.Error) as error:
            raise Mistake(f"{shlex.join([program, *arguments])}: {error}") from error


def _check_values(program: str, module: dict, values: flags.FlagValues) -> None:
    """Calls what a command itself checks its flags with, before it looks at files."""
    if (program == "electra-prepare" and values.inspect is None) or program == "electra-import":
        module["_check"](values)
    elif program == "electra-finetune" and values.predict is None:
        finetuning_config.check(module["CONFIG"].config)
    elif program == "electra-pretrain" and values.config is None and (values.workdir or values.mode == "eval"):
        _expect(bool(values.workdir), [program], "no workdir is given, whose config is taken")
        module["CONFIG"].override(PRETRAINING.default_config())
    elif program in ("electra-pretrain", "electra-plan"):
        config = module["CONFIG"].config
        if not config.data.dir and not config.phases.data_dir:
            config.data.dir = "data"  # which examples leave out that are about other keys
        resolution.check(config)


@contextlib.contextmanager
def _config_files(argv: list[str]) -> Iterator[list[str]]:
    """Yields a command line; its config files exist meanwhile."""
    placeholders = []
    try:
        for argument in argv:
            files = re.fullmatch(r"--(config|finetune)=(.+\.py)", argument)
            for file in files[2].split(",") if files else ():
                if not os.path.exists(file):
                    preset = FINETUNING.path("classification") if files[1] == "finetune" else PRETRAINING.path("tiny")
                    placeholders.append(write_placeholder(pathlib.Path(file), preset))
        yield argv
    finally:
        for path in placeholders:
            path.unlink()


def write_placeholder(path: pathlib.Path, preset: str = PRETRAINING.path("tiny")) -> pathlib.Path:
    """Writes a config file where a document has one, with the values of a preset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pathlib.Path(preset).read_text())
    return path


def _check_script(program: str, arguments: list[str], *, is_whole: bool = True) -> None:
    path = ROOT / program
    _expect(path.is_file() and os.access(path, os.X_OK), [program], "there is no such script")
    if path.name in ("run_until_done.sh", "slurm.sh"):
        _check_ours("electra-pretrain", arguments, is_whole=is_whole)
    elif path.name == "quickstart.sh":
        rest = arguments[1:] if arguments and not arguments[0].startswith("-") else arguments
        _check_ours("electra-pretrain", ["--config=tiny", "--workdir=run", *rest], is_whole=is_whole)
    elif path.name == "tpu_vm.sh":
        places = len(arguments) >= 3 + is_whole and not any(word.startswith("-") for word in arguments[:3])
        _expect(places, [program, *arguments], "give NAME ZONE TYPE, then flags")
        _check_ours("electra-pretrain", arguments[3:], is_whole=is_whole)
    elif path.name == "test.sh":
        paths = [word for word in arguments if "/" in word]
        _expect(all((ROOT / word).exists() for word in paths), [program, *arguments], "no such tests")
        _expect([word for word in arguments if word not in paths] in ([], ["-m", "not slow"]), arguments, "for pytest")
    elif path.name == "compare_objectives.sh":
        script = load_script(path.stem)
        with _config_files([program, *arguments]) as argv:
            try:
                script.CONFIG.parse(argv)
                script._checked(script.FLAGS, [word for word in arguments if word.startswith("--config.")])
            except (UserError, flags.Error) as error:
                raise Mistake(f"{shlex.join([program, *arguments])}: {error}") from error
    else:
        _expect(not arguments, [program, *arguments], "takes nothing")


def _check_python(arguments: list[str]) -> None:
    if arguments[:2] == ["-m", "venv"]:
        _expect(len(arguments) == 3, arguments, "a directory")
    elif arguments[:2] == ["-m", "official.nlp.train"]:
        # Their flags, without TensorFlow: experiments and params are told by tests of the export.
        source = importlib.util.find_spec("official.common.flags").origin
        declared = set(re.findall(r"'(\w+)',", pathlib.Path(source).read_text()))
        for argument in arguments[2:]:
            _expect(argument.split("=")[0].removeprefix("--") in declared, arguments, f"{argument}: no such flag")
    else:
        script = ROOT / arguments[0]
        _expect(script.is_file(), arguments, "there is no such script")
        if "ConfigFlag(" in script.read_text():
            with _config_files([script.name, *arguments[1:]]) as argv:
                try:
                    load_script(script.stem).CONFIG.parse(argv)
                except (UserError, flags.Error) as error:
                    raise Mistake(f"{shlex.join(arguments)}: {error}") from error
            return
        options = set(re.findall(r'add_argument\(\s*f?"(--\w+)"', script.read_text()))
        for argument in arguments[1:]:
            name = argument.split("=")[0]
            _expect(not name.startswith("-") or name in options, arguments, f"{name}: the script has no such option")


def _check_pip(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("pip", exit_on_error=False)
    parser.add_argument("action", choices=["install"])
    for flag in ("--use-pep517", "--no-deps", "--force-reinstall"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-c", default="constraints.txt")
    parser.add_argument("requirement", nargs="+")
    found = _parse(parser, arguments)
    _expect((ROOT / found.c).is_file(), arguments, f"there is no {found.c}")
    for requirement in found.requirement:
        project, _, extra = requirement.rstrip("]").partition("[")
        if project == "apache-beam" or any(requirement in x for x in _setup()["extras_require"].values()):
            continue
        _expect(project in (".", _setup()["name"]), arguments, f"{project} is not this project")
        _expect(not extra or extra in _setup()["extras_require"], arguments, f"there is no extra {extra}")


@functools.cache
def _tensorboard_parser() -> argparse.ArgumentParser:
    from tensorboard.plugins.core.core_plugin import CorePluginLoader

    parser = argparse.ArgumentParser("tensorboard", exit_on_error=False)
    CorePluginLoader().define_flags(parser)
    return parser


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    try:
        found, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise Mistake(f"{parser.prog} {shlex.join(arguments)}: {error}") from error
    _expect(not rest, [parser.prog, *arguments], f"{rest} are not read")
    return found


def _expect(is_so: bool, words: list[str], reason: str) -> None:
    if not is_so:
        raise Mistake(f"{shlex.join(words)}: {reason}")
