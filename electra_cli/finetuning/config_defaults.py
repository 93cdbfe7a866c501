"""Where config files written before the room `config` existed import their defaults from."""

from electra_cli.config.finetuning import default_config as default_config
