"""The baseline of `small`: BERT's masked language modeling with the discriminator's network, data and schedule.

    electra-pretrain --config=small_mlm --config.data.dir=DATA --workdir=RUN

Masked tokens are shown as BERT shows them (arXiv 1810.04805, section 3.1): 80 % as [MASK], 10 % as a random token.
"""

import ml_collections

from electra_cli.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    config = default_config()
    config.objective.name = "mlm"
    config.data.mask_token_prob = 0.8
    config.data.random_token_prob = 0.1
    return config
