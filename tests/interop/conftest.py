"""Fine-tuned models to export are those of the tests of fine-tuning."""

from tests.finetuning.conftest import encoder, shared_trainer, trainers  # noqa: F401
