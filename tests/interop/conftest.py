"""An encoder of one layer, that models to export are fine-tuned from."""

import pytest

from tests.finetuning import synthetic


@pytest.fixture(scope="session")
def encoder(made_once):
    def make(directory):
        synthetic.make_encoder(directory / "run", **{"model.num_layers": 1})

    return str(made_once("encoder-of-one-layer", make) / "run")
