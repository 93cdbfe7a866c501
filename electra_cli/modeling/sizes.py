"""The sizes of a network, as files beside it record them. TensorFlow is not imported here."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class EncoderSizes:
    """The sizes of a network."""

    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
