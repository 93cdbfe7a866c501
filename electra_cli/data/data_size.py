"""How much the data of a run holds, and its config resolved with that. TensorFlow is imported for remote paths only."""

import dataclasses

import ml_collections

from electra_cli import files
from electra_cli.config.resolution import RunConfig, check, resolve_phases
from electra_cli.data import tfrecords
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import UserError

# Of causal language models, up to four passes over the same text cost next to nothing, and the value of more decays to
# zero (Muennighoff et al., Scaling Data-Constrained Language Models, NeurIPS 2023). ELECTRA masks each pass anew and
# was not measured: from ten times as many on the user is told.
_MANY_EPOCHS = 40


@dataclasses.dataclass(frozen=True)
class DataSize:
    """What prepared data holds.

    Attributes:
      vocab_size: entries of the vocabulary.
      num_shards: files of the training split.
      num_examples: its examples; None where only reading all of it would tell.
      real_tokens: its tokens without padding; None likewise.
    """

    vocab_size: int
    num_shards: int
    num_examples: int | None = None
    real_tokens: int | None = None


def describe_epochs(num_epochs: float) -> str:
    """Returns how many epochs these are, for people."""
    return f"{num_epochs:,.0f} epochs" if num_epochs >= 100 else f"{num_epochs:.3g} epochs"


def describe_repetition(num_epochs: float) -> str:
    """Returns a sentence where text is repeated too often to teach more; else nothing."""
    if num_epochs <= _MANY_EPOCHS:
        return ""
    return (
        "Each pass over the same text teaches less than the one before: more text would serve better, or a lower "
        "config.train.num_steps."
    )


def check_data_dir(data_dir: str) -> None:
    """Raises a `UserError` when there is no such directory of data."""
    files.check_directory("config.data.dir", data_dir, f"electra-prepare --output_dir={data_dir} makes one")


def read_data_size(data_dir: str, max_seq_length: int) -> DataSize:
    """Reads how much a data directory holds.

    Args:
      data_dir: of electra-prepare, or of foreign TFRecords with a `vocab.txt`.
      max_seq_length: the length that the run is configured for.

    Raises:
      UserError: the directory is missing, damaged, or of another length.
    """
    check_data_dir(data_dir)
    if files.size(files.join(data_dir, tfrecords.MANIFEST_FILE)) is None:
        names = [name for name in files.list_directory(data_dir) if ".tfrecord" in name]
        shards = [name for name in names if not name.startswith("validation")]
        if shards:
            return DataSize(Vocabulary.from_file(files.join(data_dir, tfrecords.VOCAB_FILE)).size, len(shards))
    manifest = tfrecords.read_manifest(data_dir)
    tfrecords.check_length(data_dir, manifest.max_seq_length, max_seq_length)
    num_shards = len(manifest.splits.get("train", ()))
    if not num_shards:
        raise UserError(f"{data_dir} has no training examples; prepare the data anew")
    return DataSize(manifest.vocab_size, num_shards, manifest.num_examples("train"), manifest.real_tokens("train"))


def read_run(config: ml_collections.ConfigDict, *, needs_data: bool = True) -> tuple[RunConfig, list[DataSize | None]]:
    """Checks and resolves a config, with the sizes of its data.

    Args:
      config: a config with overrides.
      needs_data: whether a phase without a directory of data is an error.

    Returns:
      The resolved config, and what each phase's data holds; None for a phase without data.

    Raises:
      UserError: the config cannot be trained with, or data is missing, damaged or does not fit.
    """
    phases = check(config, needs_data=needs_data)
    settings = [phase.config.data for phase in phases]
    sizes = [read_data_size(data.dir, data.max_seq_length) if data.dir else None for data in settings]
    vocab_sizes = sorted({size.vocab_size for size in sizes if size is not None})
    if len(vocab_sizes) > 1:
        raise UserError(
            f"config.phases.data_dir: vocabularies of {vocab_sizes[0]:,} and {vocab_sizes[1]:,} entries: prepare the "
            f"data of all phases with the same --vocab_file"
        )
    return resolve_phases(config, phases, vocab_sizes[0] if vocab_sizes else None), sizes
