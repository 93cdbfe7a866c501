"""ELECTRA with the sizes and the embeddings of DeBERTaV3-xsmall (arXiv 2111.09543): 12 layers of 384.

    electra-pretrain --config=xsmall --config.data.dir=DATA --workdir=RUN --config.runtime.precision=mixed_bfloat16

By electra-plan 3.9e18 FLOPs (ELECTRA-Small: 1.3e18), 15 hours on one A100.

Of that model are the sizes, a generator as wide and half as deep, and gradient-disentangled embeddings (section 3.3):
the discriminator's loss does not change those of the generator. Attention is BERT's, and the vocabulary that of the
data instead of 128,000 SentencePiece tokens. Batch, steps and schedule are those of `small`. This project has not
trained it to the end.
"""

import ml_collections

from electra_cli.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config with this preset's values."""
    config = default_config()
    config.model.embedding_size = 384
    config.model.hidden_size = 384
    config.model.num_attention_heads = 6
    config.model.intermediate_size = 1536
    config.model.generator_size = 1.0
    config.model.generator_num_layers = 6
    config.model.embedding_sharing = "gradient_disentangled"
    return config
