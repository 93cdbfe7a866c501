"""Preparation over Apache Beam: the pure steps of the local path, as a pipeline for many machines or one.

Workers read groups of files, find copies, pack, and write a shard for each range of keys, so that the examples and
their order over all shards are those of `prepare.prepare`; only the ends of shards lie elsewhere. What workers write is
temporary until the launching process has heard of all of it (`beam_output.py`).
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import shlex
import tempfile
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from electra_cli import files
from electra_cli.data import python_docs, tokenization
from electra_cli.data.beam_pipeline import open_output, run_pipeline
from electra_cli.data.output_directory import OutputDirectory
from electra_cli.data.packing import PrepareSettings, check_totals
from electra_cli.data.prepare import Preparation, Report, build_manifest, load_vocabulary
from electra_cli.data.spool import SPLITS
from electra_cli.data.tfrecords import (
    MANIFEST_FILE,
    SENTENCEPIECE_FILE,
    TOKEN_COUNTS_FILE,
    VOCAB_FILE,
    Manifest,
    Shard,
    shard_name,
    token_counts_to_bytes,
)
from electra_cli.data.vocabulary import LearningSettings, Vocabulary
from electra_cli.data.workers import Workers
from electra_cli.errors import UserError

_STAGE = "running the pipeline"


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
    """Prepares a corpus as `prepare.prepare` does; the vocabulary is learned by this process.

    Args:
      inputs: files, directories and patterns that workers can read, and `builtin:python-docs`.
      output_dir: directory to be made, local or of a file system that Beam knows; workers must be able to write it.
      settings: how.
      vocab_file: a vocabulary, a token a line, or a SentencePiece model; None to learn one.
      learning: how to learn it.
      num_workers: processes of this machine: of the vocabulary, and of the pipeline when no runner is given.
      overwrite: whether to replace what `output_dir` holds, once the new data is written.
      report: see there.
      beam_options: Beam's options as on a command line, `--runner=FlinkRunner --flink_master=HOST:8081`.

    Returns:
      The manifest that was written.

    Raises:
      UserError: input, vocabulary, output directory or options will not do, or the runner fails. What `output_dir`
        held is intact.
    """
    options = _parse_options(beam_options, num_workers)
    given = load_vocabulary(vocab_file, settings) if vocab_file else None
    model = files.read_bytes(vocab_file) if vocab_file and vocab_file.endswith(tokenization.SUFFIX) else b""
    with open_output(output_dir, overwrite=overwrite) as output:
        with tempfile.TemporaryDirectory() as local, Workers(num_workers) as workers:
            vocabulary, sources, learned = _prepare_here(inputs, settings, given, learning, local, workers, report)
            sources = [
                output.add_scratch_file(source) if path == python_docs.NAME else source
                for path, source in zip(inputs, sources, strict=True)
            ]
        corpus = settings.open_corpus(sources)
        report(_STAGE, 0.0)
        run = functools.partial(
            run_pipeline, options, corpus, vocabulary, settings, sentencepiece=model, scratch=output.scratch
        )
        counts, written = run(held_out_below=settings.validation_fraction)
        held_out_below = check_totals(counts.totals, corpus.files, settings)
        if held_out_below is not None:
            counts, written = run(held_out_below=held_out_below)
            check_totals(counts.totals, corpus.files, settings)
        moves, splits = _name_shards(written.shards)
        statistics = {
            **learned[1],
            "files": len(corpus.files),
            "text_bytes": counts.text_bytes,
            "long_documents_cut": counts.num_cut,
            "builtin": [path for path in inputs if path == python_docs.NAME],
            "copies_dropped": counts.num_copies,
        }
        manifest = build_manifest(
            settings,
            vocabulary,
            counts.totals,
            splits,
            learning=learned[0],
            statistics=statistics,
            sentencepiece_sha256=hashlib.sha256(model).hexdigest() if model else "",
        )
        contents = {
            **({SENTENCEPIECE_FILE: model} if model else {}),
            VOCAB_FILE: vocabulary.to_bytes(),
            TOKEN_COUNTS_FILE: token_counts_to_bytes(written.token_counts),
            MANIFEST_FILE: manifest.to_json().encode(),
        }
        output.publish(moves, contents)
    return manifest


def _prepare_here(
    inputs: list[str],
    settings: PrepareSettings,
    given: Vocabulary | None,
    learning: LearningSettings | None,
    directory: str,
    workers: Workers,
    report: Report,
) -> tuple[Vocabulary, list[str], tuple[dict[str, Any], dict[str, Any]]]:
    """Does in this process, in a local directory, what the local path does before packing.

    Returns:
      The vocabulary, which is learned when none is given; the inputs, where files stand for what is built in; and what
      `Preparation.read_learned` returns.
    """
    with (
        OutputDirectory(os.path.join(directory, "data"), overwrite=False, owned=(), job=None) as local,
        contextlib.closing(Preparation(inputs, settings, local, workers, report)) as preparation,
    ):
        if given is None:
            preparation.find_copies()
        vocabulary = preparation.provide_vocabulary(given, learning)
        return vocabulary, preparation.inputs, preparation.read_learned()


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


def _name_shards(
    shards: Iterable[tuple[str, int, str, Shard]],
) -> tuple[dict[str, str], dict[str, tuple[Shard, ...]]]:
    """Returns the names that files get, by path, and the shards of each split; a range without keys has no shard."""
    moves: dict[str, str] = {}
    splits: dict[str, tuple[Shard, ...]] = {}
    for split in SPLITS:
        found = sorted((index, path, shard) for name, index, path, shard in shards if name == split)
        named = []
        for number, (_, path, shard) in enumerate(found):
            moves[path] = shard_name(split, number, len(found))
            named.append(dataclasses.replace(shard, file=moves[path]))
        splits[split] = tuple(named)
    return moves, splits
