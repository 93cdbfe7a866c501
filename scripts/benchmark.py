"""Times a training step and what is around it, alone or next to other implementations, on the device that is there.

usage: python scripts/benchmark.py [--preset=small] [--batch=32] [--precision=float32,mixed_bfloat16]
           [--attention=auto] [--compare=tfm,torch] [--rounds=5] [--steps=2] [--data_dir=DIR,...] [--json=FILE]
           [--config.KEY=VALUE ...]

Presets, precisions, kinds of attention and directories may be several, with commas: each is timed with each.

Every implementation has a process of its own. They take turns, a few steps each a round, so that what else the machine
does falls on all of them alike; the table gives medians and, with --compare, ratios of them. Quote ratios of one run on
a quiet machine, never a number alone.

  --compare  tfm: the stock ElectraPretrainTask of the installed tf-models-official (float32; it fails in others), with
             and without XLA. torch: transformers' networks on PyTorch, when they are installed: float32, and bfloat16
             with torch.compile. All have the sizes, and torch the architecture, of each preset.
  --data_dir directories of electra-prepare, to compare; without it, one of random words is made.
"""

import argparse
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

SCRIPTS = pathlib.Path(__file__).resolve().parent
PEERS = {
    "tfm": ("tfm", "tfm_xla"),
    "torch": ("torch", "torch_bfloat16_compiled"),
    "torch_float32": ("torch",),
}


class Worker:
    """A process that makes steps when asked (`benchmark_ours.py`, `benchmark_peers.py`).

    Args:
      name: what the table calls it.
      script: its program.
      arguments: of the program.

    Attributes:
      ready: what it said when it was ready: `first_step_seconds` and more.
      seconds: of all steps it was asked for.
    """

    def __init__(self, name: str, script: str, *arguments: str):
        self.name = name
        self.seconds: list[float] = []
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (libraries warn much; closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.ready = self._read()

    def make_steps(self, number: int) -> None:
        """Makes steps and takes note of their times."""
        self.seconds += self.ask(f"steps {number}")["seconds"]

    def ask(self, request: str) -> dict:
        """Sends a line and returns the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait()

    def _read(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries may print too
                return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        raise SystemExit(f"{self._errors.read()[-2000:]}\nbenchmark.py: {self.name} ended with {code}")


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="float32,mixed_bfloat16", help="of ours")
    parser.add_argument("--attention", default="auto", help="of ours, runtime.attention")
    parser.add_argument("--compare", default="", help="tfm, torch or torch_float32; several")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of each in a round")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--json", default="", help="file to write all figures to")
    arguments, overrides = parser.parse_known_args()
    unknown = [argument for argument in overrides if not argument.startswith("--config.")]
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}")
    with tempfile.TemporaryDirectory() as scratch:
        workers = _start(arguments, overrides, scratch)
        for _ in range(arguments.rounds):
            for worker in workers:
                worker.make_steps(arguments.steps)
        results = [_summarize(worker, arguments.batch) for worker in workers]
        for worker in workers:
            worker.close()
    _print_table(results)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps({"arguments": sys.argv[1:], "results": results}, indent=1))


def _start(arguments: argparse.Namespace, overrides: list[str], scratch: str) -> list[Worker]:
    presets = arguments.preset.split(",")
    given = [f"--batch={arguments.batch}", f"--scratch={scratch}", *overrides]
    varied = (arguments.precision.split(","), arguments.attention.split(","), arguments.data_dir.split(","))
    workers = []
    for preset in presets:
        sizes = {}
        for precision, attention, data_dir in itertools.product(*varied):
            labels = [preset if len(presets) > 1 else "", precision, attention if len(varied[1]) > 1 else "", data_dir]
            own = [f"--preset={preset}", f"--precision={precision}", f"--data_dir={data_dir}"]
            own.append(f"--config.runtime.attention={attention}")
            name = ", ".join(filter(None, ["electra-pretrain", *labels]))
            workers.append(Worker(name, "benchmark_ours.py", *own, *given))
            sizes = workers[-1].ready["sizes"]
        for peer in filter(None, arguments.compare.split(",")):
            if peer not in PEERS:
                raise SystemExit(f"benchmark.py: --compare={peer}: is {' or '.join(PEERS)}")
            if peer == "tfm" and sizes and sizes["discriminator"]["architecture"] != "electra":
                raise SystemExit(f"benchmark.py: --compare={peer}: it has no network of the architecture of {preset}")
            for variant in PEERS[peer]:
                name = f"{variant}, {preset}" if len(presets) > 1 else variant
                workers.append(Worker(name, "benchmark_peers.py", variant, str(arguments.batch), json.dumps(sizes)))
    return workers


def _summarize(worker: Worker, batch: int) -> dict:
    median = statistics.median(worker.seconds)
    result = {
        "name": worker.name,
        "compile_seconds": worker.ready["first_step_seconds"] - median,
        "median_step_seconds": median,
        "examples_per_second": batch / median,
        "peak_memory_gb": worker.ask("memory")["peak_gb"],
    }
    if "tokens_per_step" in worker.ready:
        ready = worker.ready
        result["tokens_per_second"] = ready["tokens_per_step"] / median
        result["model_flops_utilization"] = ready["flops_per_step"] / median / ready["flops_per_second"]
        result |= worker.ask("details")
    return result


def _print_table(results: list[dict]) -> None:
    first = results[0]["median_step_seconds"]
    print(f"{'':<36}{'step s':>8} {'examples/s':>11} {'times as fast':>14} {'build s':>8} {'peak GB':>8}")
    for result in results:
        median = result["median_step_seconds"]
        print(
            f"{result['name']:<36}{median:>8.3f} {result['examples_per_second']:>11.1f} {first / median:>14.2f} "
            f"{result['compile_seconds']:>8.1f} {result['peak_memory_gb']:>8.2f}"
        )
    for result in results:
        if "share_of_step" not in result:
            continue
        print(f"\n{result['name']}:")
        print(f"  real tokens a second                  {result['tokens_per_second']:>10,.0f}")
        print(f"  model FLOPs utilization               {result['model_flops_utilization']:>10.1%}")
        for name, share in result["share_of_step"].items():
            print(f"  share of the step: {name:<18} {share:>10.1%}")
        print(f"  input pipeline alone, examples/s      {result['input_examples_per_second']:>10,.0f}")
        print(f"  input wait while training             {result['input_wait_fraction']:>10.1%}")


if __name__ == "__main__":
    main()
