"""ELECTRA-Small (Clark et al., ICLR 2020, Table 6): 14 million parameters, 1 million steps.

    electra-pretrain --config=small --config.data.dir=DATA --workdir=RUN

The paper trained it for 4 days on one V100. It is what all defaults of electra_cli/config/resolution.py are.
"""

import ml_collections

from electra_cli.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    return default_config()
