"""Every setting of a pre-training run with its default, declared once, section by section. No TensorFlow here."""

import ml_collections
from ml_collections import config_dict


def default_config() -> ml_collections.ConfigDict:
    """Returns all keys with their defaults: ELECTRA-Small of the paper (Clark et al., ICLR 2020, Table 6)."""
    return ml_collections.ConfigDict(
        {
            "data": _data_section(),
            "model": _model_section(),
            "objective": _objective_section(),
            "init": _init_section(),
            "optimizer": _optimizer_section(),
            "train": _train_section(),
            "phases": _phases_section(),
            "watch": _watch_section(),
            "eval": _eval_section(),
            "runtime": _runtime_section(),
        }
    )


def _data_section() -> ml_collections.ConfigDict:
    data = ml_collections.ConfigDict()
    # Directory written by electra-prepare, or one of TFRecords from google-research/electra or tf-models-official.
    data.dir = ""
    # Tokens of one example, padding included; must equal that of the data.
    data.max_seq_length = 128
    # Fraction of an example's real tokens that is masked.
    data.mask_prob = 0.15
    # Fraction of the masked slots that shows [MASK] (the original's 0.85; BERT's 0.8).
    data.mask_token_prob = 0.85
    # Fraction of the masked slots that shows a random token (BERT's 0.1); the remaining slots keep their token.
    data.random_token_prob = 0.0
    # What is masked as a unit: token, or word (found by WordPiece's "##", or by the segmentation that the data was
    # prepared with).
    data.mask_unit = "token"
    # Longest span, in units, that is masked together; a length n is drawn in proportion to 1/n (ALBERT, section 4.1).
    data.max_ngram = 1
    return data


def _model_section() -> ml_collections.ConfigDict:
    model = ml_collections.ConfigDict()
    # Entries of the vocabulary; unset: the data's. If set, it must equal the data's.
    model.vocab_size = config_dict.placeholder(int)
    # Width of the word, position and type embeddings.
    model.embedding_size = 128
    # What the networks share: all (word, position and type embeddings and their LayerNorm, as in the original), word
    # (the word embeddings), none, or gradient_disentangled (the discriminator adds its own to the generator's, which
    # its gradient does not change: DeBERTaV3, section 3.3).
    model.embedding_sharing = "all"
    # Layers of the discriminator.
    model.num_layers = 12
    # Width of the discriminator.
    model.hidden_size = 256
    # Attention heads of the discriminator.
    model.num_attention_heads = 4
    # Width of the discriminator's feed-forward layers.
    model.intermediate_size = 1024
    # Generator: its width as a fraction of the discriminator's; with attention heads of width 64 and a feed-forward
    # width of 4 times its own.
    model.generator_size = 0.25
    # Generator: its number of layers as a fraction of the discriminator's.
    model.generator_layers = 1.0
    # Generator by numbers, each overriding the size that the two fractions give; unset: the fractions decide.
    model.generator_num_layers = config_dict.placeholder(int)
    model.generator_hidden_size = config_dict.placeholder(int)
    model.generator_num_attention_heads = config_dict.placeholder(int)
    model.generator_intermediate_size = config_dict.placeholder(int)
    # Longest sequence, in tokens, that the position table covers.
    model.max_position_embeddings = 512
    # Number of segment types in the type table.
    model.type_vocab_size = 2
    # Dropout rate of embeddings, attention output and feed-forward output (fraction).
    model.hidden_dropout = 0.1
    # Dropout rate of attention probabilities (fraction).
    model.attention_dropout = 0.1
    # Standard deviation of the truncated normal distribution that weights start from.
    model.initializer_range = 0.02
    # Recompute the larger and cheaper part of each Transformer block (query, key, value, attention probabilities, GELU)
    # for its gradients instead of keeping it: less memory for some 20 % more time, and the same numbers.
    model.remat = False
    return model


def _objective_section() -> ml_collections.ConfigDict:
    objective = ml_collections.ConfigDict()
    # electra, or mlm: masked language modeling alone (BERT without next-sentence prediction), which trains one network
    # of the discriminator's size and reads no other key of this section.
    objective.name = "electra"
    # Weights of the two losses: total loss = generator_loss_weight x masked LM + discriminator_loss_weight x RTD
    # (paper, section 2).
    objective.generator_loss_weight = 1.0
    objective.discriminator_loss_weight = 50.0
    # Temperature of the softmax that replacements are sampled from (the original's `temperature`).
    objective.sampling_temperature = 1.0
    # Never sample the original token (the original's `disallow_correct`).
    objective.disallow_correct = False
    # Draw replacements uniformly from the vocabulary, without a generator (the original's `uniform_generator`).
    objective.uniform_generator = False
    # One network for both, of the discriminator's size, with two heads (paper, section 3.2: tying all weights).
    objective.tied_generator = False
    return objective


def _init_section() -> ml_collections.ConfigDict:
    init = ml_collections.ConfigDict()
    # Checkpoint whose weights a new run starts from, at step 0: its path, or a directory (a workdir, or the output of
    # electra-import) whose newest checkpoint is used. --checkpoint overrides it. Empty: random weights.
    init.checkpoint = ""
    # fresh, or restored: take over the optimizer's moments too. The schedule starts at step 0 in either case.
    init.optimizer = "fresh"
    # Vocabulary of that checkpoint, which the data's may extend: each token after its last starts as the mean of its
    # pieces. Empty: the one in the checkpoint's workdir, or in the data of the run there.
    init.vocab_file = ""
    # If model.max_position_embeddings differs: copy the rows of the position table, starting over from the first where
    # they run out, or interpolate between them.
    init.positions = "copy"
    return init


def _optimizer_section() -> ml_collections.ConfigDict:
    optimizer = ml_collections.ConfigDict()
    # adam_weight_decay (the original's: no bias correction), adamw (with bias correction), or lamb.
    optimizer.name = "adam_weight_decay"
    # Learning rate at the end of warm-up, before decay.
    optimizer.learning_rate = 5e-4
    # linear (the original's product of warm-up and decay), cosine, or warmup_stable_decay.
    optimizer.schedule = "linear"
    # Steps of linear warm-up.
    optimizer.warmup_steps = 10_000
    # For warmup_stable_decay: fraction of the run, at its end, over which the rate falls to 0.
    optimizer.decay_fraction = 0.1
    # Decoupled weight decay of all weights except biases and LayerNorm.
    optimizer.weight_decay_rate = 0.01
    # Decay of Adam's first moment, the mean of gradients.
    optimizer.beta_1 = 0.9
    # Decay of Adam's second moment, the mean of squared gradients.
    optimizer.beta_2 = 0.999
    # Constant added to the square root of Adam's second moment.
    optimizer.epsilon = 1e-6
    # Global norm that gradients are clipped to.
    optimizer.clip_norm = 1.0
    # Decay of the exponential moving average of the weights, which evaluation uses; 0: no average is kept.
    optimizer.ema_decay = 0.0
    return optimizer


def _train_section() -> ml_collections.ConfigDict:
    train = ml_collections.ConfigDict()
    # Optimizer updates in the whole run; the learning rate reaches 0 there.
    train.num_steps = 1_000_000
    # Examples of one step over all replicas.
    train.global_batch_size = 128
    # Number of parts in which a replica processes its share of a step's examples, one after the other, to save memory.
    train.gradient_accumulation_steps = 1
    # Everything random follows from this number and the step.
    train.seed = 0
    # Steps per host call; must divide every *_interval.
    train.steps_per_loop = 20
    # Steps between two lines of metrics.
    train.log_interval = 100
    # Steps between two checkpoints; one more is written at the end.
    train.checkpoint_interval = 2000
    # Number of newest checkpoints that are kept, of those at every checkpoint_interval; one that a stop or the end
    # wrote in between is kept until the next.
    train.keep_checkpoints = 3
    # Steps between two checkpoints that are never deleted, in addition to the newest; 0: none.
    train.keep_every_steps = 0
    # Held-out metric by which the best checkpoint is kept, in addition to the others: the lowest for a loss, the
    # highest for any other; empty: none.
    train.best_metric = ""
    # Write checkpoints in the background while training continues; takes memory for a copy of what is written.
    train.async_checkpoints = False
    # Write histograms of all weights for TensorBoard every checkpoint_interval steps.
    train.histograms = False
    return train


def _phases_section() -> ml_collections.ConfigDict:
    phases = ml_collections.ConfigDict()
    # Phases of the run, one after the other: the number of steps of each, which add up to config.train.num_steps.
    # Empty: one phase.
    phases.num_steps = ()
    # One value per phase, in place of config.data.dir, config.data.max_seq_length, config.train.global_batch_size,
    # config.train.gradient_accumulation_steps and config.optimizer.learning_rate. Empty: that key's value in all
    # phases. There is one schedule over the whole run; a phase's learning rate is the peak that it scales.
    phases.data_dir = ()
    phases.max_seq_length = ()
    phases.global_batch_size = ()
    phases.gradient_accumulation_steps = ()
    phases.learning_rate = ()
    return phases


def _watch_section() -> ml_collections.ConfigDict:
    watch = ml_collections.ConfigDict()
    # Number of steps in the run whose loss or gradients may be infinite or NaN: their update is skipped. One more stops
    # the run. Steps that dynamic loss scaling causes (mixed_float16) are not counted.
    watch.max_nonfinite_steps = 0
    # A mean loss between two lines of metrics, after warm-up, that is this many times the median of the last ten rolls
    # the run back to the previous checkpoint, from where it continues with other examples; 0: never.
    watch.spike_factor = 0.0
    # Number of times that a run may be rolled back; one more spike stops it.
    watch.max_rollbacks = 3
    return watch


def _eval_section() -> ml_collections.ConfigDict:
    evaluation = ml_collections.ConfigDict()
    # Steps between two evaluations; 0: only at the end.
    evaluation.interval = 10_000
    # Held-out examples per evaluation, always the same ones with the same masks; 0: all.
    evaluation.num_examples = 10_000
    # How many of these each evaluation shows in TensorBoard as text, corrupted and judged, from the first on; 0: none.
    evaluation.num_samples = 3
    # Labelled files on which a linear model of the frozen encoder is scored, beside the same with random weights:
    # tables with the usual column names, or FILE:text=COLUMN,label=COLUMN. Empty: none.
    evaluation.probes = ()
    # Steps between two probes; 0: with every evaluation.
    evaluation.probe_interval = 0
    # Examples per file that are probed, chosen at random once; all of a smaller file.
    evaluation.probe_examples = 2000
    return evaluation


def _runtime_section() -> ml_collections.ConfigDict:
    runtime = ml_collections.ConfigDict()
    # auto (TPUs if there are any; several workers where TF_CONFIG, Slurm or runtime.worker_addresses name them; all
    # local GPUs; or the CPU), one_device, mirrored (all local GPUs or logical CPUs), multi_worker_mirrored, or tpu.
    runtime.strategy = "auto"
    # For several workers (processes, each with all GPUs of its machine): host:port of each, comma-separated, the same
    # everywhere. Not needed under Slurm (srun) or with TF_CONFIG.
    runtime.worker_addresses = ""
    # Position of this process in runtime.worker_addresses, from 0; -1: none.
    runtime.worker_index = -1
    # The TPU's name or address; '': the one that TPU_NAME names, or the one attached to this machine.
    runtime.tpu = ""
    # float32, mixed_bfloat16, or mixed_float16 (with dynamic loss scaling): the precision of matrix products. Weights,
    # softmax, sampling, LayerNorm and losses are float32 in all of them.
    runtime.precision = "float32"
    # Compile steps with XLA: auto (GPU: true; CPU: only the operations between matrix products), true or false.
    runtime.jit_compile = "auto"
    # Split the CPU into this many devices, to try data parallelism without GPUs; 0: do not split.
    runtime.logical_cpus = 0
    return runtime
