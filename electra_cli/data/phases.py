"""The phases of a run with their data: from a config to all that a phase reads."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import ml_collections
import tensorflow as tf

from electra_cli.config.resolution import RunConfig
from electra_cli.data.data_size import describe_epochs, describe_repetition
from electra_cli.data.input_pipeline import Part, training_dataset
from electra_cli.data.masking import MaskingSettings
from electra_cli.data.source import DataSource, open_data
from electra_cli.errors import UserError
from electra_cli.training.distribution import Runtime


@dataclasses.dataclass(frozen=True)
class Phase:
    """A phase of a run.

    Attributes:
      number: from 0.
      begin: steps before its first.
      end: its last step.
      config: the resolved config, with the phase's own values.
      source: its data.
      masking: how its examples are masked.
    """

    number: int
    begin: int
    end: int
    config: ml_collections.FrozenConfigDict
    source: DataSource
    masking: MaskingSettings


def open_phases(run: RunConfig) -> list[Phase]:
    """Opens the data of all phases.

    Raises:
      UserError: data is missing or damaged, or of another vocabulary than that of the first phase or of the config.
    """
    sources = [open_data(phase.config.data.dir, phase.config.data.max_seq_length) for phase in run.phases]
    first = sources[0]
    for source in sources[1:]:
        if source.vocabulary.sha256 != first.vocabulary.sha256:
            raise UserError(
                f"{source.data_dir} and {first.data_dir} have different vocabularies: prepare the data of all phases "
                f"with the same --vocab_file"
            )
    if first.vocabulary.size != run.resolved.derived.vocab_size:
        raise UserError(
            f"{first.data_dir} has a vocabulary of {first.vocabulary.size:,} tokens, not of "
            f"{run.resolved.derived.vocab_size:,} as its manifest says; prepare the data anew"
        )
    return [
        Phase(phase.number, phase.begin, phase.end, phase.config, source, masking_settings(phase.config, source))
        for phase, source in zip(run.phases, sources, strict=True)
    ]


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """Returns the phase that a step belongs to, the last one for steps beyond the run."""
    return next((phase for phase in phases if step <= phase.end), phases[-1])


def describe(phase: Phase, num_phases: int) -> str:
    """Returns a line about the data of one of so many phases, for people."""
    num_examples, batch_size = phase.source.train.num_examples, phase.config.train.global_batch_size
    num_steps = phase.end - phase.begin
    num_epochs = num_steps * batch_size / num_examples
    which = f"Phase {phase.number + 1} of {num_phases}, to step {phase.end:,}. " if num_phases > 1 else ""
    return (
        f"{which}Data: {num_examples:,} examples of {phase.config.data.max_seq_length} tokens; {num_steps:,} steps "
        f"of {batch_size} are {describe_epochs(num_epochs)}. {describe_repetition(num_epochs)}"
    ).rstrip()


def fingerprint(phases: Sequence[Phase]) -> str:
    """Returns what tells the data of a run from other data."""
    found = [phase.source.fingerprint for phase in phases]
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()


def training_batches(phase: Phase, runtime: Runtime, data_step: int) -> Iterator:
    """Returns an iterator over the distributed batches of a phase.

    Args:
      phase: the phase.
      runtime: devices.
      data_step: steps of the run whose examples lie before, those that were passed over among them.
    """

    def make(part: Part) -> tf.data.Dataset:
        return training_dataset(
            phase.source.train,
            phase.masking,
            pad_id=phase.source.vocabulary.pad_id,
            max_seq_length=phase.config.data.max_seq_length,
            global_batch_size=phase.config.train.global_batch_size,
            seed=phase.config.train.seed,
            start_step=data_step,
            first_step=phase.begin,
            part=part,
        )

    return iter(runtime.distribute(make))


def masking_settings(config: ml_collections.FrozenConfigDict, source: DataSource) -> MaskingSettings:
    """Returns how examples are masked under a resolved config and a data source's vocabulary."""
    vocabulary = source.vocabulary
    masks_words = config.data.mask_unit == "word"
    return MaskingSettings(
        mask_prob=config.data.mask_prob,
        max_predictions_per_seq=config.derived.max_predictions_per_seq,
        mask_token_prob=config.data.mask_token_prob,
        random_token_prob=config.data.random_token_prob,
        vocab_size=vocabulary.size,
        max_ngram=config.data.max_ngram,
        continues_word=vocabulary.continues_word if masks_words else None,
        uses_segmentation=masks_words and source.train.has_words,
        mask_token_id=vocabulary.mask_id,
        special_token_ids=(vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id),
    )
