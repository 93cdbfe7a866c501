"""What the readers of foreign formats return: networks, settings and vocabulary of someone else's model."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from electra_cli import files
from electra_cli.errors import UserError
from electra_cli.objectives.weights import Network, expected_shapes, split

_SCOPES = ("electra/", "generator/", "discriminator_predictions/", "generator_predictions/")


@dataclasses.dataclass
class Foreign:
    """A foreign model.

    Attributes:
      source: where it was read.
      discriminator: the discriminator, with or without its head; None when there is none.
      generator: the generator with its head; None when there is none.
      is_tied: whether one network is both.
      settings: config keys of ours that its own config decides, with their values.
      unexpected: what it holds beyond the two networks.
      notices: what the user should know of it, a line each.
      vocab_file: its vocabulary; None when it has none.
      tokens: the vocabulary, where it does not stand in such a file.
      lower_case: whether its tokenizer lower-cases; None when it does not say.
    """

    source: str
    discriminator: Network | None
    generator: Network | None
    is_tied: bool = False
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    notices: list[str] = dataclasses.field(default_factory=list)
    vocab_file: str | None = None
    tokens: tuple[str, ...] | None = None
    lower_case: bool | None = None

    @classmethod
    def from_weights(
        cls, weights: Mapping[str, np.ndarray], source: str, heads: int, generator_heads: int
    ) -> "Foreign":
        """Takes apart what stands under the names of `objectives/weights.py`.

        Args:
          weights: the weights.
          source: where they were read.
          heads: attention heads of the discriminator.
          generator_heads: and of the generator.

        Raises:
          UserError: shapes contradict each other.
        """
        discriminator, generator = split(weights, "discriminator", heads), split(weights, "generator", generator_heads)
        is_tied = generator is not None and not any(name.startswith("generator/encoder/") for name in weights)
        if is_tied and discriminator is not None and not discriminator.has_head:
            discriminator = None  # of masked language modeling alone
        unexpected = {name for name in weights if not name.startswith(_SCOPES)}
        for network, scope in ((discriminator, "electra"), (generator, "electra" if is_tied else "generator")):
            if network is not None:
                unexpected |= {f"{scope}/{name}" for name in drop_unknown(network)}
        return cls(
            source=source,
            discriminator=discriminator,
            generator=generator,
            is_tied=is_tied and discriminator is not None,
            unexpected=sorted(unexpected),
        )


def drop_unknown(network: Network) -> list[str]:
    """Removes the weights that a network of its sizes does not have, and returns their names.

    Raises:
      UserError: shapes contradict each other.
    """
    unknown = sorted(network.weights.keys() - expected_shapes(network.role, network.sizes).keys())
    for name in unknown:
        del network.weights[name]
    return unknown


def read_json(file: str) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      UserError: it cannot be read, or is none.
    """
    try:
        record = json.loads(files.read_bytes(file))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{file} is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{file} holds no JSON object")
    return record
