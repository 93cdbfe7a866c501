"""Plans, starts and compares the runs of compare_objectives.sh.

All have the data, the vocabulary and the seeds in common, and as many training FLOPs, counted as the paper counts them,
to within half a step. Another objective of a config (CONFIG:mlm) has its network and schedule; masked language modeling
shows masked tokens as BERT does. All are probed at the same fractions of these FLOPs, and fine-tuned at some of these.
"""

import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

from absl import flags
from comparison import (
    CHANGES,
    LINES,
    MOST_POINTS,
    PICTURE,
    TABLE,
    Contender,
    Curve,
    Plan,
    make_plans,
    read_probes,
    read_scores,
    write_comparison,
)

from electra_cli.cli import app
from electra_cli.cli.config_flag import ConfigFlag
from electra_cli.config import resolution
from electra_cli.config.finetuning import FINETUNING
from electra_cli.config.labeled_files import parse_probes
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import UserError
from electra_cli.objectives.costs import OUTLINES

PROGRAM, FINETUNING_PROGRAM = "electra-pretrain", "electra-finetune"
_OURS = (
    "data.dir", "objective.name", "train.num_steps", "train.seed", "train.steps_per_loop", "train.log_interval",
    "train.checkpoint_interval", "train.keep_every_steps", "eval.interval", "eval.probes", "eval.probe_interval",
    "phases.",
)  # fmt: skip

FLAGS = flags.FlagValues()
CONFIG = ConfigFlag(FLAGS, PRETRAINING)
flags.DEFINE_list(
    "against",
    None,
    f"Presets or config files to compare --config with; with :{', :'.join(CHANGES)} after one: its network, by that "
    "objective. If not given, that of --config with :mlm.",
    flag_values=FLAGS,
)
flags.DEFINE_string("data", None, "Data directory of electra-prepare.", flag_values=FLAGS)
flags.DEFINE_string("probes", None, "Labelled files, as config.eval.probes takes them.", flag_values=FLAGS)
flags.DEFINE_list("finetune", [], "Config files of electra-finetune, one a task.", flag_values=FLAGS)
flags.DEFINE_integer(
    "finetune_points", 1, "Checkpoints of a run that are fine-tuned, the last among them.", 1, MOST_POINTS,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer("num_steps", None, "Steps of --config; its own if not given.", flag_values=FLAGS)
flags.DEFINE_list("seeds", ["0", "1"], "Seeds of the runs: as many of each config.", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "Directory for runs, table and picture.", flag_values=FLAGS)

USAGE = """
Trains several configs with equal training FLOPs on the same data, probes them on the way and fine-tunes them.

Usage: scripts/compare_objectives.sh --config=PRESET_OR_FILE --data=DATA --output_dir=DIR [--against=PRESET_OR_FILE,...]
       [--probes=FILE,...] [--finetune=CONFIG,...] [--finetune_points=1] [--num_steps=STEPS] [--seeds=0,1]
       [--config.KEY=VALUE ...]
"""


def _run(program: str, arguments: Sequence[str]) -> None:
    """Runs a command, and passes signals on to it; ends the process with its exit code unless that is 0."""
    try:
        # In a session of its own, so that Ctrl-C does not reach it twice.
        process = subprocess.Popen([program, *arguments], start_new_session=True)
    except FileNotFoundError as error:
        raise UserError(f"{program} is not installed here: start scripts/compare_objectives.sh") from error
    previous = {
        number: signal.signal(number, lambda number, _: process.send_signal(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    code = process.wait()
    for number, handler in previous.items():
        signal.signal(number, handler)
    if code:
        sys.exit(code if code > 0 else 128 - code)


def _load(name: str, overrides: Sequence[str], values: flags.FlagValues) -> Contender:
    """Returns a config of `--config` or `--against`; raises a `UserError` for one that cannot be compared."""
    file_name, separator, objective = name.rpartition(":")
    if not separator or objective not in CHANGES:
        file_name, objective = name, ""
    flag = ConfigFlag(flags.FlagValues(), PRETRAINING)
    flag.parse([PROGRAM, f"--config={file_name}", *overrides])
    settings, file = flag.config, flag.file
    assert file is not None
    if settings.phases.num_steps:
        raise UserError(f"--config={name}: give one in a single phase")
    if objective and settings.objective.name != "electra":
        raise UserError(f"{name}: :{objective} follows a config of objective.name=electra")
    settings.data.dir, settings.eval.probes = values.data, (values.probes,) if values.probes else ()
    settings.train.num_steps = values.num_steps if values.num_steps is not None else settings.train.num_steps
    # What follows from the steps is chosen here.
    for key in ("train.steps_per_loop", "train.log_interval", "train.checkpoint_interval", "eval.interval"):
        settings.update_from_flattened_dict({key: 1})
    settings.eval.probe_interval = 0
    resolution.check(settings)
    stem = pathlib.Path(file).stem
    if not objective:
        return Contender(stem, stem, file, settings)
    return Contender(f"{stem}-{objective}", f"{stem}, {OUTLINES[objective].title}", file, settings, objective)


def _checked(values: flags.FlagValues, overrides: Sequence[str]) -> tuple[list[Contender], list[int]]:
    """Returns the configs and the seeds, from parsed flags and their `--config.KEY=VALUE`."""
    settings, file = CONFIG.config, CONFIG.file
    assert file is not None
    for flag in ("data", "output_dir"):
        if not values[flag].value:
            raise UserError(f"--{flag} is missing")
    if not values.probes and not values.finetune:
        raise UserError("--probes is missing, and --finetune too: give labelled files to score by")
    for argument in overrides:
        key = argument.partition("=")[0].lstrip("-").removeprefix("config.")
        if key.startswith(_OURS):
            raise UserError(f"--config.{key} is set here, the same or fitting for all runs: leave it out")
    if not all(seed.strip().isdecimal() for seed in values.seeds) or len(set(values.seeds)) < len(values.seeds):
        raise UserError(f"--seeds={','.join(values.seeds)}: give different numbers from 0 on, with commas between them")
    if values.probes and not parse_probes((values.probes,)):
        raise UserError("--probes names no file")
    for task in values.finetune:
        ConfigFlag(flags.FlagValues(), FINETUNING).parse([FINETUNING_PROGRAM, f"--config={task}"])
    contenders = [_load(name, overrides, values) for name in (file, *(values.against or [f"{file}:mlm"]))]
    if settings.objective.name != "electra" and not values.against:
        raise UserError("--config: give one of ELECTRA, or others --against it")
    if not values.against:
        electra, mlm = contenders
        contenders = [
            dataclasses.replace(electra, name="electra", title="ELECTRA"),
            dataclasses.replace(mlm, name="mlm", title="masked language modeling"),
        ]
    names = [contender.name for contender in contenders]
    if len(set(names)) < len(names) or len(names) > len(LINES):
        raise UserError(f"--against: give at most {len(LINES) - 1} configs, of different names: {', '.join(names)}")
    return contenders, [int(seed) for seed in values.seeds]


def _finetune(task: str, init: Sequence[str], workdir: str) -> dict[str, list[float]]:
    _run(FINETUNING_PROGRAM, [f"--config={task}", *init, f"--workdir={workdir}"])
    return read_scores(workdir)


def _score(plan: Plan, workdirs: Sequence[str], tasks: Sequence[str]) -> Curve:
    """Reads the probes of runs, and fine-tunes their weights and random ones on tasks, which may be done already."""
    has_probes = bool(plan.contender.settings.eval.probes)
    curve = Curve(plan, read_probes(plan, workdirs) if has_probes else {})
    for task in tasks:
        stem = pathlib.Path(task).stem
        for place, step in enumerate(plan.finetuned_steps):
            for workdir in workdirs:
                init = f"--init={os.path.join(workdir, 'checkpoints', f'ckpt-{step}')}"
                print(f"{plan.contender.title}, step {step:,}: fine-tuning on {stem}", flush=True)
                for name, scores in _finetune(
                    task, [init], os.path.join(f"{workdir}-finetuned", str(step), stem)
                ).items():
                    curve.finetuned.setdefault(name, [[] for _ in plan.finetuned_steps])[place].extend(scores)
        random = ["--init=random", f"--like={workdirs[0]}"]
        curve.random.update(_finetune(task, random, os.path.join(f"{workdirs[0]}-finetuned", "random", stem)))
    return curve


def _main(values: flags.FlagValues) -> None:
    contenders, seeds = _checked(values, CONFIG.overrides)
    vocab_size = Vocabulary.from_file(os.path.join(values.data, "vocab.txt")).size
    num_steps = contenders[0].settings.train.num_steps
    plans = make_plans(contenders, num_steps, vocab_size, values.finetune_points)
    os.makedirs(values.output_dir, exist_ok=True)
    workdirs: dict[str, list[str]] = {plan.contender.name: [] for plan in plans}
    for number, seed in enumerate(seeds, 1):
        for plan in plans:
            workdir = os.path.join(values.output_dir, f"{plan.contender.name}-seed{seed}")
            print(f"{plan.contender.title}, seed {seed}: {plan.num_steps:,} steps in {workdir}", flush=True)
            own = [f"--config.{key}={value}" for key, value in plan.overrides(seed).items()]
            shared = [f"--config.data.dir={values.data}"]
            shared += [f"--config.eval.probes={values.probes}"] if values.probes else []
            file = plan.contender.file
            _run(PROGRAM, [f"--config={file}", *CONFIG.overrides, *shared, *own, f"--workdir={workdir}"])
            workdirs[plan.contender.name].append(workdir)
        curves = [_score(plan, workdirs[plan.contender.name], values.finetune) for plan in plans]
        write_comparison(
            curves, seeds[:number], values.output_dir, shlex.join(["scripts/compare_objectives.sh", *sys.argv[1:]])
        )
    print(f"Table and picture: {os.path.join(values.output_dir, TABLE)}, {os.path.join(values.output_dir, PICTURE)}")


if __name__ == "__main__":
    app.run(_main, FLAGS, USAGE, "", CONFIG.parse)
