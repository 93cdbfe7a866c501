"""Every setting of a fine-tuning with its default, declared once, section by section. No TensorFlow here.

Where the paper is named it is Table 7 (Clark et al., ICLR 2020).
"""

import ml_collections
from ml_collections import config_dict

from electra_cli.finetuning.data_defaults import answers_section, data_section


def default_config() -> ml_collections.ConfigDict:
    """Returns all keys with their defaults: the paper's."""
    return ml_collections.ConfigDict(
        {
            # What is learned: classification, regression, tagging or question_answering; or a GLUE task by its name:
            # cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb, wnli.
            "task": "classification",
            # Score that decides which model is best. Classification: accuracy, f1 or mcc; regression: spearman or
            # pearson; tagging: f1, precision, recall or accuracy; question answering: f1 or exact_match. Empty: the
            # first (for tags that mark no entities: accuracy), or GLUE's.
            "primary_score": "",
            "data": data_section(),
            "answers": answers_section(),
            "model": _model_section(),
            "optimizer": _optimizer_section(),
            "train": _train_section(),
            "runtime": _runtime_section(),
        }
    )


def _model_section() -> ml_collections.ConfigDict:
    model = ml_collections.ConfigDict()
    # Network that is fine-tuned: discriminator, or generator; a masked language model has only one.
    model.network = "discriminator"
    # Dropout rate of embeddings, attention output and feed-forward output (fraction).
    model.hidden_dropout = 0.1
    # Dropout rate of attention probabilities (fraction).
    model.attention_dropout = 0.1
    # Dropout rate of the head (fraction).
    model.head_dropout = 0.1
    return model


def _optimizer_section() -> ml_collections.ConfigDict:
    optimizer = ml_collections.ConfigDict()
    # Learning rate of the head before decay; unset: the paper's by the encoder's width, 3e-4 below 768, 1e-4 below
    # 1024, otherwise 5e-5.
    optimizer.learning_rate = config_dict.placeholder(float)
    # Factor of the learning rate from one layer to the one below; unset: the paper's by the encoder's width, 0.8 below
    # 1024, otherwise 0.9.
    optimizer.layerwise_lr_decay = config_dict.placeholder(float)
    # linear (the original's product of warm-up and decay), or cosine.
    optimizer.schedule = "linear"
    # Fraction of the run over which the learning rate rises.
    optimizer.warmup_fraction = 0.1
    # Decoupled weight decay of all weights except biases and LayerNorm.
    optimizer.weight_decay_rate = 0.0
    # Decay of Adam's moments, and epsilon. The original's Adam has no bias correction.
    optimizer.beta_1 = 0.9
    optimizer.beta_2 = 0.999
    optimizer.epsilon = 1e-6
    # Global norm that gradients are clipped to.
    optimizer.clip_norm = 1.0
    return optimizer


def _train_section() -> ml_collections.ConfigDict:
    train = ml_collections.ConfigDict()
    # Passes over the training examples; unset: the paper's, 3, 10 for rte and stsb, 2 for question answering.
    train.num_epochs = config_dict.placeholder(int)
    # Examples (for question answering: windows) of one step over all replicas.
    train.global_batch_size = 32
    # One fine-tuning per seed, each with a different order of examples, dropout and head:
    # --config.train.seeds='(0,1,2,3,4)'
    train.seeds = (0,)
    return train


def _runtime_section() -> ml_collections.ConfigDict:
    runtime = ml_collections.ConfigDict()
    # auto (a TPU if there is one; all local GPUs; or the CPU), one_device, mirrored (all local GPUs or logical CPUs) or
    # tpu. Single process.
    runtime.strategy = "auto"
    # The TPU's name or address; '': the one that TPU_NAME names, or the one attached to this machine.
    runtime.tpu = ""
    # float32, mixed_bfloat16, or mixed_float16 (with dynamic loss scaling): the precision of matrix products.
    runtime.precision = "float32"
    # Compile steps with XLA: auto (GPU: true; CPU: only the operations between matrix products), true or false.
    runtime.jit_compile = "auto"
    # Split the CPU into this many devices, to try data parallelism without GPUs; 0: do not split.
    runtime.logical_cpus = 0
    return runtime
