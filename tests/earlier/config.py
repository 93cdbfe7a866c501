"""electra-pretrain --config=tiny --config.data.dir=data --config.data.max_seq_length=32"""

from electra_cli.config import default_config


def get_config():
    """Returns the default config with these values."""
    config = default_config()

    config.data.dir = "data"  # default: ""
    config.data.max_seq_length = 32  # default: 128
    config.data.mask_prob = 0.15
    config.data.mask_token_prob = 0.85
    config.data.random_token_prob = 0.0
    config.data.mask_unit = "token"
    config.data.max_ngram = 1

    config.model.vocab_size = None
    config.model.embedding_size = 128
    config.model.embedding_sharing = "all"
    config.model.num_layers = 2  # default: 12
    config.model.hidden_size = 128  # default: 256
    config.model.num_attention_heads = 2  # default: 4
    config.model.intermediate_size = 512  # default: 1024
    config.model.generator_size = 0.125  # default: 0.25
    config.model.generator_layers = 0.5  # default: 1.0
    config.model.generator_num_layers = None
    config.model.generator_hidden_size = None
    config.model.generator_num_attention_heads = None
    config.model.generator_intermediate_size = None
    config.model.max_position_embeddings = 512
    config.model.type_vocab_size = 2
    config.model.hidden_dropout = 0.0  # default: 0.1
    config.model.attention_dropout = 0.0  # default: 0.1
    config.model.initializer_range = 0.1  # default: 0.02
    config.model.remat = False

    config.objective.name = "electra"
    config.objective.generator_loss_weight = 1.0
    config.objective.discriminator_loss_weight = 50.0
    config.objective.sampling_temperature = 1.25  # default: 1.0
    config.objective.disallow_correct = False
    config.objective.uniform_generator = False
    config.objective.tied_generator = False

    config.init.checkpoint = ""
    config.init.optimizer = "fresh"
    config.init.vocab_file = ""
    config.init.positions = "copy"

    config.optimizer.name = "adam_weight_decay"
    config.optimizer.learning_rate = 0.002  # default: 0.0005
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_steps = 200  # default: 10000
    config.optimizer.decay_fraction = 0.1
    config.optimizer.weight_decay_rate = 0.01
    config.optimizer.beta_1 = 0.9
    config.optimizer.beta_2 = 0.98  # default: 0.999
    config.optimizer.epsilon = 1e-06
    config.optimizer.clip_norm = 1.0
    config.optimizer.ema_decay = 0.0

    config.train.num_steps = 1200  # default: 1000000
    config.train.global_batch_size = 32  # default: 128
    config.train.gradient_accumulation_steps = 1
    config.train.seed = 0
    config.train.steps_per_loop = 20
    config.train.log_interval = 100
    config.train.checkpoint_interval = 300  # default: 2000
    config.train.keep_checkpoints = 3
    config.train.keep_every_steps = 0
    config.train.best_metric = ""
    config.train.async_checkpoints = False
    config.train.histograms = False

    config.phases.num_steps = ()
    config.phases.data_dir = ()
    config.phases.max_seq_length = ()
    config.phases.global_batch_size = ()
    config.phases.gradient_accumulation_steps = ()
    config.phases.learning_rate = ()

    config.watch.max_nonfinite_steps = 0
    config.watch.spike_factor = 0.0
    config.watch.max_rollbacks = 3

    config.eval.interval = 300  # default: 10000
    config.eval.num_examples = 512  # default: 10000
    config.eval.num_samples = 3
    config.eval.probes = ()
    config.eval.probe_interval = 0
    config.eval.probe_examples = 2000

    config.runtime.strategy = "auto"
    config.runtime.worker_addresses = ""
    config.runtime.worker_index = -1
    config.runtime.tpu = ""
    config.runtime.precision = "float32"
    config.runtime.jit_compile = "auto"
    config.runtime.logical_cpus = 0

    # What follows from these and from the data:
    # derived.generator_hidden_size = 16
    # derived.generator_intermediate_size = 64
    # derived.generator_num_attention_heads = 1
    # derived.generator_num_layers = 1
    # derived.max_predictions_per_seq = 4
    # derived.vocab_size = 160
    return config
