"""ELECTRA-Large (Clark et al., ICLR 2020, Table 6), trained as ELECTRA-400K: 335 million parameters.

    electra-pretrain --config=large --config.data.dir=DATA --workdir=RUN --config.runtime.precision=mixed_bfloat16

ELECTRA-1.75M is the same with --config.train.num_steps=1750000.
"""

import ml_collections

from electra_cli.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    config = default_config()
    config.data.max_seq_length = 512
    config.data.mask_prob = 0.25

    config.model.embedding_size = 1024
    config.model.num_layers = 24
    config.model.hidden_size = 1024
    config.model.num_attention_heads = 16
    config.model.intermediate_size = 4096
    config.model.generator_size = 0.25

    config.optimizer.learning_rate = 2e-4

    config.train.num_steps = 400_000
    config.train.global_batch_size = 2048
    return config
