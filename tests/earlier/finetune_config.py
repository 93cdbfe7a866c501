"""A config of a fine-tuning, as it was written before the room `config`."""

from electra_cli.finetuning.config_defaults import default_config


def get_config():
    """Tells classes of animals."""
    config = default_config()
    config.data.train = "texts/classification-train.tsv"
    return config
