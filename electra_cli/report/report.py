"""Workdirs in; a page, or text, out. TensorFlow is imported for samples alone."""

from collections.abc import Callable, Sequence

from electra_cli import files
from electra_cli.data.source import phase_at, read_run
from electra_cli.errors import UserError
from electra_cli.loggers.lines import Lines
from electra_cli.loggers.logger import Logger
from electra_cli.loggers.sample_texts import Sample
from electra_cli.report.records import RunRecord, RunSamples, read_runs
from electra_cli.workdir import run_files

FORMATS = ("html", "text")
# How a report of either format begins: the text's table comes after two lines for each run, and may be narrow.
_OWN = rb"<!DOCTYPE html>.*ELECTRA pre-training</title>|.*\nmetric +(run|training)"


def write_report(
    workdirs: Sequence[str],
    output: str | None = None,
    *,
    output_format: str = "html",
    num_samples: int = 3,
    logger: Logger | None = None,
) -> str:
    """Writes a report of runs, and returns what to print: which file was written, or the text.

    Args:
      output: the file to write; None: report.html in the first workdir, or for text no file.
      num_samples: held-out examples of each run; 0: none, and neither TensorFlow nor a checkpoint is needed.

    Raises:
      UserError: a workdir is missing or holds no metrics, or the file cannot be written.
    """
    logger = logger or Lines()
    runs = read_runs(workdirs)
    if output is not None:
        files.check_output("--output", output, _OWN)
    elif output_format == "html":
        output = files.join(runs[0].path, run_files.REPORT_FILE)
        files.check_output("--output", output)
    for run in runs:
        for note in run.notes:
            logger.notice(f"{run.path}: {note}.")
    samples = [_samples_of(run, num_samples, logger) for run in runs]
    # Each brings a library that the other does without.
    if output_format == "html":
        from electra_cli.report import page  # noqa: PLC0415

        content = page.to_html(runs, samples)
    else:
        from electra_cli.report import text  # noqa: PLC0415

        content = text.to_text(runs, samples, is_terminal=output is None)
    if output is None:
        return content.rstrip()
    try:
        files.write_atomically(output, content)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error.strerror or error}; choose another") from error
    return f"Written: {output} ({_shown_size(len(content.encode()))})"


def _shown_size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 100_000 else f"{num_bytes / 1e3:.1f} KB"


def _samples_of(run: RunRecord, num_samples: int, logger: Logger) -> RunSamples:
    """Returns samples, or a note of what prevents them: a report is worth having without."""
    if num_samples == 0:
        return RunSamples()
    with logger.status("Starting TensorFlow"):
        import tensorflow  # noqa: F401, PLC0415  (takes seconds)

    unreadable: tuple[type[Exception], ...] = (UserError, *files.errors())
    try:
        with logger.status(f"Taking samples of {run.path}"):
            step, samples = take_samples(run.path, num_samples, logger.warning)
    except unreadable as error:
        note = str(error).splitlines()[0]
        logger.notice(f"{run.path}: no samples: {note}")
        return RunSamples(note=note)
    return RunSamples(step, tuple(samples))


def take_samples(
    workdir: str, num_samples: int, notice: Callable[[str], None] = lambda _: None
) -> tuple[int, list[Sample]]:
    """Returns the newest checkpoint's step, and held-out examples, corrupted and judged as evaluations do.

    The model is in float32, with moving averages where the run keeps some; there may be fewer examples in the split.

    Raises:
      UserError: config, checkpoint, data or vocabulary are missing or damaged, or the data has no validation split.
    """
    from electra_cli.data.input_pipeline import reading  # noqa: PLC0415  (these import TensorFlow, which takes seconds)
    from electra_cli.training.evaluation import Sampler  # noqa: PLC0415
    from electra_cli.training.initialization import restore_model  # noqa: PLC0415

    config = run_files.read_config(run_files.read_record(workdir), files.join(workdir, run_files.CONFIG_FILE))
    # Before the checkpoint, which takes longer to read.
    phases = read_run(config).phases
    model, _, step = restore_model(config, files.join(workdir, run_files.CHECKPOINT_DIRECTORY), notice)
    phase = phase_at(phases, step)
    if phase.source.validation is None:
        raise UserError(f"{phase.source.data_dir} has no validation examples")
    sampler = Sampler(model, phase, num_samples)
    with reading(phase.source.data_dir, "for samples", phase.source.validation):
        return step, sampler.take()
