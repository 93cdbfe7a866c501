"""From a foreign model to a starting point: a directory with a checkpoint of ours, its config, and a report.

The directory looks like a workdir, so that it can be exported, and loaded from Python, too.
"""

import json
import os
from collections.abc import Callable

import ml_collections
import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.config import default_config
from electra_cli.config.resolution import flatten, resolve
from electra_cli.data.tfrecords import SENTENCEPIECE_FILE, VOCAB_FILE
from electra_cli.data.tokenization import TokenizerSettings, read_tokenizer
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import Option, UserError
from electra_cli.interop import google_tf1, huggingface, tfm
from electra_cli.interop.delivery import new_directory
from electra_cli.interop.foreign import Foreign
from electra_cli.interop.runs import Run, load_run
from electra_cli.objectives import weights as weights_module
from electra_cli.objectives.base import Pretrainer, build_pretrainer
from electra_cli.objectives.weights import Network, expected_shapes
from electra_cli.workdir.checkpoint_files import CheckpointFiles
from electra_cli.workdir.run_files import CONFIG_FILE

PYTHON_CONFIG, REPORT_FILE = "config.py", "import.json"
_LARGEST_GROUPS = 12


def read_source(
    format_name: str,
    source: str,
    *,
    generator_source: str | None = None,
    hparams_file: str | None = None,
    num_attention_heads: int | None = None,
    generator_num_attention_heads: int | None = None,
) -> Foreign:
    """Reads a foreign model.

    Args:
      format_name: 'google_tf1', 'huggingface' or 'tfm'.
      source: where it is; see the module of that format.
      generator_source: with huggingface, the folder of the generator.
      hparams_file: with google_tf1, a file of hyperparameters.
      num_attention_heads: heads of the discriminator, where weights do not tell and the format's rule does not hold.
      generator_num_attention_heads: and of the generator.

    Raises:
      UserError: it cannot be read, or is incomplete.
    """
    if format_name == "google_tf1":
        foreign = google_tf1.read(source, hparams_file)
    elif format_name == "tfm":
        foreign = tfm.read(source)
    else:
        foreign = huggingface.read(source)
    if generator_source:
        other = huggingface.read(generator_source)
        if foreign.discriminator is None or other.generator is None:
            raise UserError(
                Option("--source"),
                " must be a discriminator (ElectraForPreTraining) and ",
                Option("--generator_source"),
                " a generator (ElectraForMaskedLM)",
            )
        foreign.generator = other.generator
        foreign.unexpected += other.unexpected
    if foreign.is_tied or foreign.discriminator is None:
        generator_num_attention_heads = num_attention_heads
    for network, heads in (
        (foreign.discriminator, num_attention_heads),
        (foreign.generator, generator_num_attention_heads),
    ):
        if network is not None:
            network.num_attention_heads = heads or network.num_attention_heads
            _check_complete(network, source)
    if foreign.discriminator is not None and foreign.generator is not None:
        _check_pair(foreign.discriminator, foreign.generator)
    return foreign


def _check_complete(network: Network, source: str) -> None:
    """Raises a `UserError` unless all of a network is there, and all of its head or nothing."""
    missing = sorted(expected_shapes(network.role, network.sizes).keys() - network.weights.keys())
    if any(not name.startswith("predictions/") for name in missing) or (missing and network.has_head):
        raise UserError(f"{source}: {len(missing)} weights of the {network.role} are missing, such as {missing[0]}")
    if missing and network.role == "generator":
        raise UserError(f"{source}: the generator has no head")


def _check_pair(discriminator: Network, generator: Network) -> None:
    for name in ("vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size"):
        first, second = getattr(discriminator.sizes, name), getattr(generator.sizes, name)
        if first != second:
            raise UserError(
                f"the discriminator has a {name} of {first}, the generator of {second}: they do not belong together"
            )


def config_of(foreign: Foreign, generator_size: float) -> ml_collections.ConfigDict:
    """Returns the default config with the sizes and settings of a foreign model.

    Args:
      foreign: the model.
      generator_size: width of a generator that is made new, as a fraction of the discriminator's.
    """
    config = default_config()
    config.update_from_flattened_dict(foreign.settings)
    main = foreign.discriminator or foreign.generator
    assert main is not None
    sizes, model = main.sizes, config.model
    for name in (
        "embedding_size",
        "num_layers",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
    ):
        model[name] = getattr(sizes, name)
    config.data.max_seq_length = min(config.data.max_seq_length, sizes.max_position_embeddings)
    generator = foreign.generator
    if foreign.discriminator is None:
        config.objective.name = "mlm"
    elif foreign.is_tied:
        config.objective.tied_generator = True
    elif generator is None:
        model.generator_size = generator_size
    else:
        model.embedding_sharing = _sharing(foreign.discriminator, generator)
        for name in ("num_layers", "hidden_size", "num_attention_heads", "intermediate_size"):
            model[f"generator_{name}"] = getattr(generator.sizes, name)
    return config


def _sharing(discriminator: Network, generator: Network) -> str:
    if weights_module.shares_embeddings(discriminator, generator):
        return "all"
    table = "embeddings/word_embeddings"
    return "word" if np.array_equal(discriminator.weights[table], generator.weights[table]) else "none"


def import_foreign(
    foreign: Foreign,
    format_name: str,
    output_dir: str,
    *,
    vocab_file: str | None,
    lower_case: bool | None,
    generator_size: float,
    overwrite: bool,
    say: Callable[[str], None] = print,
) -> None:
    """Writes the starting point of a foreign model.

    Args:
      foreign: the model.
      format_name: its format, for the report.
      output_dir: the directory to be made; local.
      vocab_file: its vocabulary, in place of the one that was found with it.
      lower_case: whether text is lower-cased; None: as its tokenizer says, or else true.
      generator_size: width of a generator that is made new, as a fraction of the discriminator's.
      overwrite: whether a directory that is there and not empty may be replaced.
      say: prints a line.

    Raises:
      UserError: the vocabulary is of another size, or the directory cannot be written. Nothing is left then.
    """
    network = foreign.discriminator or foreign.generator
    assert network is not None
    tokenizer = _tokenizer(foreign, vocab_file, lower_case, network.sizes.vocab_size)
    config = config_of(foreign, generator_size)
    config.data.dir = os.path.abspath(output_dir)
    resolved = resolve(config, network.sizes.vocab_size)
    tf_keras.utils.set_random_seed(resolved.train.seed)  # of what is made new
    model = build_pretrainer(resolved)
    if foreign.is_tied or foreign.discriminator is None:
        assert foreign.generator is not None
        own = weights_module.join(None, foreign.generator)
        given = {**own, **(weights_module.join(foreign.discriminator, None) if foreign.discriminator else {})}
    else:
        given = weights_module.join(foreign.discriminator, foreign.generator)
        if resolved.model.embedding_sharing == "word":
            del given["generator/embeddings/word_embeddings"]  # the discriminator's is the same
    assigned = weights_module.assign(model, given)
    assert not assigned.unexpected, assigned.unexpected
    report = {
        "source": foreign.source,
        "format": format_name,
        "matched": sorted(assigned.matched),
        "missing": sorted(_missing_heads(foreign)),
        "unexpected": foreign.unexpected,
        "freshly_initialized": sorted(assigned.missing),
    }
    tell(foreign, report, say)
    _write(model, resolved, tokenizer, report, output_dir, overwrite)
    _tell_next(output_dir, tokenizer, say)


def import_run(run: Run, output_dir: str, *, overwrite: bool, say: Callable[[str], None] = print) -> None:
    """Writes the starting point of a checkpoint of ours: its weights, or their averages, without the optimizer.

    Raises:
      UserError: the directory cannot be written.
    """
    names = sorted(weights_module.read(run.model))
    report = {
        "source": run.checkpoint, "format": "electra_pretrain", "matched": names,
        "missing": [], "unexpected": [], "freshly_initialized": [],
    }  # fmt: skip
    say(f"Matched: all {len(names)} weights of {run.checkpoint}.")
    _write(run.model, run.config, run.tokenizer, report, output_dir, overwrite)
    _tell_next(output_dir, run.tokenizer, say)


def _missing_heads(foreign: Foreign) -> list[str]:
    """Returns what a complete ELECTRA would hold and the source does not, as names and networks."""
    missing = []
    if foreign.discriminator is not None and not foreign.discriminator.has_head:
        missing += [f"discriminator_predictions/{name}" for name in ("dense", "dense_1")]
    if foreign.discriminator is None:
        missing.append("discriminator")
    if foreign.generator is None:
        missing.append("generator")
    return missing


def _tokenizer(
    foreign: Foreign, vocab_file: str | None, lower_case: bool | None, size: int
) -> TokenizerSettings | None:
    lower_case = foreign.lower_case if lower_case is None else lower_case
    file = vocab_file or foreign.vocab_file
    if file:
        tokenizer = read_tokenizer(file, lower_case)
    elif foreign.tokens:
        tokenizer = TokenizerSettings(Vocabulary.from_tokens(foreign.tokens, foreign.source), lower_case is not False)
    else:
        return None
    if tokenizer.vocabulary.size != size:
        raise UserError(
            f"the vocabulary {file or foreign.source} has {tokenizer.vocabulary.size:,} tokens, the word table "
            f"{size:,}: give the one that the model was trained with, ",
            Option("--vocab_file"),
            "=FILE",
        )
    return tokenizer


def tell(foreign: Foreign, report: dict, say: Callable[[str], None]) -> None:
    """Prints what was matched, missing, unexpected and made new."""
    for network in (foreign.discriminator, foreign.generator):
        if network is not None:
            sizes = network.sizes
            say(
                f"{network.role.capitalize()}: {sizes.num_layers} layers, width {sizes.hidden_size}, "
                f"{sizes.num_attention_heads} heads, feed-forward {sizes.intermediate_size}, embeddings "
                f"{sizes.embedding_size}, {sizes.vocab_size:,} tokens, {sizes.max_position_embeddings} positions"
                f"{', one network with the discriminator' if foreign.is_tied and network is foreign.generator else ''}."
            )
    say(f"Matched: {len(report['matched'])} weights.")
    for title, key in (
        ("Missing", "missing"),
        ("Unexpected, left out", "unexpected"),
        ("Freshly initialized", "freshly_initialized"),
    ):
        say(f"{title}: {_grouped(report[key])}.")
    if foreign.discriminator is not None and foreign.generator is None:
        say("There is no generator in the source: a new one is made, and must learn before it corrupts well.")
    if foreign.discriminator is None:
        say("There is no discriminator in the source: the config is that of masked language modeling (objective mlm).")
    for notice in foreign.notices:
        say(notice)


def _grouped(names: list[str]) -> str:
    """Returns names, those of one network or head as one with their number."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split("/")[0].split(".")[0], []).append(name)
    shown = [
        members[0] if len(members) == 1 else f"{group} ({len(members)} weights)" for group, members in groups.items()
    ]
    more = f" and {len(shown) - _LARGEST_GROUPS} more" if len(shown) > _LARGEST_GROUPS else ""
    return (", ".join(shown[:_LARGEST_GROUPS]) or "nothing") + more


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
        PYTHON_CONFIG: python_config(config, report).encode(),
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
            written = load_run(directory, say=lambda _: None)
            if not weights_module.are_equal(weights_module.read(written.model), weights_module.read(model)):
                raise UserError(f"what was written to {output_dir} is not what was read: nothing was imported")


def python_config(config: ml_collections.FrozenConfigDict, report: dict) -> str:
    """Returns the text of a config file that makes the model and starts from the checkpoint beside it."""
    default, flat = flatten(default_config()), flatten(config)
    sections = ("data.max_seq_length", "data.mask_prob", "model.", "objective.", "optimizer.", "train.")
    changed = {
        key: value
        for key, value in flat.items()
        if key.startswith(sections) and key in default and value != default[key]
    }
    lines = [
        f'"""Imported by electra-import --format={report["format"]}.',
        "",
        "    electra-pretrain --config=THIS_FILE --config.data.dir=DATA --workdir=RUN",
        "",
        "Sizes are those of the imported model; it starts from the checkpoint beside this file. Batch, steps and",
        "learning rate are yours to choose.",
        '"""',
        "",
        "import pathlib",
        "",
        "import ml_collections",
        "",
        "from electra_cli.config import default_config",
        "",
        "",
        "def get_config() -> ml_collections.ConfigDict:",
        '    """Returns the default config with the sizes of the imported model."""',
        "    config = default_config()",
        "    config.init.checkpoint = str(pathlib.Path(__file__).resolve().parent)",
        *(f"    config.{key} = {value!r}" for key, value in changed.items()),
        "    return config",
    ]
    return "\n".join(lines) + "\n"


def _tell_next(output_dir: str, tokenizer: TokenizerSettings | None, say: Callable[[str], None]) -> None:
    if tokenizer is None:
        say("No vocabulary was found: text must be prepared with that of the model (--vocab_file).")
    say(f"Starting point: {output_dir}")
    name = SENTENCEPIECE_FILE if tokenizer is not None and tokenizer.sentencepiece_file else VOCAB_FILE
    vocab_file = "VOCABULARY" if tokenizer is None else os.path.join(output_dir, name)
    say(f"Next: electra-prepare --input=TEXT --vocab_file={vocab_file} --output_dir=DATA")
    config_file = os.path.join(output_dir, PYTHON_CONFIG)
    say(f"      electra-pretrain --config={config_file} --config.data.dir=DATA --workdir=RUN")
