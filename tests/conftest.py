"""A small corpus, its prepared data and a small config, which all tests share."""

import fcntl
import os
import pathlib
import random
import shutil
import tempfile
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Before anything imports TensorFlow; see compiled_code.py.
os.environ["TF_XLA_FLAGS"] = (
    f"--tf_xla_persistent_cache_directory={tempfile.gettempdir()}/compiled-"
    f"{os.getppid() if 'PYTEST_XDIST_WORKER' in os.environ else os.getpid()}"
)

import ml_collections
import pytest

from electra_cli.config import default_config
from electra_cli.data.packing import PrepareSettings
from electra_cli.data.prepare import prepare
from electra_cli.data.tfrecords import Manifest
from electra_cli.data.vocabulary_learning import LearningSettings
from electra_cli.training import throughput
from tests import compiled_code, forking

pytest_plugins = ["tests.isolation"]
# A tenth of a short run is the measurement of its devices.
throughput._CPU_WIDTH = 128


def pytest_unconfigure():
    compiled_code.remove()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session):
    if session.config.pluginmanager.hasplugin("dsession"):  # xdist's workers come here, too
        return (yield)
    with forking.server():
        return (yield)


SEQ_LENGTH = 32
VOCAB_SIZE = 160

_NOUNS = "cat dog bird fish horse farmer child teacher river garden window letter song story winter morning".split()
_VERBS = "sees finds follows likes forgets paints carries hears watches remembers".split()
_ADJECTIVES = "small old quiet green happy strange bright heavy early gentle".split()


def make_text(num_documents: int, seed: int = 0) -> str:
    """English-like documents of a few lines, separated by blank lines."""
    rng = random.Random(seed)

    def noun_phrase() -> str:
        return f"the {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}"

    def line() -> str:
        sentences = (f"{noun_phrase()} {rng.choice(_VERBS)} {noun_phrase()}." for _ in range(rng.randint(1, 3)))
        return " ".join(sentences).capitalize()

    return "\n\n".join("\n".join(line() for _ in range(rng.randint(2, 8))) for _ in range(num_documents)) + "\n"


# The small config with the architecture modern, both kinds of its layers and a window within the text.
MODERN = {
    "model.architecture": "modern",
    "model.embedding_size": 16,
    "model.generator_size": 1.0,
    "model.global_attention_every": 2,
    "model.local_attention": 8,
}

MadeOnce = Callable[[str, Callable[[pathlib.Path], object]], pathlib.Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Makes a directory that all processes of a session share, unless one of them has made it before."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name: str, fill: Callable[[pathlib.Path], object]) -> pathlib.Path:
        directory, mark = root / "shared" / name, root / "shared" / f"{name}.made"
        directory.parent.mkdir(exist_ok=True)
        with open(root / "shared" / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not mark.exists():
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir()
                fill(directory)
                mark.touch()
        return directory

    return make


@pytest.fixture(scope="session")
def corpus_file(made_once: MadeOnce) -> pathlib.Path:
    return made_once("corpus", lambda directory: (directory / "text.txt").write_text(make_text(150))) / "text.txt"


@pytest.fixture(scope="session")
def data_dir(corpus_file: pathlib.Path, made_once: MadeOnce) -> pathlib.Path:
    """Prepared data: about 500 training examples of 32 tokens in 3 shards."""
    return made_once("prepared", lambda directory: prepare_small(corpus_file, directory / "data")) / "data"


def prepare_small(corpus_file: pathlib.Path, output: pathlib.Path, **changes) -> tuple[pathlib.Path, Manifest]:
    """Prepares a corpus with small settings, in this process unless `num_workers` says otherwise."""
    num_workers = changes.pop("num_workers", 1)
    vocab_file = changes.pop("vocab_file", None)
    settings = PrepareSettings(**{"max_seq_length": SEQ_LENGTH, "validation_fraction": 0.15, **changes})
    manifest = prepare(
        [str(corpus_file)],
        str(output),
        settings,
        vocab_file=vocab_file and str(vocab_file),
        learning=None if vocab_file else LearningSettings(VOCAB_SIZE, min_frequency=1),
        num_workers=num_workers,
        overwrite=False,
        report=lambda *_: None,
    )
    return output, manifest


@pytest.fixture
def config(data_dir: pathlib.Path) -> ml_collections.ConfigDict:
    """A model of a few thousand weights on the prepared data."""
    return small_config(data_dir)


def small_config(data_dir: pathlib.Path) -> ml_collections.ConfigDict:
    config = default_config()
    config.data.dir = str(data_dir)
    config.data.max_seq_length = SEQ_LENGTH
    config.model.embedding_size = 8
    config.model.num_layers = 2
    config.model.hidden_size = 16
    config.model.num_attention_heads = 2
    config.model.intermediate_size = 32
    config.model.generator_size = 0.5
    config.model.max_position_embeddings = SEQ_LENGTH
    config.optimizer.learning_rate = 5e-3
    config.optimizer.warmup_steps = 4
    config.train.num_steps = 12
    config.train.global_batch_size = 8
    config.train.steps_per_loop = 2
    config.train.log_interval = 2
    config.train.checkpoint_interval = 4
    config.eval.interval = 6
    config.eval.num_examples = 20
    config.eval.num_samples = 0
    return config
