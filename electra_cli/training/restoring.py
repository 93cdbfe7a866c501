"""A checkpoint to the model that its run would evaluate; for all that does not train."""

from collections.abc import Callable

import ml_collections
import tensorflow as tf

from electra_cli.objectives.base import Pretrainer, build_pretrainer
from electra_cli.training.optimization import averaged_weights, build_optimizer
from electra_cli.workdir.checkpoint_files import find_checkpoint, has_optimizer
from electra_cli.workdir.checkpoint_matching import restore


def restore_model(
    config: ml_collections.FrozenConfigDict, path: str, say: Callable[[str], None], *, averaged: bool = True
) -> tuple[Pretrainer, str]:
    """Builds the model of a resolved config with the weights of a checkpoint, in float32.

    Args:
      config: the config that it was trained with.
      path: what `checkpoint_files.find_checkpoint` takes.
      say: prints a line.
      averaged: whether the moving averages are taken for the weights, where the run keeps some.

    Returns:
      The model, and the path of the checkpoint.

    Raises:
      UserError: there is none, it is damaged, or of another model.
    """
    path = find_checkpoint(path, say)
    model = build_pretrainer(config)
    if not (averaged and config.optimizer.ema_decay > 0 and has_optimizer(path)):
        restore(tf.train.Checkpoint(model=model), path, ("model",))
        return model, path
    optimizer = build_optimizer(config)
    optimizer.build(model.trainable_variables)
    restore(tf.train.Checkpoint(model=model, optimizer=optimizer), path, ("model", "optimizer"))
    with averaged_weights(optimizer, model.trainable_variables):
        averages = [variable.numpy() for variable in model.trainable_variables]
    for variable, average in zip(model.trainable_variables, averages, strict=True):
        variable.assign(average)
    return model, path
