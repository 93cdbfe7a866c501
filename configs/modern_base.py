"""ELECTRA on ModernBERT-base's network (arXiv 2412.13663): 22 layers, up to 8,192 tokens.

    electra-pretrain --config=modern_base --workdir=RUN --config.runtime.precision=mixed_bfloat16 \\
        --config.phases.data_dir=DATA/1024,DATA/8192

By electra-plan 6.2e19 FLOPs (ELECTRA-Base: 6.4e19), 21 hours on eight A100. Give it data of both lengths; with
--config.phases.gradient_accumulation_steps or --config.model.remat=true it fits smaller devices.

Sizes, windows and thetas are those of ModernBERT-base, with 150 million parameters at its vocabulary of 50,368; so are
the stages: most steps at 1,024 tokens, the last ones at 8,192, where the learning rate decays. Tokens a step and
learning rate are those of `base`. The generator shares the embeddings, and so is as wide, with a third of the layers.
This project has not trained it.
"""

import ml_collections

from electra_cli.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    config = default_config()
    config.model.architecture = "modern"
    config.model.embedding_size = 768
    config.model.hidden_size = 768
    config.model.num_layers = 22
    config.model.num_attention_heads = 12
    config.model.intermediate_size = 1152
    config.model.generator_size = 1.0
    config.model.generator_num_layers = 7
    config.model.generator_intermediate_size = 1152
    config.model.hidden_dropout = 0.0  # as transformers' ModernBertConfig
    config.model.attention_dropout = 0.0

    config.optimizer.learning_rate = 2e-4
    config.optimizer.schedule = "warmup_stable_decay"
    config.optimizer.decay_fraction = 0.1

    config.train.num_steps = 500_000
    config.phases.num_steps = (450_000, 50_000)
    config.phases.max_seq_length = (1024, 8192)
    config.phases.global_batch_size = (128, 16)
    return config
