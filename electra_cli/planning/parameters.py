"""How many numbers a config trains, by part of the model. Pure arithmetic; TensorFlow is not imported here."""

import dataclasses
from typing import Any

from electra_cli.objectives import flops


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Parameters of a resolved config.

    Attributes:
      groups: those that training builds, by part; each is counted in one part only. `shared_embeddings` are what
        generator and discriminator both look up.
      generator: the generator network without its head, embeddings included; 0 when there is none.
      discriminator: the same of the discriminator, the network that is kept; of the objective mlm, its one network.
    """

    groups: dict[str, int]
    generator: int
    discriminator: int

    @property
    def trained(self) -> int:
        """All that training builds, heads included, what is shared once."""
        return sum(self.groups.values())

    @property
    def networks(self) -> int:
        """Both networks without heads, what is shared once."""
        return sum(number for name, number in self.groups.items() if not name.endswith("_head"))


def count_parameters(config: Any) -> Parameters:
    """Counts the parameters of a resolved config."""
    generator, discriminator = flops.network_sizes(config)
    embeddings = _embeddings(config)
    large = _encoder(discriminator)
    kept = sum(embeddings.values()) + large
    rtd_head = {"rtd_head": discriminator.hidden_size * (discriminator.hidden_size + 2) + 1}
    if config.objective.name == "mlm":
        own = {"discriminator_embeddings": sum(embeddings.values()), "discriminator_encoder": large}
        return Parameters({**own, "masked_lm_head": _masked_lm_head(discriminator)}, 0, kept)
    if generator is None:
        own = {"discriminator_embeddings": sum(embeddings.values()), "discriminator_encoder": large}
        return Parameters({**own, **rtd_head}, 0, kept)
    heads = {"masked_lm_head": _masked_lm_head(generator), **rtd_head}
    if config.objective.tied_generator:
        return Parameters({"shared_embeddings": sum(embeddings.values()), "shared_encoder": large, **heads}, kept, kept)
    small = _encoder(generator)
    groups = {
        **_divide_embeddings(embeddings, config.model.embedding_sharing),
        "generator_encoder": small,
        "discriminator_encoder": large,
        **heads,
    }
    return Parameters(groups, sum(embeddings.values()) + small, kept)


def _embeddings(config: Any) -> dict[str, int]:
    width = config.model.embedding_size
    return {
        "word": config.derived.vocab_size * width,
        "position": config.model.max_position_embeddings * width,
        "type": config.model.type_vocab_size * width,
        "layer_norm": 2 * width,
    }


def _divide_embeddings(embeddings: dict[str, int], sharing: str) -> dict[str, int]:
    """Returns what both networks look up, and what one alone does."""
    total, word = sum(embeddings.values()), embeddings["word"]
    if sharing == "all":
        return {"shared_embeddings": total}
    if sharing == "word":
        own = total - word
        return {"shared_embeddings": word, "generator_embeddings": own, "discriminator_embeddings": own}
    if sharing == "gradient_disentangled":
        # The discriminator adds tables of its own to the generator's; LayerNorm is each one's.
        norm = embeddings["layer_norm"]
        return {"shared_embeddings": total - norm, "generator_embeddings": norm, "discriminator_embeddings": total}
    return {"generator_embeddings": total, "discriminator_embeddings": total}


def _encoder(size: flops.NetworkSize) -> int:
    h, i, e = size.hidden_size, size.intermediate_size, size.embedding_size
    attention = 3 * h * (h + 1) + h * (h + 1)
    feed_forward = i * (h + 1) + h * (i + 1)
    layer_norms = 2 * 2 * h
    projection = h * (e + 1) if e != h else 0
    return size.num_layers * (attention + feed_forward + layer_norms) + projection


def _masked_lm_head(size: flops.NetworkSize) -> int:
    """Dense layer to the embeddings' width, LayerNorm, and a bias an entry; the table is the embeddings'."""
    e = size.embedding_size
    return e * (size.hidden_size + 1) + 2 * e + size.vocab_size
