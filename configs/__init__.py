"""The shipped presets; installed as `electra_cli.configs`."""
