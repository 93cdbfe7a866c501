"""The shipped presets of electra-finetune; installed as `electra_cli.configs.finetune`."""
