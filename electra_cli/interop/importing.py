"""From an external model to a starting point: a directory with a checkpoint of ours, its config, and a report.

The directory looks like a workdir, so that it can be exported, and loaded from Python, too.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.config import default_config
from electra_cli.config.fields import flatten
from electra_cli.config.resolution import resolve
from electra_cli.data.tfrecords import SENTENCEPIECE_FILE, VOCAB_FILE
from electra_cli.data.tokenization import TokenizerSettings, read_tokenizer
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import Option, UserError
from electra_cli.interop.delivery import new_directory
from electra_cli.interop.runs import LoadedRun, load_run
from electra_cli.objectives import weights as weights_module
from electra_cli.objectives.base import Pretrainer, build_pretrainer
from electra_cli.objectives.weights import Network
from electra_cli.workdir.checkpoint_files import CheckpointFiles
from electra_cli.workdir.run_files import CONFIG_FILE

PYTHON_CONFIG, REPORT_FILE = "config.py", "import.json"
_MAX_GROUPS = 12  # of weights in a line
_PYTHON_CONFIG = '''\
"""Imported by electra-import --format={format}.

    electra-pretrain --config=THIS_FILE --config.data.dir=DATA --workdir=RUN

Sizes are those of the imported model; it starts from the checkpoint beside this file. Batch, steps and
learning rate are yours to choose.
"""

import pathlib

import ml_collections

from electra_cli.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with the sizes of the imported model."""
    config = default_config()
    config.init.checkpoint = str(pathlib.Path(__file__).resolve().parent)
{overrides}    return config
'''


@dataclasses.dataclass
class ExternalModel:
    """A model of another library, as the readers of formats return it.

    Attributes:
      source: where it was read.
      discriminator: the discriminator, with or without its head; None when there is none.
      generator: the generator with its head; None when there is none.
      is_tied: whether one network is both.
      settings: config keys of ours that its own config decides, with their values.
      unexpected: what it holds beyond the two networks.
      notices: what the user should know of it, a line each.
      vocab_file: its vocabulary; None when it has none.
      tokens: the vocabulary, where there is no such file.
      lower_case: whether its tokenizer lower-cases; None when that is not known.
    """

    source: str
    discriminator: Network | None
    generator: Network | None
    is_tied: bool = False
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    notices: list[str] = dataclasses.field(default_factory=list)
    vocab_file: str | None = None
    tokens: tuple[str, ...] | None = None
    lower_case: bool | None = None

    @property
    def networks(self) -> list[Network]:
        """Those that there are, the discriminator first."""
        return [network for network in (self.discriminator, self.generator) if network is not None]


def config_of(external: ExternalModel, generator_size: float) -> ml_collections.ConfigDict:
    """Returns the default config with the sizes and settings of an external model; see `import_external`."""
    config = default_config()
    config.update_from_flattened_dict(external.settings)
    sizes, model = external.networks[0].sizes, config.model
    for name, size in dataclasses.asdict(sizes).items():
        if name != "vocab_size":  # which follows from the data
            model[name] = size
    config.data.max_seq_length = min(config.data.max_seq_length, sizes.max_position_embeddings)
    generator = external.generator
    if external.discriminator is None:
        config.objective.name = "mlm"
    elif external.is_tied:
        config.objective.tied_generator = True
    elif generator is None:
        model.generator_size = generator_size
    else:
        first, second = (network.weights["embeddings/word_embeddings"] for network in external.networks)
        if weights_module.shares_embeddings(external.discriminator, generator):
            model.embedding_sharing = "all"
        else:
            model.embedding_sharing = "word" if np.array_equal(first, second) else "none"
        for name in ("num_layers", "hidden_size", "num_attention_heads", "intermediate_size"):
            model[f"generator_{name}"] = getattr(generator.sizes, name)
    return config


def import_external(
    external: ExternalModel,
    format_name: str,
    output_dir: str,
    *,
    vocab_file: str | None,
    lower_case: bool | None,
    generator_size: float,
    overwrite: bool,
    notice: Callable[[str], None] = print,
) -> None:
    """Writes the starting point of an external model.

    Args:
      external: the model.
      format_name: its format, for the report.
      output_dir: the directory to create; local.
      vocab_file: its vocabulary, in place of its own.
      lower_case: whether text is lower-cased; None: as its tokenizer does, or else true.
      generator_size: width of a newly initialized generator, as a fraction of the discriminator's.
      overwrite: whether a directory that is there and not empty may be replaced.
      notice: receives lines to print.

    Raises:
      UserError: the vocabulary is of another size, or the directory cannot be written. Nothing is left then.
    """
    vocab_size = external.networks[0].sizes.vocab_size
    tokenizer = _tokenizer(external, vocab_file, lower_case, vocab_size)
    config = config_of(external, generator_size)
    config.data.dir = os.path.abspath(output_dir)
    resolved = resolve(config, vocab_size)
    tf_keras.utils.set_random_seed(resolved.train.seed)  # of what is newly initialized
    model = build_pretrainer(resolved)
    if external.is_tied:
        given = {
            **weights_module.join(None, external.generator),
            **weights_module.join(external.discriminator, None),
        }
    else:
        given = weights_module.join(external.discriminator, external.generator)
        if resolved.model.embedding_sharing == "word":
            del given["generator/embeddings/word_embeddings"]  # the discriminator's is the same
    assigned = weights_module.assign(model, given)
    assert not assigned.unexpected, assigned.unexpected
    report = {
        "source": external.source,
        "format": format_name,
        "matched": sorted(assigned.matched),
        "missing": sorted(_missing_heads(external)),
        "unexpected": external.unexpected,
        "freshly_initialized": sorted(assigned.missing),
    }
    _print_report(external, report, notice)
    _write(model, resolved, tokenizer, report, output_dir, overwrite)
    _print_next_steps(output_dir, tokenizer, notice)


def import_run(run: LoadedRun, output_dir: str, *, overwrite: bool, notice: Callable[[str], None] = print) -> None:
    """Writes the starting point of a checkpoint of ours: its weights, or their averages, without the optimizer.

    Raises:
      UserError: the directory cannot be written.
    """
    names = sorted(weights_module.read(run.model))
    report = {
        "source": run.checkpoint, "format": "electra_pretrain", "matched": names,
        "missing": [], "unexpected": [], "freshly_initialized": [],
    }  # fmt: skip
    notice(f"Matched: all {len(names)} weights of {run.checkpoint}.")
    _write(run.model, run.config, run.tokenizer, report, output_dir, overwrite)
    _print_next_steps(output_dir, run.tokenizer, notice)


def _missing_heads(external: ExternalModel) -> list[str]:
    """Returns what a complete ELECTRA would hold and the source does not, as names of weights and networks."""
    missing = []
    if external.discriminator is not None and not external.discriminator.has_head:
        missing += [f"discriminator_predictions/{name}" for name in ("dense", "dense_1")]
    if external.discriminator is None:
        missing.append("discriminator")
    if external.generator is None:
        missing.append("generator")
    return missing


def _tokenizer(
    external: ExternalModel, vocab_file: str | None, lower_case: bool | None, size: int
) -> TokenizerSettings | None:
    lower_case = external.lower_case if lower_case is None else lower_case
    file = vocab_file or external.vocab_file
    if file:
        tokenizer = read_tokenizer(file, lower_case)
    elif external.tokens:
        tokenizer = TokenizerSettings(Vocabulary.from_tokens(external.tokens, external.source), lower_case is not False)
    else:
        return None
    if tokenizer.vocabulary.size != size:
        raise UserError(
            f"the vocabulary {file or external.source} has {tokenizer.vocabulary.size:,} tokens, the word table "
            f"{size:,}: give the one that the model was trained with, ",
            Option("--vocab_file"),
            "=FILE",
        )
    return tokenizer


def _print_report(external: ExternalModel, report: dict[str, Any], notice: Callable[[str], None]) -> None:
    for network in external.networks:
        sizes = network.sizes
        tied = ", one network with the discriminator" if external.is_tied and network is external.generator else ""
        notice(
            f"{network.role.capitalize()}: {sizes.num_layers} layers, width {sizes.hidden_size}, "
            f"{sizes.num_attention_heads} heads, feed-forward {sizes.intermediate_size}, embeddings "
            f"{sizes.embedding_size}, {sizes.vocab_size:,} tokens, {sizes.max_position_embeddings} positions{tied}."
        )
    notice(f"Matched: {len(report['matched'])} weights.")
    for title, key in (
        ("Missing", "missing"),
        ("Unexpected, left out", "unexpected"),
        ("Freshly initialized", "freshly_initialized"),
    ):
        notice(f"{title}: {_grouped(report[key])}.")
    if external.discriminator is not None and external.generator is None:
        notice("There is no generator in the source: a new one is made, and must learn before it corrupts well.")
    if external.discriminator is None:
        notice(
            "There is no discriminator in the source: the config is that of masked language modeling (objective mlm)."
        )
    for line in external.notices:
        notice(line)


def _grouped(names: list[str]) -> str:
    """Returns names for a message, those of one network or head as one with their number."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split("/")[0].split(".")[0], []).append(name)
    labels = [
        members[0] if len(members) == 1 else f"{group} ({len(members)} weights)" for group, members in groups.items()
    ]
    more = f" and {len(labels) - _MAX_GROUPS} more" if len(labels) > _MAX_GROUPS else ""
    return (", ".join(labels[:_MAX_GROUPS]) or "nothing") + more


def _write(
    model: Pretrainer,
    config: ml_collections.FrozenConfigDict,
    tokenizer: TokenizerSettings | None,
    report: dict,
    output_dir: str,
    overwrite: bool,
) -> None:
    record = {"config": config.to_dict(), "data_fingerprint": "none: an import"}
    if tokenizer is not None:
        record["tokenizer"] = {"lower_case": tokenizer.lower_case}
    contents = {
        PYTHON_CONFIG: _python_config(config, report["format"]).encode(),
        CONFIG_FILE: (json.dumps(record, indent=1, sort_keys=True) + "\n").encode(),
        REPORT_FILE: (json.dumps(report, indent=1) + "\n").encode(),
    }
    with new_directory(output_dir, overwrite=overwrite) as directory:
        for name, content in contents.items():
            with open(os.path.join(directory, name), "wb") as stream:
                stream.write(content)
        if tokenizer is not None:
            tokenizer.save(directory)
        files = CheckpointFiles(os.path.join(directory, "checkpoints"))
        files.write(0, tf.train.Checkpoint(model=model, **model.checkpoint_items).write)
        if tokenizer is not None:
            written = load_run(directory, notice=lambda _: None)
            if not weights_module.are_equal(weights_module.read(written.model), weights_module.read(model)):
                raise UserError(f"what was written to {output_dir} is not what was read: nothing was imported")


def _python_config(config: ml_collections.FrozenConfigDict, format_name: str) -> str:
    """Returns the text of a config file that makes the model and starts from the checkpoint in its directory."""
    default, flat = flatten(default_config()), flatten(config)
    sections = ("data.max_seq_length", "data.mask_prob", "model.", "objective.", "optimizer.", "train.")
    changed = [key for key in flat if key.startswith(sections) and key in default and flat[key] != default[key]]
    overrides = "".join(f"    config.{key} = {flat[key]!r}\n" for key in changed)
    return _PYTHON_CONFIG.format(format=format_name, overrides=overrides)


def _print_next_steps(output_dir: str, tokenizer: TokenizerSettings | None, notice: Callable[[str], None]) -> None:
    if tokenizer is None:
        notice("No vocabulary was found: text must be prepared with that of the model (--vocab_file).")
    notice(f"Starting point: {output_dir}")
    name = SENTENCEPIECE_FILE if tokenizer is not None and tokenizer.sentencepiece_file else VOCAB_FILE
    vocab_file = "VOCABULARY" if tokenizer is None else os.path.join(output_dir, name)
    notice(f"Next: electra-prepare --input=TEXT --vocab_file={vocab_file} --output_dir=DATA")
    config_file = os.path.join(output_dir, PYTHON_CONFIG)
    notice(f"      electra-pretrain --config={config_file} --config.data.dir=DATA --workdir=RUN")
