"""Imported by electra-import --format=huggingface.

    electra-pretrain --config=THIS_FILE --config.data.dir=DATA --workdir=RUN

Sizes are those of the imported model; it starts from the checkpoint beside this file. Batch, steps and
learning rate are yours to choose.
"""

import pathlib

import ml_collections

from electra_cli.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with the sizes of the imported model."""
    config = default_config()
    config.init.checkpoint = str(pathlib.Path(__file__).resolve().parent)
    config.data.max_seq_length = 32
    config.model.embedding_size = 8
    config.model.hidden_size = 8
    config.model.intermediate_size = 16
    config.model.max_position_embeddings = 32
    config.model.num_attention_heads = 2
    config.model.num_layers = 2
    return config
