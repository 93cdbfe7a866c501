"""`electra-prepare`: raw text to vocabulary and TFRecord shards."""

import dataclasses
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from absl import flags

from electra_cli import files
from electra_cli.cli import app
from electra_cli.config.fields import FRACTION, NOT_NEGATIVE, POSITIVE, Field, Rule
from electra_cli.errors import Interrupted, UserError
from electra_cli.loggers.lines import StageProgress, lines_logger

if TYPE_CHECKING:  # --help, and the first moment in which a signal is handled, must not wait for NumPy
    from electra_cli.data.vocabulary_learning import LearningSettings

_AT_LEAST_1 = Rule(lambda value: value >= 1, "must be at least 1")
GROUPS: app.FlagGroups = {
    "Required": {
        "input": Field(
            [],
            "Files, directories and patterns, comma-separated: text, .jsonl, .parquet or .arrow; .gz, .bz2, .xz and "
            ".zst are decompressed. builtin:python-docs is English prose from the Python installation and the packages "
            "this program needs.",
        ),
        "output_dir": Field(None, "Directory to create."),
    },
    "Vocabulary, one of the first four": {
        "vocab_file": Field(
            None, "WordPiece vocabulary, a token per line, SentencePiece model, NAME.model, or tokenizer.json."
        ),
        "tokenizer_file": Field(None, "The same for a tokenizer.json: byte-level BPE, as of ModernBERT and RoBERTa."),
        "learn_vocab": Field(
            None,
            "Learn a vocabulary of this many tokens from the text instead.",
            Rule(lambda value: value >= 100, "must be at least 100 tokens", 2**24),
            value_type=int,
        ),
        "learn_bpe": Field(
            None,
            "Learn a byte-level BPE of this many tokens from the text instead, which covers text of any language.",
            Rule(lambda value: value >= 261, "must be at least 261 tokens", 2**24),
            value_type=int,
        ),
        "vocab_type": Field(
            "wordpiece",
            "What to learn: pieces of words, or only characters, as for Chinese, at most --learn_vocab of them.",
            choices=("wordpiece", "character"),
        ),
        "vocab_min_frequency": Field(
            2, "Learn characters, and joined pairs of pieces, that occur this often or more.", _AT_LEAST_1
        ),
        "vocab_character_coverage": Field(
            0.9999,
            "Fraction of the text's characters that must be learned.",
            Rule(lambda value: 0 < value <= 1, "must be a fraction greater than 0"),
        ),
        "vocab_reserved": Field(0, "Also add this many tokens [unused0], [unused1], ...", NOT_NEGATIVE.up_to(2**20)),
        "vocab_user_tokens": Field([], "Words that must be tokens, comma-separated."),
        "vocab_sample_mb": Field(
            1024.0, "Maximum megabytes of text to learn from, spread evenly over all of it.", POSITIVE
        ),
    },
    "Input": {
        "document_separator": Field("blank_line", "What ends a document.", choices=("blank_line", "file", "line")),
        "input_format": Field(
            "auto", "Format of all files; auto: by their names.", choices=("auto", "text", "jsonl", "parquet", "arrow")
        ),
        "text_field": Field("text", "Field of JSON lines or column of Parquet or Arrow that holds the text."),
        "input_weights": Field(
            [], "How often to use the documents of each input, as in 1,0.5,3; a fraction uses a share of them."
        ),
        "encoding_errors": Field(
            "strict",
            "On bytes that are not UTF-8: stop and report where, or replace and count them.",
            choices=("strict", "replace"),
        ),
        "min_words": Field(0, "Drop documents with fewer words.", NOT_NEGATIVE),
        "deduplicate": Field(
            "none",
            "Drop documents with the same text as an earlier one, exactly or nearly (MinHash of word 5-grams, "
            "Jaccard similarity of 0.8 or more).",
            choices=("none", "exact", "near"),
        ),
        "lower_case": Field(
            True, "Lower-case text; by default as tokenizer_config.json next to --vocab_file says, or true."
        ),
        "strip_accents": Field(None, "Strip accents; by default, as --lower_case.", value_type=bool),
        "tokenize_chinese_chars": Field(True, "Make a word of each Chinese character."),
        "max_word_length": Field(
            100, "Characters; longer words become [UNK]. Text without spaces may need more.", _AT_LEAST_1
        ),
        "word_boundaries": Field(
            "wordpiece",
            "What counts as a word for whole-word masking: a token and the '##' tokens that follow it, or the text "
            "between two spaces (for Chinese, give segmented text).",
            choices=("wordpiece", "whitespace"),
        ),
    },
    "Output": {
        "max_seq_length": Field(
            128,
            "Tokens per example, special tokens included.",
            Rule(lambda value: 8 <= value <= 8192, "must be from 8 to 8192"),
        ),
        "packing": Field(
            "pairs",
            "pairs: examples with two segments of one document, one in ten with one. single: always one segment. "
            "full: as many documents as fit, for short documents.",
            choices=("pairs", "single", "full"),
        ),
        "validation_fraction": Field(0.01, "Fraction of the documents that is held out.", FRACTION),
        "seed": Field(0, "Determines packing, held-out documents and order."),
        "shard_size_mb": Field(64.0, "Approximate megabytes per shard, before compression.", POSITIVE),
        "overwrite": Field(False, "Replace an output directory that is not empty."),
    },
    "How it runs": {
        "num_workers": Field(os.cpu_count() or 1, "Processes; the result is the same for any number.", _AT_LEAST_1),
        "runner": Field(
            "local",
            "What does the work: processes on this machine, or Apache Beam, which runs on many; the examples are the "
            "same. For beam: pip install 'electra-pretrain[beam]'.",
            choices=("local", "beam"),
        ),
        "beam_options": Field(
            "",
            'Options for Apache Beam, as in "--runner=FlinkRunner --flink_master=HOST:8081"; without --runner, the '
            "pipeline runs in processes on this machine.",
        ),
    },
    "Instead of preparing": {
        "inspect": Field(None, "Instead of preparing: check a prepared directory byte by byte, and describe it."),
    },
    "Messages": {
        "quiet": Field(False, "Print only warnings, errors and the final table."),
        "log_format": Field(
            "text",
            "text: for people. json: one object per line on standard output, for programs.",
            choices=("text", "json"),
        ),
    },
}
FLAGS = app.define_flags(GROUPS)

USAGE = """
Turns raw text into the data that electra-pretrain reads: a vocabulary and TFRecord shards, shuffled over all the text.

Usage: {program} --input=PATH[,PATH...] --output_dir=DIR VOCABULARY [--FLAG=VALUE ...]
VOCABULARY is one of --vocab_file=FILE, --tokenizer_file=FILE, --learn_vocab=SIZE, --learn_bpe=SIZE.
"""
_LEARNING_FLAGS = (
    "vocab_type",
    "vocab_min_frequency",
    "vocab_character_coverage",
    "vocab_reserved",
    "vocab_user_tokens",
    "vocab_sample_mb",
)

_WORDPIECE_LEARNING_FLAGS = ("vocab_type", "vocab_character_coverage", "vocab_user_tokens")
_SOURCES = ("vocab_file", "tokenizer_file", "learn_vocab", "learn_bpe")
_RULES = ("lower_case", "strip_accents", "tokenize_chinese_chars", "max_word_length")

EXAMPLES = """
Examples:
  {program} --input=wiki/ --learn_vocab=30522 --output_dir=data
  {program} --inspect=data
  {program} --input=books.txt.gz,news.txt --vocab_file=vocab.txt --document_separator=line --output_dir=data
"""


def _main(values: flags.FlagValues) -> None:
    if values.inspect:
        _handle_signals(_interrupt_inspection)
        files.check_directory("--inspect", values.inspect, "give the output directory of electra-prepare")
        from electra_cli.loggers import panel  # noqa: PLC0415  (--help must not wait for it)

        title = f"electra-prepare --inspect={values.inspect}"
        with panel.choose_logger(title, quiet=values.quiet, log_format=values.log_format) as logger:
            with logger.status("Starting TensorFlow"):
                from electra_cli.data.inspection import inspect_data  # noqa: PLC0415  (imports it: seconds)

            with logger.status("Checking every byte"):
                inspect_data(values.inspect, lambda line: logger.result("inspection", {"text": line}, line))
        return
    _check(values)
    prepare = _runner(values)
    from electra_cli.data import inputs, packing, preparation_report  # noqa: PLC0415  (--help must not wait for it)

    settings = packing.PrepareSettings(
        max_seq_length=values.max_seq_length,
        validation_fraction=values.validation_fraction,
        seed=values.seed,
        document_separator=values.document_separator,
        encoding_errors=values.encoding_errors,
        **_rules(values),
        shard_size_mb=values.shard_size_mb,
        word_boundaries=values.word_boundaries,
        packing=values.packing,
        min_words=values.min_words,
        deduplicate=values.deduplicate,
        text_field=values.text_field,
        input_format=values.input_format,
        input_weights=_weights(values),
    )
    learning = _learning(values)
    _handle_signals(_interrupt_beam if values.runner == "beam" else _interrupt)
    with lines_logger(quiet=values.quiet, log_format=values.log_format) as logger:
        progress = StageProgress(logger if values.quiet or values.log_format == "json" else None)
        try:
            reading, warnings = inputs.describe_inputs(values.input, values.input_format)
            for warning in warnings:
                logger.warning(warning)
            if reading:
                progress(reading, 0.0)
            manifest = prepare(
                values.input,
                values.output_dir,
                settings,
                vocab_file=values.vocab_file or values.tokenizer_file,
                learning=learning,
                num_workers=values.num_workers,
                overwrite=values.overwrite,
                report=progress,
            )
        except Exception as error:
            # Beam makes errors of its own of what a signal raises within its code.
            if _beam_stops and not isinstance(error, Interrupted):
                raise _beam_stops[0] from error
            raise
        progress.end()
        preparation_report.report_preparation(manifest, values.output_dir, logger)


def _runner(values: flags.FlagValues) -> Callable[..., Any]:
    """Returns the function that prepares."""
    if values.runner == "local":
        from electra_cli.data.prepare import prepare  # noqa: PLC0415

        return prepare
    # Beam warns of every file system and service for which nothing is installed.
    logging.disable(logging.WARNING)
    try:
        from electra_cli.data import beam  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "apache_beam":
            raise
        raise UserError(
            "--runner=beam needs Apache Beam, which is not installed: pip install 'electra-pretrain[beam]'"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    return functools.partial(beam.prepare, beam_options=values.beam_options)


def _learning(values: flags.FlagValues) -> "LearningSettings | None":
    size = values.learn_vocab or values.learn_bpe
    if size is None:
        return None
    from electra_cli.data.vocabulary_learning import LearningSettings  # noqa: PLC0415

    return LearningSettings(
        size=size,
        type="bpe" if values.learn_bpe else values.vocab_type,
        min_frequency=values.vocab_min_frequency,
        character_coverage=values.vocab_character_coverage,
        num_reserved=values.vocab_reserved,
        user_tokens=tuple(values.vocab_user_tokens),
        sample_mb=values.vocab_sample_mb,
    )


def _rules(values: flags.FlagValues) -> dict[str, Any]:
    """Returns how text becomes words: by the flags that were given, or else by the vocabulary's own rules."""
    from electra_cli.data import tokenization, vocabulary  # noqa: PLC0415  (--help must not wait for NumPy)

    own = tokenization.rules_next_to(values.vocab_file) if values.vocab_file else None
    rules = own or vocabulary.WordRules()
    given = {name: values[name].value for name in _RULES if values[name].present}
    return dataclasses.asdict(rules.replace(**given))


def _weights(values: flags.FlagValues) -> tuple[float, ...]:
    if not values.input_weights:
        return ()
    try:
        weights = tuple(float(weight) for weight in values.input_weights)
    except ValueError as error:
        raise UserError(
            f"--input_weights={','.join(values.input_weights)}: {error}; give numbers, as in 1,0.5"
        ) from error
    if len(weights) != len(values.input) or not all(0 < weight < 1000 for weight in weights):
        raise UserError(
            f"--input_weights={','.join(values.input_weights)}: give a number greater than 0 and less than 1000 for "
            f"each of the {len(values.input)} inputs"
        )
    return weights


def _check(values: flags.FlagValues) -> None:
    app.require_flags(
        values,
        input="give text files or directories, or builtin:python-docs",
        output_dir="give the directory to create",
    )
    if "://" in values.output_dir and values.runner == "local":
        raise UserError(
            f"--output_dir={values.output_dir}: give a local directory, and copy it when it is done (or --runner=beam)"
        )
    if values.beam_options and values.runner != "beam":
        raise UserError(f"--beam_options={values.beam_options} needs --runner=beam")
    given = [name for name in _SOURCES if values[name].value is not None]
    if len(given) != 1:
        raise UserError("give one of --vocab_file=FILE, --tokenizer_file=FILE, --learn_vocab=SIZE and --learn_bpe=SIZE")
    if values.learn_bpe is not None:
        app.refuse_flags(values, _WORDPIECE_LEARNING_FLAGS, "is for WordPiece: it does not go with --learn_bpe")
        app.refuse_flags(values, _RULES, "is for WordPiece: byte-level BPE splits text in its own way")
    file = values.vocab_file or values.tokenizer_file
    if file is not None:
        app.refuse_flags(values, _LEARNING_FLAGS, f"says how to learn a vocabulary: it does not go with --{given[0]}")
        if values.tokenizer_file and not file.endswith(".json"):
            raise UserError(f"--tokenizer_file={file}: give a tokenizer.json, or any other vocabulary as --vocab_file")
        if file.endswith((".model", ".json")):
            kind = "SentencePiece model" if file.endswith(".model") else "tokenizer.json"
            app.refuse_flags(values, _RULES, f"is for WordPiece: a {kind} splits text in its own way")
    app.check_flags(values, GROUPS)


def _handle_signals(handler: Callable[[int, object], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _end(number: int, _: object) -> None:
    """Ends the process while modules are imported, which may make errors of their own of an exception."""
    os.write(2, f"{os.path.basename(sys.argv[0])}: {_stop_before_writing(number)}\n".encode())
    os._exit(app.EXIT_INTERRUPTED)


def _stop_before_writing(number: int) -> Interrupted:
    return Interrupted(f"stopped by {signal.Signals(number).name}; nothing was written, the same command starts again")


def _interrupt_inspection(number: int, _: object) -> None:
    raise _stop_before_writing(number)


def _interrupt(number: int, _: object) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name}; the same command resumes where it ended")


# What a signal made of a run of Beam, if one came.
_beam_stops: list[Interrupted] = []


def _interrupt_beam(number: int, _: object) -> None:
    logging.disable(logging.CRITICAL)  # Beam logs what ends its steps, with a traceback
    _beam_stops.append(_stop_before_writing(number))
    raise _beam_stops[0]


def main() -> None:
    """Runs the command line."""
    _handle_signals(_end)
    app.run(_main, FLAGS, USAGE, EXAMPLES, groups=GROUPS)


if __name__ == "__main__":
    main()
