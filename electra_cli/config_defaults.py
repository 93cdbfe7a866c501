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
    # Directory written by electra-prepare, or of TFRecords of google-research/electra or tf-models-official.
    data.dir = ""
    # Tokens of one example, padding included; must be that of the data.
    data.max_seq_length = 128
    # Fraction of an example's real tokens that is masked.
    data.mask_prob = 0.15
    # Fraction of the masked slots that shows [MASK] (the original's 0.85; BERT's 0.8).
    data.mask_token_prob = 0.85
    # Fraction of the masked slots that shows a random token (BERT's 0.1); slots of neither kind keep their token.
    data.random_token_prob = 0.0
    # What is masked as one: token, or word (WordPiece's "##", or the segmentation that the data was prepared with).
    data.mask_unit = "token"
    # Longest span, in units, that is masked as one; a length n is drawn in proportion to 1/n (ALBERT, section 4.1).
    data.max_ngram = 1
    return data


def _model_section() -> ml_collections.ConfigDict:
    model = ml_collections.ConfigDict()
    # Entries of the vocabulary; unset: the data's. When set it must be the data's.
    model.vocab_size = config_dict.placeholder(int)
    # Width of the word, position and type embeddings.
    model.embedding_size = 128
    # What the networks share: all (word, position and type embeddings and their LayerNorm: the original), word (the
    # word embeddings), none, or gradient_disentangled (the discriminator adds its own to the generator's, which it
    # does not change: DeBERTaV3, section 3.3).
    model.embedding_sharing = "all"
    # Layers of the discriminator.
    model.num_layers = 12
    # Width of the discriminator.
    model.hidden_size = 256
    # Attention heads of the discriminator.
    model.num_attention_heads = 4
    # Width of the discriminator's feed-forward layers.
    model.intermediate_size = 1024
    # Generator: its width as a fraction of the discriminator's; heads of 64, feed-forward of 4 times its width.
    model.generator_size = 0.25
    # Generator: its layers as a fraction of the discriminator's.
    model.generator_layers = 1.0
    # Generator by numbers, each in place of what the two fractions give; unset: the fractions decide.
    model.generator_num_layers = config_dict.placeholder(int)
    model.generator_hidden_size = config_dict.placeholder(int)
    model.generator_num_attention_heads = config_dict.placeholder(int)
    model.generator_intermediate_size = config_dict.placeholder(int)
    # Longest sequence, in tokens, that the position table serves.
    model.max_position_embeddings = 512
    # Segment types of the type table.
    model.type_vocab_size = 2
    # Dropout rate of embeddings, attention output and feed-forward output (fraction).
    model.hidden_dropout = 0.1
    # Dropout rate of attention probabilities (fraction).
    model.attention_dropout = 0.1
    # Standard deviation of the truncated normal that weights start from.
    model.initializer_range = 0.02
    # Compute the larger and cheaper part of each Transformer block (query, key, value, attention probabilities, GELU)
    # again for its gradients instead of keeping it: less memory for some 20 % more time, and the same numbers.
    model.remat = False
    return model


def _objective_section() -> ml_collections.ConfigDict:
    objective = ml_collections.ConfigDict()
    # electra, or mlm: masked language modeling alone (BERT without next-sentence prediction), which trains the network
    # of the discriminator's size and reads no other key of this section.
    objective.name = "electra"
    # Weights of the two: total loss = generator_loss_weight x masked LM + discriminator_loss_weight x RTD (paper,
    # section 2).
    objective.generator_loss_weight = 1.0
    objective.discriminator_loss_weight = 50.0
    # Temperature of the softmax that replacements are sampled from (the original's `temperature`).
    objective.sampling_temperature = 1.0
    # Never sample the original token (the original's `disallow_correct`).
    objective.disallow_correct = False
    # Draw replacements uniformly from the vocabulary; there is no generator (the original's `uniform_generator`).
    objective.uniform_generator = False
    # One network for both, of the discriminator's size, with two heads (paper, section 3.2: tying all weights).
    objective.tied_generator = False
    return objective


def _init_section() -> ml_collections.ConfigDict:
    init = ml_collections.ConfigDict()
    # Checkpoint whose weights a new run begins with, at step 0: its path, or a directory (a workdir, or what
    # electra-import wrote) whose newest is taken. --checkpoint takes its place. Empty: random weights.
    init.checkpoint = ""
    # fresh, or restored: take over the optimizer's moments too. The schedule begins at step 0 in either case.
    init.optimizer = "fresh"
    # Vocabulary of that checkpoint, which the data's may go on from: tokens behind its last begin as the mean of their
    # pieces. Empty: the one in the checkpoint's workdir, or in the data of the run there.
    init.vocab_file = ""
    # Where model.max_position_embeddings differs: copy the rows of the position table, from the first again where they
    # end, or interpolate between them.
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
    # warmup_stable_decay: fraction of the run, at its end, in which the rate falls to 0.
    optimizer.decay_fraction = 0.1
    # Decoupled weight decay of all weights but biases and LayerNorm.
    optimizer.weight_decay_rate = 0.01
    # Decay of Adam's first moment, the mean of gradients.
    optimizer.beta_1 = 0.9
    # Decay of Adam's second moment, the mean of their squares.
    optimizer.beta_2 = 0.999
    # What is added to the root of Adam's second moment.
    optimizer.epsilon = 1e-6
    # Global norm that gradients are clipped to.
    optimizer.clip_norm = 1.0
    # Decay of the exponential moving average of the weights that evaluation uses; 0: none is kept.
    optimizer.ema_decay = 0.0
    return optimizer


def _train_section() -> ml_collections.ConfigDict:
    train = ml_collections.ConfigDict()
    # Optimizer updates in the whole run; the learning rate reaches 0 there.
    train.num_steps = 1_000_000
    # Examples of one step over all replicas.
    train.global_batch_size = 128
    # Parts that a replica divides its share of a step's examples into, one after the other, to save memory.
    train.gradient_accumulation_steps = 1
    # Everything random follows from this number and the step.
    train.seed = 0
    # Steps of one host call; must divide every *_interval.
    train.steps_per_loop = 20
    # Steps between two lines of metrics.
    train.log_interval = 100
    # Steps between two checkpoints; one more is written at the end.
    train.checkpoint_interval = 2000
    # Newest checkpoints that are kept.
    train.keep_checkpoints = 3
    # Steps between two checkpoints that are kept for good, beside the newest; 0: none.
    train.keep_every_steps = 0
    # Held-out metric by which the best checkpoint is kept, beside the others: the lowest of a loss, the highest of any
    # other; empty: none.
    train.best_metric = ""
    # Write checkpoints in the background while training goes on; takes memory for a copy of what is written.
    train.async_checkpoints = False
    # Write histograms of all weights for TensorBoard every checkpoint_interval steps.
    train.histograms = False
    return train


def _phases_section() -> ml_collections.ConfigDict:
    phases = ml_collections.ConfigDict()
    # Phases of the run, one after the other: the steps of each, which together are config.train.num_steps. Empty: one.
    phases.num_steps = ()
    # A value for each phase, in place of config.data.dir, config.data.max_seq_length, config.train.global_batch_size,
    # config.train.gradient_accumulation_steps and config.optimizer.learning_rate. Empty: that key's, in all of them.
    # There is one schedule over the whole run; a phase's learning rate is the peak that it scales.
    phases.data_dir = ()
    phases.max_seq_length = ()
    phases.global_batch_size = ()
    phases.gradient_accumulation_steps = ()
    phases.learning_rate = ()
    return phases


def _watch_section() -> ml_collections.ConfigDict:
    watch = ml_collections.ConfigDict()
    # Steps of the run whose loss or gradients may be infinite or NaN: their update is left out. One more stops the run.
    # Those that dynamic loss scaling causes (mixed_float16) are not counted.
    watch.max_nonfinite_steps = 0
    # A mean loss between two lines of metrics, after warm-up, that is so many times the median of the last ten rolls
    # the run back to the checkpoint before, from where it goes on with other examples; 0: never.
    watch.spike_factor = 0.0
    # Times that a run is rolled back; one more spike stops it.
    watch.max_rollbacks = 3
    return watch


def _eval_section() -> ml_collections.ConfigDict:
    evaluation = ml_collections.ConfigDict()
    # Steps between two evaluations; 0: only at the end.
    evaluation.interval = 10_000
    # Held-out examples of one evaluation, always the same ones with the same masks; 0: all.
    evaluation.num_examples = 10_000
    # Of them, the first that each evaluation shows in TensorBoard as text, corrupted and judged; 0: none.
    evaluation.num_samples = 3
    # Labelled files that a linear model of the frozen encoder is scored on, beside the same of random weights: tables
    # with the usual names of columns, or FILE:text=COLUMN,label=COLUMN. Empty: none.
    evaluation.probes = ()
    # Steps between two probes; 0: with every evaluation.
    evaluation.probe_interval = 0
    # Examples of a file that are probed, chosen at random once; of smaller files all.
    evaluation.probe_examples = 2000
    return evaluation


def _runtime_section() -> ml_collections.ConfigDict:
    runtime = ml_collections.ConfigDict()
    # auto (TPUs if there are any; several workers where TF_CONFIG, Slurm or runtime.worker_addresses name them; all
    # local GPUs; or the CPU), one_device, mirrored (all local GPUs or logical CPUs), multi_worker_mirrored, or tpu.
    runtime.strategy = "auto"
    # Of several workers (processes, with all their GPUs each): host:port of each, comma-separated, the same everywhere.
    # Not needed under Slurm (srun) or with TF_CONFIG.
    runtime.worker_addresses = ""
    # Which of runtime.worker_addresses this process is, from 0; -1: none.
    runtime.worker_index = -1
    # The TPU's name or address; '': the one that TPU_NAME names, or the one attached to this machine.
    runtime.tpu = ""
    # float32, mixed_bfloat16, or mixed_float16 (with dynamic loss scaling): what matrix products are computed in.
    # Weights, softmax, sampling, LayerNorm and losses are float32 in all of them.
    runtime.precision = "float32"
    # Compile steps with XLA: auto (GPU: true; CPU: only what lies between the matrix products), true or false.
    runtime.jit_compile = "auto"
    # Split the CPU into that many devices, to try data parallelism without GPUs; 0: leave it whole.
    runtime.logical_cpus = 0
    return runtime
