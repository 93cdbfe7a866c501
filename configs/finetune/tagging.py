"""A tag for each word, such as names of persons and places.

    electra-finetune --config=tagging --config.data.train=train.conll --config.data.validation=dev.conll \\
        --init=RUN --workdir=DIR

Files of columns (CoNLL), a word a line and a blank line between sentences; or JSON lines with lists of words and tags.
"""

import ml_collections

from electra_cli.finetuning.config_defaults import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    config = default_config()
    config.task = "tagging"
    return config
