"""An encoder to start from, and trainers that tests of one process share: tracing takes most of a small fine-tuning."""

import pytest

from electra_cli.finetuning import finetune as finetune_module
from electra_cli.finetuning.trainer import Trainer
from tests.finetuning import synthetic


@pytest.fixture(scope="session")
def encoder(made_once):
    return str(made_once("encoder", lambda directory: synthetic.make_encoder(directory / "run")) / "run")


@pytest.fixture(scope="session")
def trainers():
    return {}


@pytest.fixture(scope="module")
def shared_trainer(trainers):
    """Makes fine-tunings of equal settings use one `Trainer`, in whatever state the one before left it."""

    def find(config, kind, num_outputs, start, train, runtime):
        arrays = [train.targets.tobytes(), *(array.tobytes() for array in train.features.values())]
        weights = [array.tobytes() for array in start.network.weights.values()]
        settings = config.to_dict()
        del settings["data"], settings["train"]["seeds"]
        key = (str(settings), kind, num_outputs, start.is_random, hash((*arrays, *weights)))
        if key not in trainers:
            trainers[key] = Trainer(config, kind, num_outputs, start, train, runtime)
        return trainers[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_module, "Trainer", find)
        # Weights are drawn from Keras' seed; setting TensorFlow's drops all kernels, and a graph's take a second.
        patch.setattr("tensorflow.compat.v2.random.set_seed", lambda _: None)
        yield
