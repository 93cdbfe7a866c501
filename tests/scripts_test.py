"""The scripts that people start from, with stand-ins for the programs that they call."""

import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"


@pytest.fixture
def bin_dir(tmp_path):
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


def stand_in(bin_dir, name, body):
    """Makes a program that notes its arguments in `calls` and does what `body`, a shell script, says."""
    path = bin_dir / name
    path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "{bin_dir}/calls"\n{body}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def calls(bin_dir):
    return (bin_dir / "calls").read_text().splitlines()


def run(bin_dir, script, *arguments, **environment):
    return subprocess.run(
        [str(SCRIPTS / script), *arguments],
        env={**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}", **environment},
        cwd=bin_dir,
        capture_output=True,
        text=True,
        timeout=60,
    )


def exits(bin_dir, *codes):
    """A body that ends with each code in turn."""
    return f'n=$(wc -l < "{bin_dir}/calls"); codes=({" ".join(map(str, codes))}); exit "${{codes[$((n - 1))]}}"'


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0], 0), ([75, 75, 0], 0), ([2], 2), ([1, 137, 75, 1, 0], 0), ([1, 137, 1], 1)],
)
def test_run_until_done(bin_dir, codes, expected):
    stand_in(bin_dir, "electra-pretrain", exits(bin_dir, *codes))
    result = run(bin_dir, "run_until_done.sh", "--config=x", "--workdir=a b", PAUSE="0", MAX_CRASHES="3")
    assert result.returncode == expected, result.stderr
    assert calls(bin_dir) == ["electra-pretrain --config=x --workdir=a b"] * len(codes)


def test_run_until_done_passes_a_signal_on_and_ends(bin_dir):
    stand_in(
        bin_dir,
        "electra-pretrain",
        f"trap 'sleep 0.3; exit 75' TERM; touch {bin_dir}/ready; while true; do sleep 0.05; done",
    )
    process = subprocess.Popen(
        [str(SCRIPTS / "run_until_done.sh")], env={**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}"}
    )
    while not (bin_dir / "ready").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75
    assert len(calls(bin_dir)) == 1


@pytest.mark.parametrize(("code", "is_requeued"), [(0, False), (75, True), (2, False)])
def test_slurm(bin_dir, code, is_requeued):
    stand_in(bin_dir, "srun", f"exit {code}")
    stand_in(bin_dir, "scontrol", "")
    result = run(bin_dir, "slurm.sh", "--config=x", SLURM_JOB_ID="7")
    assert result.returncode == code
    assert calls(bin_dir)[0].endswith("electra-pretrain --config=x")
    assert (calls(bin_dir)[1:] == ["scontrol requeue 7"]) == is_requeued


@pytest.mark.parametrize("is_active", [True, False])
def test_quickstart_tells_what_comes_next_once(bin_dir, is_active):
    # A checkout whose environment is made already.
    root, environment = bin_dir.parent, bin_dir.parent / ".venv"
    shutil.copytree(SCRIPTS, root / "scripts")
    for name in ("setup.py", "constraints.txt"):
        shutil.copy(SCRIPTS.parent / name, root)
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    (environment / "bin" / "activate").write_text(f"export VIRTUAL_ENV={environment}\n")
    sums = subprocess.run(["cksum", root / "setup.py", root / "constraints.txt"], capture_output=True, check=True)
    (environment / ".electra-pretrain.installed").write_bytes(sums.stdout)
    stand_in(bin_dir, "electra-prepare", '[[ " $* " == *" --quiet "* ]] || echo "Next: electra-pretrain"')
    stand_in(bin_dir, "electra-pretrain", "")
    result = subprocess.run(
        [root / "scripts" / "quickstart.sh", "--config.train.num_steps=8"],
        env={"PATH": f"{bin_dir}:{os.environ['PATH']}", **({"VIRTUAL_ENV": str(environment)} if is_active else {})},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert [call.split()[0] for call in calls(bin_dir)] == ["electra-prepare", "electra-pretrain"]
    assert calls(bin_dir)[1].endswith("--mode=train_and_eval --config.train.num_steps=8")
    assert "Next:" not in result.stdout
    lines = result.stdout.splitlines()
    report = lines.index("Report:      electra-report quickstart/run")
    assert (lines[report - 1] == "First:       source .venv/bin/activate") == (not is_active)
    assert lines[-2].endswith("--workdir=RUN --dry_run")


def test_tpu_vm_makes_installs_and_goes_on_after_a_preemption(bin_dir):
    # The TPU is not there at first, and again after the first run, which a preemption ends.
    stand_in(
        bin_dir,
        "gcloud",
        f"""case "$*" in
        *describe*) [[ -f "{bin_dir}/there" ]] && echo READY ;;
        *create*) touch "{bin_dir}/there" ;;
        *electra-pretrain\\ --config*) if [[ -f "{bin_dir}/again" ]]; then exit 0; fi
          touch "{bin_dir}/again"; rm "{bin_dir}/there"; exit 255 ;;
        esac""",
    )
    result = run(bin_dir, "tpu_vm.sh", "name", "zone", "v4-8", "--config=small", "--workdir=gs://b/a run", SPOT="yes")
    assert result.returncode == 0, result.stderr
    made = [call for call in calls(bin_dir) if " create " in call]
    assert len(made) == 2 and all("--accelerator-type=v4-8" in call and "--spot" in call for call in made)
    runs = [call for call in calls(bin_dir) if "bin/electra-pretrain --config" in call]
    assert len(runs) == 2 and all(r"--workdir=gs://b/a\ run" in call for call in runs)
    assert run(bin_dir, "tpu_vm.sh", "name").returncode == 2


def test_tpu_vm_never_has_two_runs_at_once(bin_dir, tmp_path):
    """The connection breaks while the first run goes on."""
    home = tmp_path / "home"
    (home / "venv/bin").mkdir(parents=True)
    stand_in(home / "venv/bin", "electra-pretrain", "echo begin >> log; sleep 1; echo end >> log")
    stand_in(
        bin_dir,
        "gcloud",
        f"""case "$*" in
        *describe*) echo READY ;;
        *electra-pretrain\\ --config*) cd "{home}"; command=${{@: -1}}; command=${{command#--command=}}
          if [[ -f broken ]]; then exec bash -c "$command"; fi
          touch broken; bash -c "$command" > first.log 2>&1 & sleep 0.5; exit 255 ;;
        esac""",
    )
    result = run(bin_dir, "tpu_vm.sh", "name", "zone", "v4-8", "--config=small", "--workdir=gs://b/run")
    assert result.returncode == 0 and "the run continues there; waiting for its end" in result.stderr
    assert (home / "log").read_text().split() == ["begin", "end"] * 2


def test_tpu_vm_serves_on_all_hosts_of_a_slice(bin_dir):
    """What each call of gcloud is for; a preemption ends the first run, and a signal the second."""
    stand_in(
        bin_dir,
        "gcloud",
        f"""case "$*" in
        *describe*) [[ -f "{bin_dir}/there" ]] && echo READY ;;
        *create*) touch "{bin_dir}/there" ;;
        *electra-pretrain\\ --config*) echo run >> "{bin_dir}/runs"
          case $(wc -l < "{bin_dir}/runs") in 1) rm "{bin_dir}/there"; exit 255 ;; 2) exit 75 ;; esac ;;
        esac""",
    )
    result = run(bin_dir, "tpu_vm.sh", "name", "zone", "v5litepod-16", "--config=small", "--workdir=gs://b/run")
    assert result.returncode == 0, result.stderr
    kinds = {
        " create ": "create",
        " scp ": "copy",
        "pip install": "install",
        "start_grpc_tpu_worker": "serve",
        "venv/bin/electra-pretrain --": "run",
        'kill "$': "end",
    }
    made = [(kinds[word], call) for call in (bin_dir / "calls").read_text().split("gcloud ") for word in kinds
            if word in call]  # fmt: skip
    new = ["create", "copy", "install"]
    assert [kind for kind, _ in made] == [*new, "serve", "run", *new, "serve", "run", "end", "serve", "run", "end"]
    for kind, call in made:
        if kind == "create":
            assert "--version=v2-alpha-tpuv5-lite" in call
        else:
            assert f"--worker={0 if kind == 'run' else 'all'} " in call.replace("\n", " ")
        if kind == "run":
            assert "TPU_NAME=name TPU_LOAD_LIBRARY=0 venv/bin/electra-pretrain --config=small" in call
    assert "local path" not in result.stderr


@pytest.mark.parametrize("works", [True, False])
def test_tpu_vm_has_one_server_a_host_for_each_run(bin_dir, tmp_path, works):
    home = tmp_path / "home"
    (home / "venv/bin").mkdir(parents=True)
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    stand_in(bin_dir, "systemctl", "exit 0")
    stand_in(bin_dir, "sudo", "exit 0")
    listen = f"exec {sys.executable} -m http.server --bind localhost {port}"
    stand_in(home / "venv/bin", "start_grpc_tpu_worker", listen if works else "echo no metadata; exit 1")
    # The second connection breaks, and its run goes on.
    stand_in(
        home / "venv/bin",
        "electra-pretrain",
        'cat server.pid >> pids; codes=(75 1 0); n=$(wc -l < pids); exit "${codes[n - 1]}"',
    )
    stand_in(
        bin_dir,
        "gcloud",
        f"""case "$*" in
        *describe*) echo READY ;;
        *--command=*) cd "{home}"; command=${{@: -1}}; bash -c "${{command#--command=}}"; code=$?
          if [[ $* == *electra-pretrain\\ --config* && $code == 1 ]]; then exit 255; fi; exit $code ;;
        esac""",
    )
    flags = ("--config=small", "--workdir=run", "--config.data.dir=gs://b/data")
    result = run(bin_dir, "tpu_vm.sh", "name", "zone", "v4-16", *flags, TPU_TASK_PORT=str(port))
    assert "--workdir=run is a local path, but the hosts of a v4-16 have no disk in common" in result.stderr
    assert "data.dir" not in result.stderr
    assert "sudo systemctl stop tpu-runtime" in calls(bin_dir)
    if not works:
        assert result.returncode == 1 and "no metadata\ntpu_vm: the TensorFlow servers did not start" in result.stderr
        return
    assert result.returncode == 0, result.stderr
    first, second, third = map(int, (home / "pids").read_text().split())
    assert first != second == third
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("localhost", port))


def test_tpu_vm_refuses_what_is_no_type_or_has_no_server(bin_dir):
    for type_name, message in (
        ("8", "tpu_vm: TYPE=8 is no type of TPU: give one as v4-8 or v5litepod-16\n"),
        ("v6e-16", "tpu_vm: TYPE=v6e-16: TensorFlow 2.20's server for slices does not know v6e: give v6e-8, or a "
         "larger v5p\n"),
    ):  # fmt: skip
        result = run(bin_dir, "tpu_vm.sh", "name", "zone", type_name, "--config=small")
        assert (result.returncode, result.stderr) == (2, message)
