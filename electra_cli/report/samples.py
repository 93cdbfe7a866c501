"""Held-out examples through the newest checkpoint of a workdir. Imports TensorFlow."""

from collections.abc import Callable

from electra_cli import files
from electra_cli.data.input_pipeline import reading
from electra_cli.data.source import phase_at, read_run
from electra_cli.errors import UserError
from electra_cli.loggers.sample_texts import Sample
from electra_cli.training.evaluation import Sampler
from electra_cli.training.initialization import restore_model
from electra_cli.workdir import run_files
from electra_cli.workdir.checkpoint_files import step_of
from electra_cli.workdir.run_files import read_config, read_record


def take_samples(
    workdir: str, num_samples: int, say: Callable[[str], None] = lambda _: None
) -> tuple[int, list[Sample]]:
    """Takes held-out examples through masking, generator, sampling and discriminator, as evaluations do.

    Args:
      workdir: its newest checkpoint is restored, in float32; of moving averages where the run keeps some.
      num_samples: examples; fewer where the split has fewer.
      say: prints a line; is told of damaged checkpoints.

    Returns:
      The step of the checkpoint, and the examples.

    Raises:
      UserError: config, checkpoint, data or vocabulary are missing or damaged, or the data has no validation split.
    """
    config = read_config(read_record(workdir), files.join(workdir, run_files.CONFIG_FILE))
    # Before the checkpoint, which takes longer to read.
    phases = read_run(config).phases
    model, path = restore_model(config, files.join(workdir, run_files.CHECKPOINT_DIRECTORY), say)
    step = step_of(path)
    phase = phase_at(phases, step)
    if phase.source.validation is None:
        raise UserError(f"{phase.source.data_dir} has no validation examples")
    sampler = Sampler(model, phase.config, phase.source, phase.masking, num_samples)
    with reading(phase.source.data_dir, "for samples", phase.source.validation):
        return step, sampler.take()
