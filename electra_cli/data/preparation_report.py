"""Reports what a manifest holds and what of the text the user should look at. No TensorFlow here."""

import runpy
import shlex
from collections.abc import Mapping
from typing import Any

from electra_cli.config.pretraining import PRETRAINING
from electra_cli.data.tfrecords import Manifest
from electra_cli.loggers.logger import Logger


def training_command(data_dir: str, manifest: Manifest) -> str:
    """Returns a command line that pre-trains a small preset on prepared data, with the data's length of examples and
    without evaluation where nothing is held out.

    The preset is `small`, or `modern_small` for examples that are longer than its position table.
    """
    config = runpy.run_path(PRETRAINING.path("small"))["get_config"]()
    length = manifest.max_seq_length
    preset = "small" if length <= config.model.max_position_embeddings else "modern_small"
    arguments = [f"--config={preset}", f"--config.data.dir={data_dir}"]
    if length != config.data.max_seq_length:
        arguments.append(f"--config.data.max_seq_length={length}")
    arguments.append("--workdir=RUN")
    if not manifest.num_examples("validation"):
        arguments.append("--mode=train")
    return shlex.join(["electra-pretrain", *arguments])


_NUM_FILES_SHOWN = 10
# Of the text's characters, as [UNK] or removed, from which the user is warned; and by cause (`Coverage.count`), why and
# what to do.
_MIN_SHARE_LOST = 0.01
_UNKNOWN = {
    "too_long": "in words of more than {max_word_length} characters, as in text without spaces: put spaces between its "
    "words, give a SentencePiece model, or raise --max_word_length",
    "other_case": "in words that the vocabulary has in another case or with other accents: change --lower_case or "
    "--strip_accents, or give another vocabulary",
    "not_covered": "in words with characters that the vocabulary does not cover: learn one from this text "
    "(--learn_vocab, --vocab_character_coverage near 1), or give one of its language",
}
_REMOVED = {
    "marks": "accents or vowel signs, as of Thai or Hindi: add --strip_accents=false, with a vocabulary that has them",
    "invisible": "control characters, of private use or unassigned: replace those that matter, zero-width spaces "
    "between words by spaces",
}
# Held out of the text, and as a multiple of what was asked for, from which the user is warned.
_MIN_SHARE_WARNED, _TIMES_AS_ASKED = 0.05, 3


def report_preparation(manifest: Manifest, output_dir: str, logger: Logger) -> None:
    """Reports what was prepared, and what comes next."""
    _report_splits(manifest, output_dir, logger)
    statistics = manifest.statistics
    short, copies = statistics["short_documents_dropped"], statistics["copies_dropped"]
    if short or copies:
        logger.notice(f"Skipped: {short:,} short documents, {copies:,} copies.")
    for warning in _warnings(manifest):
        logger.warning(warning)
    logger.notice(
        f"Vocabulary of {manifest.vocab_size:,} tokens and data of {statistics['documents']:,} documents: {output_dir}"
    )
    logger.notice(f"Next: {training_command(output_dir, manifest)}")


def _report_splits(manifest: Manifest, output_dir: str, logger: Logger) -> None:
    lines, splits = [], {}
    for split, shards in manifest.splits.items():
        examples, tokens = manifest.num_examples(split), manifest.real_tokens(split)
        mean = tokens / examples if examples else 0.0
        padding = 1 - mean / manifest.max_seq_length if examples else 0.0
        lines.append(
            f"{split:<11}{examples:>11,} examples {tokens:>14,} tokens  mean length {mean:6.1f}  "
            f"padding {padding:5.1%}  {len(shards)} shard(s)"
        )
        splits[split] = {"num_examples": examples, "real_tokens": tokens, "num_shards": len(shards)}
    prepared = {"splits": splits, "vocab_size": manifest.vocab_size, "num_documents": manifest.statistics["documents"]}
    logger.result("prepared", {**prepared, "output_dir": output_dir}, "\n".join(lines))


def _warnings(manifest: Manifest) -> list[str]:
    settings, statistics, warnings = manifest.settings, manifest.statistics, []
    train, held_out = (manifest.real_tokens(split) for split in ("train", "validation"))
    share, asked = held_out / max(1, train + held_out), settings["validation_fraction"]
    if asked and share > max(_MIN_SHARE_WARNED, _TIMES_AS_ASKED * asked):
        warnings.append(
            f"Warning: {share:.0%} of the text is held out, not --validation_fraction={asked:g}, since documents are "
            f"held out whole: separate documents by blank lines (or see --document_separator), or take more text."
        )
    warnings += _loss_warnings(statistics.get("coverage", {}), settings)
    replaced = statistics["replaced_characters"]
    if replaced:
        worst = sorted(replaced.items(), key=lambda item: (-item[1], item[0]))
        lines = [f"Bytes that are not UTF-8 became U+FFFD in {len(replaced):,} file(s):"]
        lines += [f"  {number:>9,} in {path}" for path, number in worst[:_NUM_FILES_SHOWN]]
        if len(worst) > _NUM_FILES_SHOWN:
            lines.append("  ... (all of them: statistics.replaced_characters in manifest.json)")
        warnings.append("\n".join(lines))
    if statistics["long_documents_cut"]:
        warnings.append(
            f"Documents of more than 16 MiB were cut, in {statistics['long_documents_cut']:,} places: is "
            f"--document_separator={settings['document_separator']} right?"
        )
    if statistics.get("rare_words_forgotten"):
        warnings.append(
            f"While words were counted, {statistics['rare_words_forgotten']:,} occurrences of rare ones were forgotten "
            f"to bound memory."
        )
    return warnings


def lost_shares(coverage: Mapping[str, int]) -> tuple[float, float, float]:
    """Returns the fractions of a text's characters that became [UNK], of its tokens that are [UNK], and of its
    characters that were removed; `coverage` is what `Coverage.count` returns."""
    unknown, removed = (sum(coverage.get(cause, 0) for cause in causes) for causes in (_UNKNOWN, _REMOVED))
    characters, tokens = (max(1, coverage.get(name, 0)) for name in ("characters", "tokens"))
    return unknown / characters, coverage.get("unknown_tokens", 0) / tokens, removed / characters


def _loss_warnings(coverage: Mapping[str, int], settings: Mapping[str, Any]) -> list[str]:
    unknown, unknown_tokens, removed = lost_shares(coverage)
    losses = (
        (unknown, f"({unknown_tokens:.1%} of its tokens) became [UNK]", _UNKNOWN),
        (removed, "were removed", _REMOVED),
    )
    return [
        f"Warning: {share:.1%} of the text's characters {what}, most of them "
        f"{causes[max(causes, key=lambda cause: coverage.get(cause, 0))].format(**settings)}."
        for share, what, causes in losses
        if share >= _MIN_SHARE_LOST
    ]
