"""The panel, drawn into text and on a pseudo-terminal."""

import io
import json
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from electra_cli.loggers.panel import Panel
from tests.terminal import Terminal, screen, shows_cursor

RATES = {"tokens_per_second": 14_812.4, "model_flops_utilization": 0.41, "input_wait_fraction": 0.004}
TRAIN = {"total_loss": 23.1234, "masked_lm_loss": 5.6804, "rtd_loss": 0.34983, "rtd_auc": 0.7214, **RATES}
HELD_OUT = {"total_loss": 22.98571, "masked_lm_loss": 5.59671, "rtd_loss": 0.34782, "rtd_auc": 0.7386}


def drawn(panel, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(panel.render())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_what_it_shows():
    now = [0.0]
    panel = Panel("electra-pretrain --workdir=run", Console(file=io.StringIO()), clock=lambda: now[0])
    with panel.status("Starting TensorFlow"):
        now[0] = 5.0
        assert drawn(panel, 60) == [
            "electra-pretrain --workdir=run, 5s ─────────────────────────",
            "now         starting TensorFlow, 5s",
        ]
    bold = Panel("electra-pretrain --workdir=[bold]run", Console(file=io.StringIO()), clock=lambda: now[0])
    assert drawn(bold, 60)[0].startswith("electra-pretrain --workdir=[bold]run, ")
    panel.progress(640, 1200, 62.0, "phase 1 of 2")
    panel.metrics("train", 600, TRAIN, "step 600/1,200")
    panel.metrics("validation", 600, HELD_OUT, "step 600 held-out")
    panel.checkpoint(600, "run/checkpoints/ckpt-600")
    now[0] = 72.0
    assert drawn(panel, 80) == [
        "electra-pretrain --workdir=run, 1m 12s ─────────────────────────────────────────",
        "step 640/1,200, phase 1 of 2  ━━━━━━━━━━━━━━━━                53 %  1m 2s left",
        "            total_loss  masked_lm_loss  rtd_loss  rtd_auc  step",
        "train           23.123           5.680    0.3498    0.721   600",
        "held-out        22.986           5.597    0.3478    0.739   600",
        "speed       14,812 tokens/s  utilization 41%  waiting for input 0%",
        "checkpoint  step 600 in run, 1m 7s ago",
    ]
    assert drawn(panel, 60)[2:6] == [
        "            masked_lm_loss  rtd_loss  rtd_auc  step",
        "train                5.680    0.3498    0.721   600",
        "held-out             5.597    0.3478    0.739   600",
        "speed       14,812 tokens/s  utilization 41%  input wait 0%",
    ]
    assert drawn(panel, 40)[2:6] == [
        "            rtd_auc  step",
        "train         0.721   600",
        "held-out      0.739   600",
        "speed       14,812 tokens/s",
    ]
    assert all(len(line) <= 40 for line in drawn(panel, 40))


def test_checkpoints_of_seeds_are_told_apart():
    panel = Panel("title", Console(file=io.StringIO()), clock=lambda: 0.0)
    panel.progress(35, 66, 5.0, "seed 1, 2 of 2")
    panel.checkpoint(33, "/home/tuned/seed-0/checkpoints/ckpt-33")
    assert drawn(panel, 80)[2] == "checkpoint  step 33 in seed-0, 0s ago"


def test_the_line_of_probes_stays_above_it():
    console = Console(file=io.StringIO(), width=80)
    panel = Panel("title", console)
    panel.metrics("probe", 20, {"trec/accuracy": 0.5, "trec/accuracy_random": 0.25}, "step 20 probes  trec accuracy")
    assert console.file.getvalue() == "step 20 probes  trec accuracy\n"
    assert not any("probe" in line for line in drawn(panel, 80))


def test_the_objective_mlm_has_no_columns_of_rtd():
    panel = Panel("title", Console(file=io.StringIO()))
    panel.metrics("train", 20, {"total_loss": 5.0, "masked_lm_loss": 5.0, **RATES}, "")
    assert drawn(panel, 80)[1].split() == ["total_loss", "masked_lm_loss", "step"]


# What a run tells, without a run.
PROGRAM = """
import sys, time
sys.argv = ["bin/electra-pretrain"]
from electra_cli.cli import app
from electra_cli.loggers import panel
with panel.choose_logger("title", quiet={quiet}, log_format="{log_format}") as logger:
    app.end_when_stopped(logger)
    logger.notice("Devices: [MASK] CPU")
    logger.progress(1, 2, 3.0)
    logger.metrics("train", 1, dict(total_loss=1.0, tokens_per_second=1.0, model_flops_utilization=0.5,
                                      input_wait_fraction=0.0), "step 1/2  total_loss 1.000")
    with logger.status("Waiting"):
        time.sleep({seconds})
    print("from a library", file=sys.stderr)
    {last}
    logger.result("evaluation", {{}}, "a\\ntable")
"""


def run(seconds=1.2, last="", quiet=False, **environment):
    program = PROGRAM.format(seconds=seconds, last=last, quiet=quiet, log_format="text")
    return Terminal([sys.executable, "-c", program], **environment)


def test_the_panel_goes_and_lines_remain():
    terminal = run()
    assert terminal.end() == 0
    assert "waiting, 1s" in terminal.written and "step 1/2" in terminal.written and "50 %" in terminal.written
    assert screen(terminal.written) == ["Devices: [MASK] CPU", "from a library", "a", "table"]
    assert shows_cursor(terminal.written)


def test_the_last_metrics_remain_of_a_run_that_ends_early():
    terminal = run(0, "raise SystemExit(75)")
    assert terminal.end() == 75
    assert screen(terminal.written) == ["Devices: [MASK] CPU", "from a library", "step 1/2  total_loss 1.000"]
    assert shows_cursor(terminal.written)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_leaves_the_terminal_clean(number):
    terminal = run(60)
    terminal.read_until("waiting, ")
    terminal.process.send_signal(number)
    assert terminal.end() == (-9 if number == signal.SIGKILL else 75)
    assert shows_cursor(terminal.written)
    if number != signal.SIGKILL:
        last = screen(terminal.written)[-1]
        text = f"stopped by {number.name}, and nothing more was saved; run the same command again"
        assert last == f"electra-pretrain: {text}"


@pytest.mark.parametrize("quiet", [False, True])
def test_a_signal_before_training_ends_json_too(quiet):
    told_before = 'logger.warning("now") or 60'
    program = PROGRAM.format(seconds=told_before, last="", quiet=quiet, log_format="json")
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    events = [json.loads(process.stdout.readline())]
    while events[-1]["event"] != "warning":
        events.append(json.loads(process.stdout.readline()))
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=60)
    last = json.loads(rest.splitlines()[-1])
    text = "stopped by SIGTERM, and nothing more was saved; run the same command again"
    assert (last["event"], last["outcome"], last["text"]) == ("end", "interrupted", text)
    assert (process.returncode, errors) == (75, f"electra-pretrain: {text}\n")


def test_no_panel_when_quiet_or_on_a_terminal_that_can_not():
    terminal = run(0, quiet=True)
    assert terminal.end() == 0
    assert terminal.written == "from a library\r\na\r\ntable\r\n"
    terminal = run(0, TERM="dumb")
    assert terminal.end() == 0
    assert terminal.written.split("\r\n")[:2] == ["Devices: [MASK] CPU", "step 1/2  total_loss 1.000"]
