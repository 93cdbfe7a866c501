"""Every key of a run once: defaults, checks, presets and phases. No TensorFlow here."""

from electra_cli.config.defaults import default_config as default_config
