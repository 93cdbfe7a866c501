"""Every key of a run once: defaults, checks, presets and phases. No TensorFlow here."""

from electra_cli.config.pretraining import default_config as default_config
