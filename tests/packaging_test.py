"""The sdist and the wheel that is built from it, installed outside the checkout."""

import pathlib
import shutil
import subprocess
import sys
import tarfile

import yaml

from electra_cli import __version__
from electra_cli.config.pretraining import PRETRAINING

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(*arguments, cwd, **environment):
    result = subprocess.run(
        list(map(str, arguments)), cwd=cwd, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_wheel_of_the_sdist_works_outside_the_checkout(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("electra_cli", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    build = "from setuptools import build_meta; build_meta.build_sdist('..')"
    run(sys.executable, "-W", "ignore", "-c", build, cwd=source)
    with tarfile.open(tmp_path / f"electra_pretrain-{__version__}.tar.gz") as archive:
        archive.extractall(tmp_path / "sdist", filter="data")
    (sdist,) = (tmp_path / "sdist").iterdir()
    build = "from setuptools import build_meta; build_meta.build_wheel('../..')"
    run(sys.executable, "-W", "ignore", "-c", build, cwd=sdist)
    shutil.unpack_archive(tmp_path / f"electra_pretrain-{__version__}-py3-none-any.whl", tmp_path / "site", "zip")

    metadata = (tmp_path / "site" / f"electra_pretrain-{__version__}.dist-info" / "METADATA").read_text()
    assert "\nRequires-Python: >=3.10,<3.14\n" in metadata and "\nLicense-File: LICENSE\n" in metadata
    assert "\nDescription-Content-Type: text/markdown\n" in metadata and "\n# electra-pretrain\n" in metadata
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from electra_cli import main; "
        "from electra_cli.config.pretraining import PRETRAINING; "
        "print(main.__file__, *PRETRAINING.names())"
    )
    file, *presets = run(sys.executable, "-W", "ignore", "-c", code, tmp_path / "site", cwd=tmp_path).split()
    assert file == str(tmp_path / "site" / "electra_cli" / "main.py")
    assert presets == PRETRAINING.names()
    assert (tmp_path / "site" / "electra_cli" / "report" / "page.html.jinja").exists()


def test_the_citation_and_the_workflow_follow_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0" and "ELECTRA" in citation["preferred-citation"]["title"]
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
