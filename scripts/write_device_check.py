"""Writes electra_cli/planning/device_check.json, with which `electra-pretrain --check_devices` compares, on this CPU.

usage: python scripts/write_device_check.py

To run where what a step computes was changed on purpose; a test compares the file with a CPU's steps.
"""

import json

from electra_cli.config.pretraining import PRECISIONS, default_config
from electra_cli.planning.device_check import STORED_FILE, stored_steps
from electra_cli.training.distribution import build_runtime


def main() -> None:
    """Writes the file."""
    runtime = build_runtime(default_config().runtime, [], alone=True)
    results = {precision: stored_steps(precision, runtime) for precision in PRECISIONS}
    content = {precision: {"values": each.values, "samples": each.samples} for precision, each in results.items()}
    STORED_FILE.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
