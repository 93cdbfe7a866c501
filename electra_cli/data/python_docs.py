"""The built-in corpus: English prose from the documentation strings and texts of the Python installation and of the
packages that this program needs, so that a first model can be trained without a download. The rules below leave out
code, tables and signatures; a paragraph that occurs several times is taken once."""

import ast
import hashlib
import importlib.metadata
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator

NAME = "builtin:python-docs"

# The packages whose requirements, and theirs, are read.
_ROOTS = ("tensorflow", "tensorflow-text", "tf-models-official", "absl-py", "ml-collections", "tokenizers")
_TEXT_SUFFIXES = (".rst", ".txt", ".md")
_SKIPPED_DIRECTORIES = {"test", "tests", "testing", "testdata", "site-packages", "__pycache__", "idle_test", "include"}
_FILES_A_TASK = 40
_MIN_WORDS_OF_PARAGRAPH = 8
_MIN_WORDS_OF_DOCUMENT = 50
# Words that nearly every English paragraph has one of.
_COMMON_WORDS = frozenset("the a an of to is in and for that this be are or it with".split())
_NO_PROSE = re.compile(
    r"^\s*(>>>|\.\.\.|\$ |import |from \w+ import|#include|[|+=\-*_~^`]{3,})|::\s*$|\t|\{|\}|;\s|={2,}|-{4,}", re.M
)
_MARKUP = re.compile(r"``?|\*\*|:[a-z:]+:(?=`)|(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)")


def extract(output_file: str, map_tasks: Callable[..., Iterator], report: Callable[..., None]) -> None:
    """Writes the corpus to a text file: a paragraph a line, documents separated by blank lines.

    `map_tasks` is an ordered `map`, over processes or not; `report` receives (stage, fraction done, bytes).
    """
    files = [*_stdlib_files(), *_package_files()]
    tasks = [files[start : start + _FILES_A_TASK] for start in range(0, len(files), _FILES_A_TASK)]
    seen: set[bytes] = set()
    num_bytes = 0
    with open(output_file, "w", encoding="utf-8") as output:
        for number, paragraphs_of_files in enumerate(map_tasks(extract_prose, tasks)):
            for paragraphs in paragraphs_of_files:
                new = list(_unseen(paragraphs, seen))
                if sum(len(paragraph.split()) for paragraph in new) < _MIN_WORDS_OF_DOCUMENT:
                    continue
                text = "\n".join(new) + "\n\n"
                output.write(text)
                num_bytes += len(text)
            report("reading Python documentation", (number + 1) / len(tasks), num_bytes)


def _unseen(paragraphs: Iterable[str], seen: set[bytes]) -> Iterator[str]:
    for paragraph in paragraphs:
        digest = hashlib.blake2b(paragraph.lower().encode(), digest_size=12).digest()
        if digest not in seen:
            seen.add(digest)
            yield paragraph


def _stdlib_files() -> list[str]:
    root = sysconfig.get_paths()["stdlib"]
    paths = []
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = sorted(set(subdirectories) - _SKIPPED_DIRECTORIES)
        paths += [os.path.join(directory, name) for name in sorted(names) if name.endswith((".py", *_TEXT_SUFFIXES))]
    return paths


def _package_files() -> list[str]:
    paths = []
    for distribution in _distributions():
        for path in sorted(distribution.files or [], key=str):
            is_text = path.suffix in (".py", *_TEXT_SUFFIXES) or path.name == "METADATA"
            if is_text and not _SKIPPED_DIRECTORIES & set(path.parts[:-1]) and not path.name.endswith("_test.py"):
                paths.append(str(distribution.locate_file(path)))
    return paths


def _distributions() -> list[importlib.metadata.Distribution]:
    """The installed ones among the requirements of the roots, and their requirements, sorted by name."""
    installed: dict[str, importlib.metadata.Distribution] = {}
    names = list(_ROOTS)
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in installed:
            continue
        try:
            installed[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a requirement of another platform or Python
        for requirement in installed[name].requires or []:
            if "extra ==" not in requirement:
                names.append(re.match(r"[\w.-]+", requirement)[0])  # type: ignore[index]
    return [installed[name] for name in sorted(installed)]


def extract_prose(files: list[str]) -> list[list[str]]:
    """Returns the paragraphs of prose of each file, each paragraph in one line."""
    return [[line for text in _texts(file) for line in _paragraphs(text)] for file in files]


def _texts(file: str) -> list[str]:
    """Returns a Python file's documentation strings, or all of a text file; nothing where that fails."""
    try:
        with open(file, encoding="utf-8") as stream:
            content = stream.read()
        if not file.endswith(".py"):
            # The head of METADATA is no prose; the description follows an empty line.
            return [content.partition("\n\n")[2] if file.endswith("METADATA") else content]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in other people's strings
            tree = ast.parse(content)
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError):
        return []  # samples of other encodings and templates lie among the files
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = [node for node in ast.walk(tree) if isinstance(node, nodes)]
    documented.sort(key=lambda node: getattr(node, "lineno", 0))
    return [docstring for node in documented if (docstring := ast.get_docstring(node, clean=False))]


def _paragraphs(text: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if _NO_PROSE.search(block):
            continue
        paragraph = _MARKUP.sub("", " ".join(block.split())).lstrip("-*#. ")
        if _is_prose(paragraph):
            yield paragraph


def _is_prose(paragraph: str) -> bool:
    words = paragraph.split()
    if len(words) < _MIN_WORDS_OF_PARAGRAPH or not paragraph.isascii():
        return False
    num_letters = sum(character.isalpha() or character == " " for character in paragraph)
    common = sum(word in _COMMON_WORDS for word in paragraph.lower().split())
    return num_letters > 0.85 * len(paragraph) and common > 0.1 * len(words)
