"""ELECTRA on ModernBERT's network (arXiv 2412.13663), small: 17 million parameters.

    electra-pretrain --config=modern_small --config.data.dir=DATA --workdir=RUN

By electra-plan 8.4e18 FLOPs (the paper's ELECTRA-Small: 1.4e18), 2.5 days on one A100 in float32, 1.4 in bfloat16.
Layers, width, batch and learning rate are those of `small_plus_plus`, for a quarter of its steps; the feed-forward
layers are narrower, having two halves. The generator shares the embeddings, and so is as wide, with a third of the
layers. This project has not trained it to the end.
"""

import ml_collections

from electra_cli.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    config = default_config()
    config.data.max_seq_length = 512
    config.model.architecture = "modern"
    config.model.embedding_size = 256
    config.model.intermediate_size = 640
    config.model.generator_size = 1.0
    config.model.generator_num_layers = 4
    config.model.generator_intermediate_size = 640
    config.model.hidden_dropout = 0.0  # as transformers' ModernBertConfig
    config.model.attention_dropout = 0.0
    return config
