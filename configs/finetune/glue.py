"""A task of GLUE, from the folder of its download.

    electra-finetune --config=glue --config.task=rte --config.data.dir=GLUE --init=RUN --workdir=DIR

The task decides about files, columns, scores and epochs (Clark et al., ICLR 2020, Table 7: 10 of rte and stsb, else 3).
"""

import ml_collections

from electra_cli.finetuning.config_defaults import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    config = default_config()
    config.task = ""  # required
    return config
