"""From an external model to a starting point: a directory with our checkpoint, its config, and a report.

Being like a workdir, it can be exported and loaded from Python, too.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.config import default_config
from electra_cli.config.fields import flatten
from electra_cli.config.resolution import resolve
from electra_cli.data.tokenization import TokenizerSettings, find_vocab_file, read_tokenizer, rules_next_to
from electra_cli.data.vocabulary import Vocabulary, WordRules, guess_rules
from electra_cli.errors import Option, UserError
from electra_cli.interop.delivery import new_directory, write_texts
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

Sizes are those of the imported model; it starts from the checkpoint next to this file. Batch, steps and
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
      discriminator: with or without its head.
      generator: with its head.
      is_tied: whether one network is both.
      settings: values that its own config decides, by our config keys.
      unexpected: names of tensors beyond the two networks.
      notices: what the user should know of it, a line each.
      vocabulary: where there is no `vocab_file`.
      rules: how its tokenizer makes words; None: unknown.
      unsupported: a message, where its tokenizer is not BERT's.
    """

    source: str
    discriminator: Network | None
    generator: Network | None
    is_tied: bool = False
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    notices: list[str] = dataclasses.field(default_factory=list)
    vocab_file: str | None = None
    vocabulary: Vocabulary | None = None
    rules: WordRules | None = None
    unsupported: str = ""

    @property
    def networks(self) -> list[Network]:
        """The networks that it has, the discriminator first."""
        return [network for network in (self.discriminator, self.generator) if network is not None]


def _config_of(external: ExternalModel, generator_size: float) -> ml_collections.ConfigDict:
    """Returns the default config with the sizes and settings of an external model."""
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
    elif generator is None and sizes.architecture == "modern":  # which shares embeddings at equal width alone
        model.generator_size, model.generator_layers = 1.0, generator_size
        for name in ("num_attention_heads", "intermediate_size"):
            model[f"generator_{name}"] = getattr(sizes, name)
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
    vocab_file: str | None = None,
    lower_case: bool | None = None,
    generator_size: float = 0.25,
    overwrite: bool = False,
    notice: Callable[[str], None] = print,
) -> TokenizerSettings | None:
    """Writes the starting point of an external model, and returns its tokenizer; None: it is not known.

    Args:
      vocab_file: its vocabulary, in place of its own.
      lower_case: whether text is lower-cased; None: as its tokenizer does, or else as its vocabulary is written.
      generator_size: width of a newly initialized generator, as a fraction of the discriminator's; of the architecture
        modern its number of layers.

    Raises:
      UserError: the vocabulary is too large for the word table, or the directory cannot be written. Nothing is left
        then.
    """
    vocab_size = external.networks[0].sizes.vocab_size
    tokenizer = _tokenizer(external, vocab_file, lower_case, vocab_size)
    config = _config_of(external, generator_size)
    config.data.dir = os.path.abspath(output_dir)
    resolved = resolve(config, vocab_size)
    tf_keras.utils.set_random_seed(resolved.train.seed)  # of what is newly initialized
    model = build_pretrainer(resolved)
    if external.is_tied:
        given = weights_module.join(None, external.generator) | weights_module.join(external.discriminator, None)
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
    _print_report(external, report, tokenizer.vocabulary.notes if tokenizer else (), notice)
    _write(model, resolved, tokenizer, report, output_dir, overwrite, notice)
    return tokenizer


def import_run(run: LoadedRun, output_dir: str, *, overwrite: bool, notice: Callable[[str], None] = print) -> None:
    """Writes the starting point of our own checkpoint: its weights, or their averages, without the optimizer."""
    names = sorted(weights_module.read(run.model))
    report = {
        "source": run.checkpoint, "format": "electra_pretrain", "matched": names,
        "missing": [], "unexpected": [], "freshly_initialized": [],
    }  # fmt: skip
    notice(f"Matched: all {len(names)} weights of {run.checkpoint}.")
    _write(run.model, run.config, run.tokenizer, report, output_dir, overwrite, notice)


def _missing_heads(external: ExternalModel) -> list[str]:
    """Returns what a complete ELECTRA would hold and the source does not, as names of layers and networks."""
    missing = [name for name in ("discriminator", "generator") if getattr(external, name) is None]
    if external.discriminator is not None and not external.discriminator.has_head:
        missing += ["discriminator_predictions/dense", "discriminator_predictions/dense_1"]
    return missing


def _tokenizer(
    external: ExternalModel, vocab_file: str | None, lower_case: bool | None, size: int
) -> TokenizerSettings | None:
    file = vocab_file or external.vocab_file
    if external.unsupported and not vocab_file:
        raise UserError(f"{external.unsupported}; to use BERT's tokenizer all the same, give a vocabulary of at most "
                        f"{size:,} tokens, ", Option("--vocab_file"), "=COPY, in another directory")  # fmt: skip
    if file:
        own = rules_next_to(vocab_file) if vocab_file else None
        tokenizer = read_tokenizer(file, lower_case, own or external.rules)
    elif external.vocabulary is not None:
        rules = external.rules or guess_rules(external.vocabulary)
        tokenizer = TokenizerSettings(external.vocabulary, rules.replace(lower_case=lower_case))
    else:
        return None
    return tokenizer.fitted(size, file or external.source, "the word table", "--vocab_file")


def _print_report(
    external: ExternalModel, report: dict[str, Any], notes: tuple[str, ...], notice: Callable[[str], None]
) -> None:
    for network in external.networks:
        sizes = network.sizes
        tied = ", one network with the discriminator" if external.is_tied and network is external.generator else ""
        notice(
            f"{network.role.capitalize()}: {sizes.num_layers} layers, width {sizes.hidden_size}, "
            f"{sizes.num_attention_heads} heads, feed-forward {sizes.intermediate_size}, embeddings "
            f"{sizes.embedding_size}, {sizes.vocab_size:,} tokens, {sizes.max_position_embeddings} positions{tied}."
        )
    notice(f"Matched: {len(report['matched'])} weights.")
    notice(f"Missing: {_grouped(report['missing'])}.")
    notice(f"Unexpected, left out: {_grouped(report['unexpected'])}.")
    notice(f"Freshly initialized: {_grouped(report['freshly_initialized'])}.")
    if external.discriminator is None:
        notice(
            "There is no discriminator in the source: the config is that of masked language modeling (objective mlm)."
        )
    elif external.generator is None:
        notice("There is no generator in the source: a new one is made, and must learn before it corrupts well.")
    for line in (*external.notices, *notes):
        notice(line)


def _grouped(names: list[str]) -> str:
    """Returns names for a message; those of one network or head as its name with their number."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.split(r"[/.]", name)[0], []).append(name)
    labels = [
        f"{group} ({len(members)} weights)" if len(members) > 1 else members[0] for group, members in groups.items()
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
    notice: Callable[[str], None],
) -> None:
    """Writes and checks the directory, and prints the next steps."""
    record = {"config": config.to_dict(), "data_fingerprint": "none: an import"}
    if tokenizer is not None:
        record["tokenizer"] = {"lower_case": tokenizer.rules.lower_case}
    contents = {
        PYTHON_CONFIG: _python_config(config, report["format"]),
        CONFIG_FILE: json.dumps(record, indent=1, sort_keys=True) + "\n",
        REPORT_FILE: json.dumps(report, indent=1) + "\n",
    }
    with new_directory(output_dir, overwrite=overwrite) as directory:
        write_texts(directory, contents)
        checkpoint = tf.train.Checkpoint(model=model, **model.checkpoint_items)
        CheckpointFiles(os.path.join(directory, "checkpoints")).write(0, checkpoint.write)
        if tokenizer is not None:
            tokenizer.save(directory)
            written = load_run(directory, notice=lambda _: None)
            if not weights_module.are_equal(weights_module.read(written.model), weights_module.read(model)):
                raise UserError(f"what was written to {output_dir} is not what was read: nothing was imported")
    vocab_file = find_vocab_file(output_dir)
    if vocab_file is None:
        notice("No vocabulary was found: text must be prepared with that of the model (--vocab_file).")
    notice(f"Starting point: {output_dir}")
    flags = tokenizer.rules.flags if tokenizer is not None and not tokenizer.model_file else ""
    notice(f"Next: electra-prepare --input=TEXT --vocab_file={vocab_file or 'VOCABULARY'}{flags} --output_dir=DATA")
    config_file = os.path.join(output_dir, PYTHON_CONFIG)
    notice(f"      electra-pretrain --config={config_file} --config.data.dir=DATA --workdir=RUN")


def _python_config(config: ml_collections.FrozenConfigDict, format_name: str) -> str:
    """Returns a config file that builds the model and starts from the checkpoint in its directory."""
    default, flat = flatten(default_config()), flatten(config)
    sections = ("data.max_seq_length", "data.mask_prob", "model.", "objective.", "optimizer.", "train.")
    changed = [key for key in flat if key.startswith(sections) and key in default and flat[key] != default[key]]
    overrides = "".join(f"    config.{key} = {flat[key]!r}\n" for key in changed)
    return _PYTHON_CONFIG.format(format=format_name, overrides=overrides)
