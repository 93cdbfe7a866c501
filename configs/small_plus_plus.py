"""ELECTRA-Small++, the small model that the authors released: its generator is as wide as its discriminator.

    electra-pretrain --config=small_plus_plus --config.data.dir=DATA --workdir=RUN

Differs from `small` by its generator (google-research/electra, issue 39), by examples of 512 tokens, and by 4 million
steps on more text. Figure 3 of the paper finds a quarter of the width better: take `small` unless you need this one.
"""

import ml_collections

from electra_cli.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    config = default_config()
    config.data.max_seq_length = 512
    config.model.generator_size = 1.0
    config.train.num_steps = 4_000_000
    return config
