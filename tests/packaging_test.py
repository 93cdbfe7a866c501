"""The sdist and the wheel that is built from it, installed outside the checkout."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
import yaml
from packaging.metadata import ExceptionGroup, Metadata

from electra_cli import __version__
from electra_cli.config.pretraining import PRETRAINING

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(*arguments, cwd, **environment):
    result = subprocess.run(
        list(map(str, arguments)), cwd=cwd, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def check_metadata(content: str) -> None:
    """What `twine check` does: every field must be valid, and the description one that an index shows."""
    checked = Metadata.from_email(content, validate=True)
    assert (checked.name, str(checked.version)) == ("electra-pretrain", __version__)
    assert checked.summary and checked.license and checked.requires_python == ">=3.10,<3.14"
    assert checked.description_content_type == "text/markdown"
    assert checked.description.strip() == (ROOT / "README.md").read_text().strip()


def test_metadata_that_an_index_refuses():
    valid = "Metadata-Version: 2.1\nName: electra-pretrain\nVersion: 1.0\n"
    Metadata.from_email(valid, validate=True)
    for line in ("Requires-Dist: absl-py>>1\n", "Description-Content-Type: text/latex\n", "Keyword: x\n"):
        with pytest.raises(ExceptionGroup):
            Metadata.from_email(valid + line, validate=True)


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
    for content in ((sdist / "PKG-INFO").read_text(), metadata):
        check_metadata(content)
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
    assert (tmp_path / "site" / "electra_cli" / "planning" / "device_check.json").exists()


@pytest.mark.slow
def test_the_tpu_extra_is_what_tensorflow_is_imported_from(tmp_path):
    """Whichever of the two packages pip wrote last, and with a libtpu that has what TensorFlow looks up in it."""
    wheels, python = tmp_path / "wheels", tmp_path / "venv/bin/python"
    extra = re.findall(r'"([^"]+)"', re.search(r'"tpu": \[(.+)\]', (ROOT / "setup.py").read_text())[1])
    tensorflow = re.search(r"^tensorflow==.+$", (ROOT / "constraints.txt").read_text(), re.M)[0]
    pip = [sys.executable, "-m", "pip", "--quiet"]
    download = [*pip, "download", "--no-deps", "--dest", wheels]
    probe = subprocess.run([*download, tensorflow], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no wheels can be had here: {probe.stderr.strip().splitlines()[-1]}")
    run(*download, *extra, cwd=tmp_path)
    # Other requirements come from this environment, which has all of tensorflow's.
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (site / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    install = [*pip, "--python", python, "install", "--no-compile", "--no-deps", "--no-index", "--find-links", wheels]
    run(*install, *extra, cwd=tmp_path)
    run(*install, tensorflow, "--ignore-installed", cwd=tmp_path)
    last = re.search(r"venv/bin/pip install --quiet (--no-deps .+ '(.+)')\"", (ROOT / "scripts/tpu_vm.sh").read_text())
    run(*install, *last[1].replace("'", "").split(), cwd=tmp_path)

    code = (
        "import ctypes, pathlib, libtpu, tensorflow as tf; print(tf.__file__); "
        "tf.io.gfile.exists('x'); print(tf.reduce_sum(tf.ones([2, 3])).numpy()); "
        "print(hasattr(ctypes.CDLL(libtpu.get_library_path()), 'ConfigureDistributedTpuOp_DoWork'))"
    )
    file, total, has_symbol = run(
        python,
        "-W",
        "ignore",
        "-c",
        code,
        cwd=tmp_path,
        TPU_SKIP_MDS_QUERY="1",  # this is no TPU VM
    ).split()
    assert (file, total, has_symbol) == (str(site / "tensorflow/__init__.py"), "6.0", "True")
    library = "tensorflow/libtensorflow_framework.so.2"
    with zipfile.ZipFile(next(wheels.glob("tensorflow_tpu*"))) as wheel:
        assert (site / library).read_bytes() == wheel.read(library)
        # What scripts/tpu_vm.sh starts on each host of a slice, and refuses.
        server = wheel.read("tensorflow/python/tools/grpc_tpu_worker.py").decode()
    assert (site.parents[2] / "bin/start_grpc_tpu_worker").exists()
    assert "startswith('v5')" in server and "v6e" not in server


def test_the_citation_and_the_workflow_follow_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0" and "ELECTRA" in citation["preferred-citation"]["title"]
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    of_tags, of_all = [step for step in job["steps"] if "run" in step]
    assert (of_all["run"], of_tags["if"]) == (".ci/run", "github.ref_type == 'tag'")
    for tag, is_right in ((f"v{__version__}", True), (f"v{__version__}.1", False), ("v9", False)):
        command = ["bash", "-e", "-c", of_tags["run"]]
        ended = subprocess.run(command, cwd=ROOT, env={**os.environ, "GITHUB_REF_NAME": tag}, capture_output=True)
        assert (ended.returncode == 0) == is_right, tag


def test_the_newest_changes_are_those_of_this_version():
    headings = re.findall(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == __version__
