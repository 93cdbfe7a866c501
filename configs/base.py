"""ELECTRA-Base (Clark et al., ICLR 2020, Table 6): 110 million parameters, 766 thousand steps.

    electra-pretrain --config=base --config.data.dir=DATA --workdir=RUN --config.runtime.precision=mixed_bfloat16

The paper trained it for 4 days on 16 TPU v3 chips.
"""

import ml_collections

from electra_cli.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    config = default_config()
    config.data.max_seq_length = 512

    config.model.embedding_size = 768
    config.model.hidden_size = 768
    config.model.num_attention_heads = 12
    config.model.intermediate_size = 3072
    config.model.generator_size = 1 / 3

    config.optimizer.learning_rate = 2e-4

    config.train.num_steps = 766_000
    config.train.global_batch_size = 256
    return config
