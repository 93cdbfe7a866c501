"""The one rule of imports: a room imports only from rooms before it, and few rooms import what is slow."""

import ast
import pathlib
import re

import pytest

import electra_cli
from electra_cli.modeling import tf_models

PACKAGE = pathlib.Path(electra_cli.__file__).parent
# Rooms (subpackages) and the modules at the root, as ARCHITECTURE.md has them.
ORDER = (
    "__init__", "errors", "files", "config", "loggers", "modeling", "data", "workdir", "objectives", "training",
    "finetuning", "probes", "interop", "report", "planning", "api", "cli", "commands", "main",
)  # fmt: skip
# What a room may not import although it comes later in the order: data reads only these of the networks.
ONLY = {("data", "modeling"): {"features", "randomness", "schedules"}}


def modules() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path: pathlib.Path, *, at_top: bool = False) -> list[tuple[int, str]]:
    """Line and dotted name of what a module imports, also within its functions unless `at_top`."""
    tree = ast.parse(path.read_text())
    names = []
    for node in tree.body if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return names


def test_every_room_is_in_the_order():
    assert {room_of(path) for path in modules()} == set(ORDER)


def test_architecture_shows_the_rooms_in_this_order():
    table = (PACKAGE.parent / "ARCHITECTURE.md").read_text().partition("| room |")[2]
    positions = [table.index(f"`{room}`") for room in ORDER if (PACKAGE / room).is_dir()]
    assert positions == sorted(positions)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_to_earlier_rooms(path):
    room = room_of(path)
    for line, name in imports_of(path):
        package, *parts = name.split(".")
        if package != "electra_cli" or not parts or parts[0].startswith("__"):
            continue
        assert ORDER.index(parts[0]) <= ORDER.index(room), f"{path}:{line}: {room} imports {name}"
        allowed = ONLY.get((room, parts[0]))
        assert allowed is None or parts[1] in allowed, f"{path}:{line}: {room} imports {name}"


@pytest.mark.parametrize("room", ["config", "cli", "commands", "errors", "files", "main"])
def test_what_help_needs_does_not_import_tensorflow(room):
    for path in modules():
        if room_of(path) == room:
            slow = {"tensorflow", "tf_keras", "official", "tensorflow_text"}
            assert not [name for _, name in imports_of(path, at_top=True) if name.split(".")[0] in slow], path


def test_one_module_imports_tf_models_official():
    naming = [path for path in modules() if re.search(r'"official\.|^ *(from|import) official', path.read_text(), re.M)]
    assert [str(path.relative_to(PACKAGE)) for path in naming] == ["modeling/tf_models.py"]
    for name in tf_models._MODULES:
        assert callable(getattr(tf_models, name)), name
    with pytest.raises(AttributeError, match="no attribute 'BertEncode'"):
        tf_models.BertEncode  # noqa: B018
