"""From a run to a directory in a foreign format, checked before it appears."""

import os
import random
from collections.abc import Callable

from electra_cli.data.vocabulary import SPECIAL_TOKENS, WORD_BEGIN, Vocabulary
from electra_cli.errors import UserError
from electra_cli.interop import google_tf1, huggingface_export, saved_model, tfm
from electra_cli.interop.delivery import new_directory
from electra_cli.interop.runs import Run
from electra_cli.objectives import weights as weights_module

FORMATS = ("huggingface", "saved_model", "tfm", "google_tf1")
NETWORKS = ("discriminator", "generator", "both")
# Largest difference of a hidden state or logit that another library's float32 may make.
TOLERANCE = 1e-4
_SAMPLE_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "In 1863, President Lincoln spoke for two minutes; it wasn't long, but it was enough!",
    "Das Café in São Paulo öffnet um 8:30 Uhr - für 5€.",
    "東京 is a city of [MASK] people, и Москва тоже.",
)


def export(
    run: Run, format_name: str, network: str, output_dir: str, *, overwrite: bool, say: Callable[[str], None] = print
) -> float:
    """Writes networks of a run to a new directory.

    Args:
      run: the run.
      format_name: one of `FORMATS`.
      network: one of `NETWORKS`. Of 'both', huggingface and tfm make a directory each.
      output_dir: the directory to be made; local.
      overwrite: whether one that is there and not empty may be replaced.
      say: prints a line.

    Returns:
      The largest difference of hidden states and logits from the run's own on sample text.

    Raises:
      UserError: the run has no such network, something is not installed, the directory cannot be written, or what was
        written computes something else. Nothing is left then.
    """
    roles = choose_roles(run, network)
    check_installed(format_name)
    texts = sample_texts(run.tokenizer.vocabulary)
    return deliver(
        output_dir, lambda directory: _WRITERS[format_name](run, roles, directory, texts, say), overwrite=overwrite
    )


def deliver(output_dir: str, write: Callable[[str], float], *, overwrite: bool) -> float:
    """Makes a directory of what `write` puts there, if that computes the same.

    Args:
      output_dir: the directory to be made; local.
      write: writes to the directory that it is called with, reads that, and returns the largest difference from the
        checkpoint's figures.
      overwrite: whether one that is there and not empty may be replaced.

    Returns:
      The difference.

    Raises:
      UserError: it is too large, or the directory cannot be written. Nothing is left then.
    """
    with new_directory(output_dir, overwrite=overwrite) as directory:
        difference = write(directory)
        if not difference <= TOLERANCE:
            raise UserError(
                f"what was written differs from the checkpoint by {difference:.1e}, more than {TOLERANCE:.0e}: nothing "
                f"was exported"
            )
    return difference


def check_installed(format_name: str) -> None:
    """Raises a `UserError` when what a format needs is not installed."""
    if format_name == "huggingface":
        huggingface_export.check_installed()


def choose_roles(run: Run, network: str) -> list[str]:
    """Returns which networks are meant.

    Raises:
      UserError: the run does not have them.
    """
    roles = ["discriminator", "generator"] if network == "both" else [network]
    for role in roles:
        if role not in run.roles:
            raise UserError(f"--network={network}: the run {run.workdir} has no {role}; give --network={run.roles[0]}")
    return roles


def sample_texts(vocabulary: Vocabulary) -> list[str]:
    """Returns texts to compare on: four sentences, and words of the vocabulary in a fixed random order."""
    words = [
        token.removeprefix("##").replace(WORD_BEGIN, "") for token in vocabulary.tokens if token not in SPECIAL_TOKENS
    ]
    rng = random.Random(0)
    return [*_SAMPLE_TEXTS, *(" ".join(rng.choices(words, k=length)) for length in (5, 20, 80))]


def _directory_of(role: str, roles: list[str], directory: str) -> str:
    if len(roles) == 1:
        return directory
    below = os.path.join(directory, role)
    os.makedirs(below)
    return below


def _write_huggingface(run: Run, roles: list[str], directory: str, texts: list[str], _: object) -> float:
    differences = []
    for role in roles:
        below = _directory_of(role, roles, directory)
        huggingface_export.write(run, role, below)
        differences.append(huggingface_export.deviation(run, role, below, texts))
    return max(differences)


def _write_tfm(run: Run, roles: list[str], directory: str, texts: list[str], say: Callable[[str], None]) -> float:
    differences = []
    for role in roles:
        below = _directory_of(role, roles, directory)
        tfm.write(run, role, below)
        differences.append(tfm.deviation(run, role, below, texts))
        tanh = tfm.deviation(run, role, below, texts, exact=False)
        say(
            f"tf-models-official computes GELU in its tanh form: before fine-tuning, the {role}'s outputs there differ "
            f"by up to {tanh:.1e}."
        )
    return max(differences)


def _write_saved_model(run: Run, roles: list[str], directory: str, texts: list[str], _: object) -> float:
    saved_model.write(run, roles, directory)
    return saved_model.deviation(run, roles, directory, texts)


def _write_google_tf1(run: Run, roles: list[str], directory: str, _: object, __: object) -> float:
    weights = weights_module.read(run.model)
    if roles == ["discriminator"]:
        keep = ("electra/", "discriminator_predictions/")
        weights = {name: value for name, value in weights.items() if name.startswith(keep)}
    elif roles == ["generator"]:
        is_own = any(name.startswith("generator/encoder/") for name in weights)
        drop = ("discriminator_predictions/", *(("electra/encoder/", "electra/embeddings_project/") if is_own else ()))
        weights = {name: value for name, value in weights.items() if not name.startswith(drop)}
    prefix = os.path.join(directory, f"model.ckpt-{run.step}")
    google_tf1.write(weights, run.step, prefix)
    google_tf1.write_hparams(run.config, os.path.join(directory, "config.json"))
    run.tokenizer.save(directory)
    written = google_tf1.read_weights(prefix)
    return 0.0 if weights_module.are_equal(weights, written) else float("inf")


_WRITERS: dict[str, Callable[..., float]] = {
    "huggingface": _write_huggingface,
    "saved_model": _write_saved_model,
    "tfm": _write_tfm,
    "google_tf1": _write_google_tf1,
}
