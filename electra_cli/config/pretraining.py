"""Every setting of a pre-training run, declared once. TensorFlow is not imported here.

The files in `configs/` override some; `--config.section.key=value` overrides both.
"""

import ml_collections

from electra_cli.config.fields import (
    FRACTION,
    FROM_0_TO_1,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_OR_UNSET,
    ChangeableField,
    Field,
    Rule,
    Schema,
)

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
ARCHITECTURES = ("electra", "modern")
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker_mirrored", "tpu")
# Held-out metrics of which one is better than another: of every objective, and those of objectives with RTD.
_MASKED_LM_METRICS = ("total_loss", "masked_lm_loss", "masked_lm_accuracy")
_RTD_METRICS = ("sampled_masked_lm_accuracy", "rtd_loss", "rtd_accuracy", "rtd_auc", "rtd_precision", "rtd_recall")
BEST_METRICS = {
    "electra": (*_MASKED_LM_METRICS, *_RTD_METRICS),
    "electric": (*_MASKED_LM_METRICS, "cloze_loss", *_RTD_METRICS),
    "mlm": _MASKED_LM_METRICS,
    "teams": (*_MASKED_LM_METRICS, *_RTD_METRICS, "selection_loss", "selection_accuracy"),
}

# Limits of sizes, beyond those of published encoders; whether a machine holds a network is another check
# (`objectives/sizes.py`).
MAX_LENGTH, MAX_BATCH_SIZE = 2**17, 2**20
_MAX_WIDTH, _MAX_INNER_WIDTH, _MAX_LAYERS = 2**16, 2**18, 1000
_SHARE_OF_DISCRIMINATOR = Rule(
    lambda value: 0 < value <= 1, "must be a fraction of the discriminator's, greater than 0 and at most 1"
)
# Lengths, in tokens, from which attention in blocks is quicker, measured on 2 cores: with windows, and without.
LONG_FOR_WINDOWS, LONG = 512, 1024
_GREATER_THAN_1 = Rule(lambda value: value > 1, "must be greater than 1")
# Descriptions that keys share.
_MODERN = "With architecture=modern"
_TEAMS = "With objective.name=teams"
_ROPE_THETAS = (
    f"{_MODERN}: base of the angles of rotary positions, in layers that see the text and in those of windows."
)
_GENERATOR_NUMBERS = (
    "Generator by numbers, each overriding the size that the two fractions give; unset: the fractions decide."
)
_LOSS_WEIGHTS = (
    "Weights of the two losses: total loss = generator_loss_weight x masked LM + discriminator_loss_weight x RTD "
    "(paper, section 2)."
)
_MASK_RATE = Rule(lambda value: 0 < value < 1, "must be a fraction, greater than 0 and less than 1")
_AT_END = (
    "Value at the run's last step of the key without _end, which is its value at the first: between them it changes as "
    "config.train.value_schedule says. Evaluation keeps the first, so that scores of a run compare. Unset: constant."
)
_PHASE_VALUES = (
    "One value per phase, in place of config.data.dir, config.data.max_seq_length, config.train.global_batch_size, "
    "config.train.gradient_accumulation_steps and config.optimizer.learning_rate. Empty: that key's value in all "
    "phases. There is one schedule over the whole run; a phase's learning rate is the peak that it scales."
)

_FIELDS = {
    "data.dir": ChangeableField(
        "",
        "Directory written by electra-prepare, or one of TFRecords from google-research/electra or tf-models-official.",
    ),
    "data.max_seq_length": Field(
        128,
        "Tokens of one example, padding included; must equal that of the data.",
        Rule(lambda value: value >= 8, "must be at least 8 tokens", MAX_LENGTH),
    ),
    "data.mask_prob": Field(
        0.15,
        "Fraction of an example's real tokens that is masked.",
        _MASK_RATE,
    ),
    "data.mask_prob_end": Field(None, _AT_END, _MASK_RATE, value_type=float),
    "data.mask_token_prob": Field(
        0.85, "Fraction of the masked slots that shows [MASK] (the original's 0.85; BERT's 0.8).", FROM_0_TO_1
    ),
    "data.random_token_prob": Field(
        0.0,
        "Fraction of the masked slots that shows a random token (BERT's 0.1); the remaining slots keep their token.",
        FROM_0_TO_1,
    ),
    "data.mask_unit": Field(
        "token",
        'What is masked as a unit: token, or word (found by WordPiece\'s "##", by the space that SentencePiece and '
        "byte-level BPE keep at its beginning, or by the segmentation that the data was prepared with).",
        choices=("token", "word"),
    ),
    "data.max_ngram": Field(
        1,
        "Longest span, in units, that is masked together; a length n is drawn in proportion to 1/n (ALBERT, section "
        "4.1).",
        POSITIVE.up_to(MAX_LENGTH),
    ),
    "model.vocab_size": Field(
        None,
        "Entries of the vocabulary; unset: the data's. If set, it must equal the data's.",
        Rule(lambda value: value > 5, "must be greater than the 5 special tokens", 2**24),
        value_type=int,
    ),
    "model.architecture": Field(
        "electra",
        "electra (BERT's network, as in the paper), or modern: ModernBERT's (arXiv 2412.13663), which "
        "ModernBertForTokenClassification of transformers loads: LayerNorm in front of each layer, no biases, rotary "
        "positions, GeGLU, and windows of attention. Its generator is as wide as the discriminator, unless "
        "embedding_sharing is none; examples' segment types are not read.",
        choices=ARCHITECTURES,
    ),
    "model.global_attention_every": Field(
        3,
        f"{_MODERN}: layers 0, n, 2 n, ... attend to the complete text, those between to a window; 1: all to the text.",
        POSITIVE.up_to(_MAX_LAYERS),
    ),
    "model.local_attention": Field(
        128,
        f"{_MODERN}: the window, in tokens: half of it to each side of a token.",
        Rule(lambda value: value > 0 and value % 2 == 0, "must be an even number of tokens, 2 or more", MAX_LENGTH),
    ),
    "model.global_rope_theta": Field(160_000.0, _ROPE_THETAS, _GREATER_THAN_1),
    "model.local_rope_theta": Field(10_000.0, _ROPE_THETAS, _GREATER_THAN_1),
    "model.norm_epsilon": Field(1e-5, f"{_MODERN}: epsilon of LayerNorm (that of electra is 1e-12).", POSITIVE),
    "model.embedding_size": Field(
        128,
        "Width of the word, position and type embeddings. With architecture=modern it must be hidden_size.",
        POSITIVE.up_to(_MAX_WIDTH),
    ),
    "model.embedding_sharing": Field(
        "all",
        "What the networks share: all (word, position and type embeddings and their LayerNorm, as in the original), "
        "word (the word embeddings), none, or gradient_disentangled (the discriminator adds its own to the "
        "generator's, which its gradient does not change: DeBERTaV3, section 3.3).",
        choices=("all", "word", "none", "gradient_disentangled"),
    ),
    "model.num_layers": Field(12, "Layers of the discriminator.", POSITIVE.up_to(_MAX_LAYERS)),
    "model.hidden_size": Field(256, "Width of the discriminator.", POSITIVE.up_to(_MAX_WIDTH)),
    "model.num_attention_heads": Field(4, "Attention heads of the discriminator.", POSITIVE.up_to(_MAX_WIDTH)),
    "model.intermediate_size": Field(
        1024, "Width of the discriminator's feed-forward layers.", POSITIVE.up_to(_MAX_INNER_WIDTH)
    ),
    "model.generator_size": Field(
        0.25,
        "Generator: its width as a fraction of the discriminator's; with attention heads of width 64 and a "
        "feed-forward width of 4 times its own.",
        _SHARE_OF_DISCRIMINATOR,
    ),
    "model.generator_layers": Field(
        1.0, "Generator: its number of layers as a fraction of the discriminator's.", _SHARE_OF_DISCRIMINATOR
    ),
    "model.generator_num_layers": Field(None, _GENERATOR_NUMBERS, POSITIVE_OR_UNSET.up_to(_MAX_LAYERS), value_type=int),
    "model.generator_hidden_size": Field(None, _GENERATOR_NUMBERS, POSITIVE_OR_UNSET.up_to(_MAX_WIDTH), value_type=int),
    "model.generator_num_attention_heads": Field(
        None, _GENERATOR_NUMBERS, POSITIVE_OR_UNSET.up_to(_MAX_WIDTH), value_type=int
    ),
    "model.generator_intermediate_size": Field(
        None, _GENERATOR_NUMBERS, POSITIVE_OR_UNSET.up_to(_MAX_INNER_WIDTH), value_type=int
    ),
    "model.max_position_embeddings": Field(
        512,
        "Longest sequence, in tokens, that the position table covers. With architecture=modern there is no such table: "
        "it is the length that texts are cut to later, data.max_seq_length at least, and that exports record.",
        POSITIVE.up_to(2**20),
    ),
    "model.type_vocab_size": Field(
        2,
        "Number of segment types in the type table; with architecture=modern there is none, and it stays 2.",
        Rule(lambda value: value >= 2, "must be at least 2: examples have two segments", 2**16),
    ),
    "model.hidden_dropout": Field(
        0.1, "Dropout rate of embeddings, attention output and feed-forward output (fraction).", FRACTION
    ),
    "model.attention_dropout": Field(0.1, "Dropout rate of attention probabilities (fraction).", FRACTION),
    "model.initializer_range": Field(
        0.02, "Standard deviation of the truncated normal distribution that weights start from.", POSITIVE
    ),
    "model.remat": ChangeableField(
        False,
        "Recompute the larger and cheaper part of each Transformer block (query, key, value, attention probabilities, "
        "GELU) for its gradients instead of keeping it: less memory for some 20 % more time, and the same numbers.",
    ),
    "objective.name": Field(
        "electra",
        "electra; electric: energies of tokens, learned against noise from two encoders of the generator's size that "
        "read in one direction each (Clark et al., EMNLP 2020), and with them --mode=score; teams: electra, and the "
        "selection of the original among candidates (arXiv 2106.00139), with a generator of the discriminator's width "
        "and half of its layers, unless model.generator_num_layers is set; or mlm: masked language modeling alone "
        "(BERT without next-sentence prediction), which trains one network of the discriminator's size and reads no "
        "other key of this section.",
        choices=tuple(BEST_METRICS),
    ),
    "objective.generator_loss_weight": Field(1.0, _LOSS_WEIGHTS, NOT_NEGATIVE),
    "objective.discriminator_loss_weight": Field(50.0, _LOSS_WEIGHTS, NOT_NEGATIVE),
    "objective.generator_loss_weight_end": Field(None, _AT_END, NOT_NEGATIVE, value_type=float),
    "objective.discriminator_loss_weight_end": Field(None, _AT_END, NOT_NEGATIVE, value_type=float),
    "objective.selection_loss_weight": Field(
        20.0, f"{_TEAMS}: weight of the loss of selection, in nats a masked slot, in the total loss.", NOT_NEGATIVE
    ),
    "objective.num_candidates": Field(
        5,
        f"{_TEAMS}: candidates at a masked slot, the original among them; the others are drawn from the generator's "
        "distribution.",
        Rule(lambda value: value >= 2, "must be at least 2: the original and another", 50),
    ),
    "objective.shared_layers": Field(
        3,
        f"{_TEAMS}: the first layers of the generator that are the discriminator's, at most all that have no task.",
        NOT_NEGATIVE.up_to(_MAX_LAYERS),
    ),
    "objective.task_layers": Field(
        1,
        f"{_TEAMS}: layers of the discriminator, the last ones, that selection has for itself; the network that is "
        "kept has those of replaced token detection.",
        POSITIVE.up_to(_MAX_LAYERS),
    ),
    "objective.sampling_temperature": Field(
        1.0, "Temperature of the softmax that replacements are sampled from (the original's `temperature`).", POSITIVE
    ),
    "objective.sampling_temperature_end": Field(None, _AT_END, POSITIVE_OR_UNSET, value_type=float),
    "objective.disallow_correct": Field(False, "Never sample the original token (the original's `disallow_correct`)."),
    "objective.uniform_generator": Field(
        False,
        "Draw replacements uniformly from the vocabulary, without a generator (the original's `uniform_generator`).",
    ),
    "objective.tied_generator": Field(
        False,
        "One network for both, of the discriminator's size, with two heads (paper, section 3.2: tying all weights).",
    ),
    "objective.frozen_generator": Field(
        False,
        "Train the discriminator alone: the generator keeps the weights that it begins with (init.generator) and drops "
        "nothing out. Its loss is still part of total_loss.",
    ),
    "init.checkpoint": ChangeableField(
        "",
        "Checkpoint whose weights a new run starts from, at step 0: its path, or a directory (a workdir, or the "
        "output of electra-import) whose newest checkpoint is used. --checkpoint overrides it. Empty: random weights.",
    ),
    "init.generator": ChangeableField(
        "",
        "Checkpoint, as of init.checkpoint, whose generator a new run starts from, in place of that of "
        "init.checkpoint; or a run of the objective mlm, whose network becomes the generator: give its sizes by "
        "model.generator_*. init.vocab_file and init.positions hold for it, too.",
    ),
    "init.optimizer": Field(
        "fresh",
        "fresh, or restored: take over the optimizer's moments too. The schedule starts at step 0 in either case.",
        choices=("fresh", "restored"),
    ),
    "init.vocab_file": ChangeableField(
        "",
        "Vocabulary of that checkpoint, which the data's may extend: each token after its last starts as the mean of "
        "its pieces. Empty: the one in the checkpoint's workdir, or in the data of the run there.",
    ),
    "init.positions": Field(
        "copy",
        "If model.max_position_embeddings differs: copy the rows of the position table, starting over from the first "
        "where they run out, or interpolate between them.",
        choices=("copy", "interpolate"),
    ),
    "optimizer.name": Field(
        "adam_weight_decay",
        "adam_weight_decay (the original's: no bias correction), adamw (with bias correction), stable_adamw (which "
        "takes smaller steps where gradients are unusually large, as ModernBERT was trained), or lamb.",
        choices=("adam_weight_decay", "adamw", "stable_adamw", "lamb"),
    ),
    "optimizer.learning_rate": Field(5e-4, "Learning rate at the end of warm-up, before decay.", POSITIVE),
    "optimizer.schedule": Field(
        "linear",
        "linear (the original's product of warm-up and decay), cosine, or warmup_stable_decay.",
        choices=("linear", "cosine", "warmup_stable_decay"),
    ),
    "optimizer.warmup_steps": Field(10_000, "Steps of linear warm-up.", NOT_NEGATIVE),
    "optimizer.decay_fraction": Field(
        0.1,
        "For warmup_stable_decay: fraction of the run, at its end, over which the rate falls to 0.",
        Rule(lambda value: 0 < value <= 1, "must be a fraction of the run, greater than 0 and at most 1"),
    ),
    "optimizer.weight_decay_rate": Field(
        0.01, "Decoupled weight decay of all weights except biases and LayerNorm.", NOT_NEGATIVE
    ),
    "optimizer.beta_1": Field(0.9, "Decay of Adam's first moment, the mean of gradients.", FRACTION),
    "optimizer.beta_2": Field(0.999, "Decay of Adam's second moment, the mean of squared gradients.", FRACTION),
    "optimizer.epsilon": Field(1e-6, "Constant added to the square root of Adam's second moment.", POSITIVE),
    "optimizer.clip_norm": Field(1.0, "Global norm that gradients are clipped to.", POSITIVE),
    "optimizer.ema_decay": Field(
        0.0,
        "Decay of the exponential moving average of the weights, which evaluation uses; 0: no average is kept.",
        FRACTION,
    ),
    "train.num_steps": Field(
        1_000_000, "Optimizer updates in the whole run; the learning rate reaches 0 there.", POSITIVE
    ),
    "train.global_batch_size": Field(128, "Examples of one step over all replicas.", POSITIVE.up_to(MAX_BATCH_SIZE)),
    "train.gradient_accumulation_steps": Field(
        1,
        "Number of parts in which a replica processes its share of a step's examples, one after the other, to save "
        "memory.",
        POSITIVE,
    ),
    "train.seed": Field(
        0,
        "Everything random follows from this number and the step.",
        Rule(lambda value: 0 <= value < 2**31, "must be at least 0 and less than 2**31"),
    ),
    "train.value_schedule": Field(
        "linear",
        "How values with a key ..._end (mask_prob, sampling_temperature and the loss weights) change over the run: "
        "linear, or cosine (slowly at both ends).",
        choices=("linear", "cosine"),
    ),
    "train.steps_per_loop": ChangeableField(20, "Steps per host call; must divide every *_interval.", POSITIVE),
    "train.log_interval": ChangeableField(100, "Steps between two lines of metrics.", POSITIVE),
    "train.checkpoint_interval": ChangeableField(
        2000, "Steps between two checkpoints; one more is written at the end.", POSITIVE
    ),
    "train.keep_checkpoints": ChangeableField(
        3,
        "Number of newest checkpoints that are kept, of those at every checkpoint_interval; one that a stop or the "
        "end wrote in between is kept until the next.",
        POSITIVE,
    ),
    "train.keep_every_steps": ChangeableField(
        0, "Steps between two checkpoints that are never deleted, in addition to the newest; 0: none.", NOT_NEGATIVE
    ),
    "train.best_metric": ChangeableField(
        "",
        "Held-out metric by which the best checkpoint is kept, in addition to the others: the lowest for a loss, the "
        "highest for any other; empty: none.",
        choices=tuple(dict.fromkeys(name for names in BEST_METRICS.values() for name in names)),
    ),
    "train.async_checkpoints": ChangeableField(
        False,
        "Write checkpoints in the background while training continues; takes memory for a copy of what is written.",
    ),
    "train.histograms": ChangeableField(
        False, "Write histograms of all weights for TensorBoard every checkpoint_interval steps."
    ),
    "phases.num_steps": Field(
        (),
        "Phases of the run, one after the other: the number of steps of each, which add up to config.train.num_steps. "
        "Empty: one phase.",
    ),
    "phases.data_dir": ChangeableField((), _PHASE_VALUES),
    "phases.max_seq_length": Field((), _PHASE_VALUES),
    "phases.global_batch_size": Field((), _PHASE_VALUES),
    "phases.gradient_accumulation_steps": Field((), _PHASE_VALUES),
    "phases.learning_rate": Field((), _PHASE_VALUES),
    "watch.max_nonfinite_steps": ChangeableField(
        0,
        "Number of steps in the run whose loss or gradients may be infinite or NaN: their update is skipped. One more "
        "stops the run. Steps that dynamic loss scaling causes (mixed_float16) are not counted.",
        NOT_NEGATIVE,
    ),
    "watch.spike_factor": ChangeableField(
        0.0,
        "A mean loss between two lines of metrics, after warm-up, that is this many times the median of the last ten "
        "rolls the run back to the previous checkpoint, from where it continues with other examples; 0: never.",
        Rule(lambda value: value == 0 or value > 1, "is a multiple of the usual loss: greater than 1, or 0"),
    ),
    "watch.max_rollbacks": ChangeableField(
        3, "Number of times that a run may be rolled back; one more spike stops it.", NOT_NEGATIVE
    ),
    "eval.interval": ChangeableField(10_000, "Steps between two evaluations; 0: only at the end.", NOT_NEGATIVE),
    "eval.num_examples": ChangeableField(
        10_000, "Held-out examples per evaluation, always the same ones with the same masks; 0: all.", NOT_NEGATIVE
    ),
    "eval.num_samples": ChangeableField(
        3,
        "How many of these each evaluation shows in TensorBoard as text, corrupted and judged, from the first on; 0: "
        "none.",
        NOT_NEGATIVE,
    ),
    "eval.probes": ChangeableField(
        (),
        "Labelled files on which a linear model of the frozen encoder is scored, next to the same with random weights: "
        "tables with the usual column names, or FILE:text=COLUMN,label=COLUMN. Empty: none.",
    ),
    "eval.probe_interval": ChangeableField(0, "Steps between two probes; 0: with every evaluation.", NOT_NEGATIVE),
    "eval.probe_examples": ChangeableField(
        2000,
        "Examples per file that are probed, chosen at random once; all of a smaller file.",
        Rule(lambda value: value >= 20, "are too few to mean anything: 20 at least"),
    ),
    "runtime.strategy": ChangeableField(
        "auto",
        "auto (TPUs if there are any; several workers where TF_CONFIG, Slurm or runtime.worker_addresses name them; "
        "all local GPUs; or the CPU), one_device, mirrored (all local GPUs or logical CPUs), multi_worker_mirrored, "
        "or tpu.",
        choices=STRATEGIES,
    ),
    "runtime.worker_addresses": ChangeableField(
        "",
        "For several workers (processes, each with all GPUs of its machine): host:port of each, comma-separated, the "
        "same everywhere. Not needed under Slurm (srun) or with TF_CONFIG.",
    ),
    "runtime.worker_index": ChangeableField(
        -1, "Position of this process in runtime.worker_addresses, from 0; -1: none."
    ),
    "runtime.tpu": ChangeableField(
        "", "The TPU's name or address; '': the one that TPU_NAME names, or the one attached to this machine."
    ),
    "runtime.precision": Field(
        "float32",
        "float32, mixed_bfloat16, or mixed_float16 (with dynamic loss scaling): the precision of matrix products. "
        "Weights, softmax, sampling, LayerNorm and losses are float32 in all of them.",
        choices=PRECISIONS,
    ),
    "runtime.jit_compile": ChangeableField(
        "auto",
        "Compile steps with XLA: auto (GPU: true; CPU: only the operations between matrix products), true or false.",
        choices=("auto", "true", "false"),
    ),
    "runtime.attention": ChangeableField(
        "auto",
        "full (all probabilities of a layer at once), blockwise (attention in blocks, which keeps none for the "
        f"gradient and computes them again), or auto: blockwise from {LONG:,} tokens on, in layers that see a window "
        f"from {LONG_FOR_WINDOWS}. The numbers differ by rounding.",
        choices=("auto", "full", "blockwise"),
    ),
    "runtime.logical_cpus": ChangeableField(
        0,
        "Split the CPU into this many devices, to try data parallelism without GPUs; 0: do not split.",
        NOT_NEGATIVE.up_to(1024),
    ),
}

# Keys that hold a path, or several; in those of `eval.probes` the columns follow.
PATH_KEYS = ("data.dir", "init.checkpoint", "init.generator", "init.vocab_file", "phases.data_dir", "eval.probes")

PRETRAINING = Schema(_FIELDS, "electra_cli.config.default_config")


def attends_in_blocks(attention: str, length: int, window: int | None) -> bool:
    """Returns whether `runtime.attention` means blocks for layers that see `window` tokens to each side; None: all."""
    if attention == "auto":
        return length >= (LONG if window is None or window >= length - 1 else LONG_FOR_WINDOWS)
    return attention == "blockwise"


# What TPUs and GPUs compute at once: queries of a block that sees all keys, and the least half of a window, in tokens.
BLOCK, MIN_HALF_WINDOW = 128, 64


def computed_keys(attention: str, length: int, window: int | None) -> int:
    """Returns how many keys the scores of a query are computed of; `window` as of `attends_in_blocks`.

    Those of a window in blocks (`modeling/blockwise.py`) are its block of two halves, and a half on both sides, as if
    blocks divided the length.
    """
    if window is None or window >= length - 1 or not attends_in_blocks(attention, length, window):
        return length
    return 4 * max(window, MIN_HALF_WINDOW)


def default_config() -> ml_collections.ConfigDict:
    """Returns all keys with their defaults: ELECTRA-Small of the paper (Clark et al., ICLR 2020, Table 6)."""
    return PRETRAINING.default_config()
