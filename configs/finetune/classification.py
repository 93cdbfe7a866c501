"""Classes of sentences or of pairs of sentences.

    electra-finetune --config=classification --config.data.train=train.tsv --config.data.validation=dev.tsv \\
        --init=RUN --workdir=DIR

Columns are found by their usual names, or given: --config.data.text=review --config.data.label=stars. Without a
validation file a tenth of the training file is held out. Hyperparameters: Clark et al. (ICLR 2020), Table 7.
"""

import ml_collections

from electra_cli.finetuning.config_defaults import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    config = default_config()
    config.task = "classification"
    return config
