"""What several tests of plans share."""

import importlib.util
import pathlib
import sys

SCRIPTS = pathlib.Path(__file__).parent.parent.parent / "scripts"


def load_script(name):
    """Returns a script as a module; scripts import each other."""
    if str(SCRIPTS) not in sys.path:
        sys.path.append(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
