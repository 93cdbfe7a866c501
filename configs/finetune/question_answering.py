"""Answers that stand in a text: files as SQuAD's, version 1.1 or 2.0 (where some questions have none).

    electra-finetune --config=question_answering --config.data.train=train-v2.0.json \\
        --config.data.validation=dev-v2.0.json --init=RUN --workdir=DIR

Sequences of 512 tokens and 2 epochs are the paper's (Clark et al., ICLR 2020, appendix B).
"""

import ml_collections

from electra_cli.finetuning.config_defaults import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    config = default_config()
    config.task = "question_answering"
    config.data.max_seq_length = 512
    return config
