"""The data of a run: a data directory's vocabulary, manifest and splits, and the phases that read them. TensorFlow is
imported for remote paths only, and to look into TFRecords of other programs."""

import dataclasses
import enum
import functools
import hashlib
import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ml_collections
import numpy as np

from electra_cli import files
from electra_cli.config.resolution import PhaseConfig, RunConfig, check, resolve_phases
from electra_cli.data import tfrecords
from electra_cli.data.tfrecords import MANIFEST_FILE, VOCAB_FILE, Manifest, check_length
from electra_cli.data.tokenization import TokenizerSettings, tokenizer_of_manifest
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import UserError

if TYPE_CHECKING:  # it imports TensorFlow
    from electra_cli.data.masking import MaskingSettings

# Of causal language models, up to four passes over the same text cost next to nothing, and the value of more decays to
# zero (Muennighoff et al., Scaling Data-Constrained Language Models, NeurIPS 2023). ELECTRA draws new masks for
# each pass and was not measured: the user is warned from ten times as many on.
_MANY_EPOCHS = 40
# Of other programs' files a process holds two shards of so many bytes: the current one and the next.
_SHARD_BYTES = 2**28


class RecordFormat(enum.Enum):
    """Which program wrote a TFRecord; the values are the features that distinguish it."""

    ELECTRA_PRETRAIN = ("input_word_ids", "first_segment_length")
    # tf-models-official writes BERT's old names unless asked otherwise; masks distinguish it from google-research.
    TF_MODELS_V1 = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")
    TF_MODELS_V2 = ("input_word_ids", "input_mask", "input_type_ids", "masked_lm_positions")
    GOOGLE_ELECTRA = ("input_ids", "input_mask", "segment_ids")


@dataclasses.dataclass(frozen=True)
class DataSplit:
    """The shards of one split: files or, of other programs' large ones, parts of files, which follow one another."""

    files: tuple[str, ...]  # of each shard
    examples: tuple[int, ...]  # of each shard
    compression: str  # '' or 'GZIP'
    record_format: RecordFormat
    has_words: bool = False  # whether records mark tokens that continue a word
    has_documents: bool = False  # whether an example holds several documents
    offsets: tuple[int, ...] = ()  # of each shard: bytes of its file before it; (): all begin with their files

    @property
    def num_examples(self) -> int:
        """Examples of all shards."""
        return sum(self.examples)


@dataclasses.dataclass(frozen=True)
class DataSize:
    """What the training split holds; `num_examples` and `real_tokens` are None without a manifest."""

    vocab_size: int
    num_shards: int
    num_examples: int | None = None
    real_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class _Splits:
    train: DataSplit
    validation: DataSplit | None
    token_counts: np.ndarray | None
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class DataSource:
    """A directory of electra-prepare, or (without a manifest) of TFRecords of google-research/electra or
    tf-models-official; `max_seq_length` is the run's, in tokens."""

    data_dir: str
    max_seq_length: int
    tokenizer: TokenizerSettings
    manifest: Manifest | None
    size: DataSize

    @property
    def vocabulary(self) -> Vocabulary:
        """Its vocabulary."""
        return self.tokenizer.vocabulary

    @property
    def train(self) -> DataSplit:
        """The training split."""
        return self._splits.train

    @property
    def validation(self) -> DataSplit | None:
        """The validation split; None when there is no such shard."""
        return self._splits.validation

    @property
    def token_counts(self) -> np.ndarray | None:
        """Int64 [vocab_size], occurrences of each id in the training split; None when not recorded."""
        return self._splits.token_counts

    @property
    def fingerprint(self) -> str:
        """Identifies the data."""
        return self._splits.fingerprint

    def load(self) -> None:
        """Reads what training needs beyond the manifest; without one, the number of examples of every shard. A
        `UserError` when shards or counts of tokens are missing or damaged, or examples have another length."""
        _ = self._splits

    @functools.cached_property
    def _splits(self) -> _Splits:
        if self.manifest is None:
            return _foreign_splits(self)
        train = prepared_split(self.data_dir, self.manifest, "train")
        assert train is not None
        validation = prepared_split(self.data_dir, self.manifest, "validation")
        return _Splits(train, validation, tfrecords.read_token_counts(self.data_dir), self.manifest.fingerprint)


def find_data(data_dir: str, max_seq_length: int) -> DataSource:
    """Returns a data directory, not yet loaded; a `UserError` when the directory, a shard or the vocabulary is missing,
    damaged, or of another sequence length.

    Without a manifest every file with `.tfrecord` in its name is a shard, of validation when the name starts with
    `validation`, else of training, and there must be a `vocab.txt`.
    """
    files.check_directory("config.data.dir", data_dir, "give the directory that electra-prepare wrote")
    manifest = tfrecords.find_manifest(data_dir)
    if manifest is None:
        return _find_foreign(data_dir, max_seq_length)
    check_length(data_dir, manifest.max_seq_length, max_seq_length)
    tokenizer = tokenizer_of_manifest(data_dir, manifest)
    if tokenizer.vocabulary.sha256 != manifest.vocab_sha256:
        raise UserError(
            f"{data_dir}/{VOCAB_FILE} is not the vocabulary that the shards were made with; prepare the data again"
        )
    num_shards = len(manifest.splits.get("train", ()))
    if not num_shards:
        raise UserError(f"{data_dir} has no training examples; prepare the data again")
    size = DataSize(manifest.vocab_size, num_shards, manifest.num_examples("train"), manifest.real_tokens("train"))
    return DataSource(data_dir, max_seq_length, tokenizer, manifest, size)


def open_data(data_dir: str, max_seq_length: int) -> DataSource:
    """Returns a data directory (`find_data`), loaded."""
    source = find_data(data_dir, max_seq_length)
    source.load()
    return source


def prepared_split(data_dir: str, manifest: Manifest, name: str) -> DataSplit | None:
    """Returns a split of a directory of electra-prepare; None when it has no shard."""
    shards = manifest.splits.get(name, ())
    if not shards:
        return None
    return DataSplit(
        files=tuple(files.join(data_dir, shard.file) for shard in shards),
        examples=tuple(shard.examples for shard in shards),
        compression=manifest.compression,
        record_format=RecordFormat.ELECTRA_PRETRAIN,
        has_words=manifest.settings.get("word_boundaries") == "whitespace",
        has_documents=manifest.settings.get("packing") == "full",
    )


def _find_foreign(data_dir: str, max_seq_length: int) -> DataSource:
    names = _foreign_names(data_dir)
    if not names:
        raise UserError(f"{data_dir} holds neither {MANIFEST_FILE} nor *.tfrecord files; run electra-prepare first")
    vocab_file = files.join(data_dir, VOCAB_FILE)
    if files.size(vocab_file) is None:
        raise UserError(f"{vocab_file} is missing: put the vocabulary there that the TFRecords were made with")
    tokenizer = tokenizer_of_manifest(data_dir, None)
    num_shards = sum(not name.startswith("validation") for name in names)
    if not num_shards:
        raise UserError(f"{data_dir} has no training shards, only validation ones")
    size = DataSize(tokenizer.vocabulary.size, num_shards)
    return DataSource(data_dir, max_seq_length, tokenizer, None, size)


def _foreign_names(data_dir: str) -> list[str]:
    return [name for name in files.list_directory(data_dir) if ".tfrecord" in name]


def _foreign_splits(source: DataSource) -> _Splits:
    from electra_cli.data.input_pipeline import detect_format  # noqa: PLC0415  (imports TensorFlow)

    data_dir = source.data_dir
    shards = {name: find_shards(files.join(data_dir, name)) for name in _foreign_names(data_dir)}
    counts = {name: sum(count for _, count in shards[name]) for name in shards}
    names = [name for name in counts if counts[name]]  # google-research/electra leaves empty shards
    if not names:
        raise UserError(f"the TFRecords of {data_dir} hold no examples")
    record_format, length = detect_format(files.join(data_dir, names[0]))
    if record_format is None:
        raise UserError(
            f"{files.join(data_dir, names[0])} holds neither examples of google-research/electra nor of "
            f"tf-models-official"
        )
    check_length(data_dir, length, source.max_seq_length)
    splits: dict[bool, DataSplit] = {}
    for is_validation in {name.startswith("validation") for name in names}:
        chosen = [name for name in names if name.startswith("validation") == is_validation]
        rows = [(files.join(data_dir, name), count, offset) for name in chosen for offset, count in shards[name]]
        paths, examples, offsets = zip(*rows, strict=True)
        splits[is_validation] = DataSplit(paths, examples, "", record_format, offsets=offsets if any(offsets) else ())
    if False not in splits:
        raise UserError(f"{data_dir} has no training shards, only validation ones")
    # Of names and sizes, so that not all of it must be read.
    parts = [source.vocabulary.sha256, str(length)]
    parts += [f"{name}:{counts[name]}:{files.size(files.join(data_dir, name))}" for name in sorted(counts)]
    fingerprint = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    return _Splits(splits[False], splits.get(True), None, fingerprint)


def find_shards(file: str) -> list[tuple[int, int]]:
    """Returns (offset in bytes, number of records) of the shards in an uncompressed TFRecord file: one, or several of
    equal bytes up to `_SHARD_BYTES`; a `UserError` when the file ends within a record."""
    size = files.size(file) or 0
    shard_bytes = size / max(1, math.ceil(size / _SHARD_BYTES))
    position = records = 0
    shards: list[tuple[int, int]] = []
    with files.open_file(file, "rb") as stream:
        while position < size:
            stream.seek(position)
            header = stream.read(8)
            if len(header) < 8:
                break
            if position >= shard_bytes * len(shards):
                shards.append((position, 0))
            shards[-1] = (shards[-1][0], shards[-1][1] + 1)
            # A record is its length (8 bytes), a checksum (4), the data, another checksum (4).
            position += 8 + 4 + struct.unpack("<Q", header)[0] + 4
            records += 1
    if position != size:
        raise UserError(f"{file} is cut off or no TFRecord file: record {records} ends beyond the file; make it again")
    return shards


@dataclasses.dataclass(frozen=True)
class Phase(PhaseConfig):
    """A phase of a run with its data; `data` is None where the config names none."""

    data: DataSource | None = None

    @property
    def source(self) -> DataSource:
        """Its data, which must be named."""
        assert self.data is not None
        return self.data

    @functools.cached_property
    def masking(self) -> "MaskingSettings":
        """How its examples are masked."""
        from electra_cli.data.masking import masking_settings  # noqa: PLC0415  (imports TensorFlow)

        return masking_settings(self.config, self.source)


@dataclasses.dataclass(frozen=True)
class OpenedRun(RunConfig):
    """The config of a run, resolved, with the data of its phases."""

    phases: tuple[Phase, ...]


def read_run(config: ml_collections.ConfigDict, *, needs_data: bool = True) -> OpenedRun:
    """Checks and resolves a config with overrides, and finds its data, which may be unnamed if `needs_data` is False. A
    `UserError` when the config is invalid, or data is missing, damaged, does not fit, or has another vocabulary than
    that of the first phase."""
    phases = check(config, needs_data=needs_data)
    settings = [phase.config.data for phase in phases]
    sources = [find_data(data.dir, data.max_seq_length) if data.dir else None for data in settings]
    vocab_size = _common_vocab_size([source for source in sources if source is not None])
    run = resolve_phases(config, phases, vocab_size)
    opened = tuple(
        Phase(phase.number, phase.begin, phase.end, phase.config, source)
        for phase, source in zip(run.phases, sources, strict=True)
    )
    return OpenedRun(run.resolved, opened, run.assumes_vocab_size)


def _common_vocab_size(sources: Sequence[DataSource]) -> int | None:
    """Returns the size of the vocabulary that all phases share; None without data."""
    sizes = sorted({source.vocabulary.size for source in sources})
    if len(sizes) > 1:
        raise UserError(
            f"config.phases.data_dir: vocabularies of {sizes[0]:,} and {sizes[1]:,} entries: prepare the data of all "
            f"phases with the same --vocab_file"
        )
    for source in sources[1:]:
        if source.vocabulary.sha256 != sources[0].vocabulary.sha256:
            raise UserError(
                f"{source.data_dir} and {sources[0].data_dir} have different vocabularies: prepare the data of all "
                f"phases with the same --vocab_file"
            )
    return sizes[0] if sizes else None


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """Returns the phase that a step belongs to, the last one for steps beyond the run."""
    return next((phase for phase in phases if step <= phase.end), phases[-1])


def fingerprint(phases: Sequence[Phase]) -> str:
    """Returns the identity of a run's data."""
    parts = [phase.source.fingerprint for phase in phases]
    return parts[0] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()


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


def describe_epochs(num_epochs: float) -> str:
    """Returns a number of epochs for people."""
    return f"{num_epochs:,.0f} epochs" if num_epochs >= 100 else f"{num_epochs:.3g} epochs"


def describe_repetition(num_epochs: float) -> str:
    """Returns a sentence where text is repeated too often to teach more; else nothing."""
    if num_epochs <= _MANY_EPOCHS:
        return ""
    return (
        "Each pass over the same text teaches less than the one before: more text would serve better, or a lower "
        "config.train.num_steps."
    )
