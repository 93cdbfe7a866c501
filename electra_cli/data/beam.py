"""Preparation over Apache Beam: the pure steps of the local path as a pipeline. Workers read groups of files, find
copies, pack, and write a shard for each range of keys, so that the examples and their order over all shards are those
of `prepare.prepare`; only shard boundaries differ. The launching process publishes the workers' temporary files once
all are complete."""

import contextlib
import dataclasses
import functools
import glob
import io
import shlex
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from electra_cli import files
from electra_cli.data import python_docs, tfrecords
from electra_cli.data.beam_pipeline import copy_to, run_pipeline
from electra_cli.data.output_directory import OutputDirectory, check_replaceable
from electra_cli.data.packing import PrepareSettings, check_totals
from electra_cli.data.prepare import Preparation, Report, build_manifest, open_tokenizer
from electra_cli.data.spool import SPLITS
from electra_cli.data.tfrecords import Manifest, Shard
from electra_cli.data.vocabulary_learning import LearningSettings
from electra_cli.data.workers import Workers
from electra_cli.errors import UserError


def prepare(
    inputs: list[str],
    output_dir: str,
    settings: PrepareSettings,
    *,
    vocab_file: str | None = None,
    learning: LearningSettings | None = None,
    num_workers: int,
    overwrite: bool,
    report: Report,
    beam_options: str = "",
) -> Manifest:
    """Prepares a corpus as `prepare.prepare` does, with its arguments and errors; this process learns the vocabulary.

    Workers must be able to read `inputs` and write `output_dir`, on any file system that Beam knows. `num_workers`
    counts processes of this machine; `beam_options` are as on a command line, `--runner=FlinkRunner
    --flink_master=HOST:8081`.
    """
    options = _parse_options(beam_options, num_workers)
    given, settings = open_tokenizer(vocab_file, learning, settings)
    with open_output(output_dir, overwrite=overwrite) as output:
        with tempfile.TemporaryDirectory() as local, Workers(num_workers) as workers:
            preparation = Preparation(inputs, settings, local, local, workers, report)
            with contextlib.closing(preparation):
                if given is None:
                    preparation.deduplicate()
                tokenizer = preparation.provide_tokenizer(given, learning)
                model, vocabulary = tokenizer.model, tokenizer.vocabulary  # read before the directory is gone
                learned = preparation.read_learned()
            sources = [  # as workers can read them
                output.add_scratch_file(source) if path == python_docs.NAME else source
                for path, source in zip(inputs, preparation.inputs, strict=True)
            ]
        corpus = settings.open_corpus(sources)
        report("running the pipeline", 0.0)
        run = functools.partial(run_pipeline, options, corpus, tokenizer, settings, output.scratch)
        counts, written = run(settings.validation_fraction)
        held_out_below = check_totals(counts.totals, corpus.files, settings)
        if held_out_below is not None:
            counts, written = run(held_out_below)
            check_totals(counts.totals, corpus.files, settings)
        moves, splits = _name_shards(written.shards)
        statistics = {
            "files": len(corpus.files),
            "text_bytes": counts.text_bytes,
            "long_documents_cut": counts.num_cut,
            "copies_dropped": counts.num_copies,
        }
        manifest = build_manifest(settings, inputs, tokenizer, counts.totals, splits, learned, statistics)
        contents = {
            **model,
            tfrecords.VOCAB_FILE: vocabulary.to_bytes(),
            tfrecords.TOKEN_COUNTS_FILE: tfrecords.token_counts_to_bytes(written.token_counts),
            tfrecords.MANIFEST_FILE: manifest.to_json().encode(),
        }
        output.publish(moves, contents)
    return manifest


@dataclasses.dataclass(frozen=True)
class Output:
    """Where a pipeline writes: the directory, one for temporary files, and files to remove when new ones come."""

    path: str
    scratch: str
    replaced: tuple[str, ...] = ()

    def add_scratch_file(self, local_path: str) -> str:
        """Copies a local file to where workers see it, and returns its path there."""
        path = files.join(self.scratch, local_path.rsplit("/", 1)[-1])
        copy_to(local_path, path)
        return path

    def publish(self, moves: Mapping[str, str], contents: Mapping[str, bytes]) -> None:
        """Moves files from `scratch` (path to name), then writes the contents (by name), in this order."""
        if self.replaced:
            FileSystems.delete(list(self.replaced))
        FileSystems.rename(list(moves), [files.join(self.path, name) for name in moves.values()])
        for name, content in contents.items():
            with FileSystems.create(files.join(self.path, name)) as stream:
                stream.write(content)


@contextlib.contextmanager
def open_output(output_dir: str, *, overwrite: bool) -> Iterator[Output]:
    """Yields where to write, and cleans up after an exception; a `UserError` when that is not empty or not writable."""
    job = uuid.uuid4().hex  # never the job that left something there
    if not files.is_remote(output_dir):
        with OutputDirectory(output_dir, overwrite=overwrite, owned=tfrecords.DATA_FILES, job=job) as directory:
            try:
                yield Output(directory.path, directory.scratch)
            except BaseException:
                shutil.rmtree(directory.path, ignore_errors=True)
                raise
            directory.commit()
        return
    scratch = files.join(output_dir, f"partial-{job}")
    try:
        old_files = _list(output_dir)
        names = (path.removeprefix(output_dir.rstrip("/") + "/") for path in old_files)
        check_replaceable(output_dir, names, (*tfrecords.DATA_FILES, "partial-*"), overwrite=overwrite)
        FileSystems.mkdirs(scratch)
        try:
            yield Output(output_dir, scratch, old_files)
        finally:
            if leftover := _list(scratch):
                FileSystems.delete(list(leftover))
    except BeamIOError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written: {error}") from error
    except ValueError as error:
        if "filesystem" not in str(error):
            raise
        scheme = output_dir.split("://", 1)[0]
        raise UserError(
            f"--output_dir={output_dir}: Beam knows no {scheme}:// here; install what it needs, such as "
            f"pip install 'apache-beam[gcp]' for gs:// or 'apache-beam[aws]' for s3://"
        ) from error


def _list(directory: str) -> tuple[str, ...]:
    pattern = files.join(glob.escape(directory), "**")
    return tuple(file.path for file in FileSystems.match([pattern])[0].metadata_list)


def _parse_options(text: str, num_workers: int) -> PipelineOptions:
    try:
        arguments = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--beam_options={text}: {error}") from error
    if not any(argument.split("=")[0] == "--runner" for argument in arguments):
        mode = "in_memory" if num_workers == 1 else "multi_processing"
        arguments = [
            "--runner=DirectRunner",
            # Else DirectRunner first tries one in Go, which it downloads; the pipeline has no triggers.
            "--allow_unsafe_triggers",
            f"--direct_num_workers={num_workers}",
            f"--direct_running_mode={mode}",
            "--default_sdk_harness_log_level=ERROR",
            *arguments,
        ]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            options = PipelineOptions(arguments)
            options.get_all_options()
        beam.Pipeline(options=options)  # checks the runner and what it needs
    except SystemExit as error:
        raise UserError(f"--beam_options={text}: {complaint.getvalue().strip().splitlines()[-1]}") from error
    except (ValueError, ImportError) as error:
        raise UserError(f"--beam_options={text}: {error}") from error
    return options


def _name_shards(shards: Iterable[tuple[str, int, str, Shard]]) -> tuple[dict[str, str], dict[str, tuple[Shard, ...]]]:
    """Returns the final file names by path, and the shards of each split; a range without keys has no shard."""
    moves: dict[str, str] = {}
    splits: dict[str, tuple[Shard, ...]] = {}
    for split in SPLITS:
        of_split = sorted((index, path, shard) for name, index, path, shard in shards if name == split)
        named = []
        for number, (_, path, shard) in enumerate(of_split):
            moves[path] = tfrecords.shard_name(split, number, len(of_split))
            named.append(dataclasses.replace(shard, file=moves[path]))
        splits[split] = tuple(named)
    return moves, splits
