import json
import math

import ml_collections
import pytest

from electra_cli.config import default_config
from electra_cli.config.checks import notices
from electra_cli.config.fields import flatten
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.config.resolution import check, resolve, resolve_phases
from electra_cli.errors import UserError


def preset(name):
    scope = {}
    with open(PRETRAINING.path(name)) as stream:
        exec(stream.read(), scope)
    return scope["get_config"]()


# Clark et al., ICLR 2020, Table 6; small_plus_plus is the released small model.
TABLE_6 = {
    "small": (12, 256, 1024, 4, 128, 64, 0.15, 5e-4, 128, 128, 1_000_000),
    "small_plus_plus": (12, 256, 1024, 4, 128, 256, 0.15, 5e-4, 128, 512, 4_000_000),
    "base": (12, 768, 3072, 12, 768, 256, 0.15, 2e-4, 256, 512, 766_000),
    "large": (24, 1024, 4096, 16, 1024, 256, 0.25, 2e-4, 2048, 512, 400_000),
}


@pytest.mark.parametrize("name", TABLE_6)
def test_presets_are_those_of_the_paper(name):
    config = preset(name)
    config.data.dir = "data"
    resolved = resolve(config, 30_522)
    model = resolved.model
    assert TABLE_6[name] == (
        model.num_layers,
        model.hidden_size,
        model.intermediate_size,
        model.num_attention_heads,
        model.embedding_size,
        resolved.derived.generator_hidden_size,
        resolved.data.mask_prob,
        resolved.optimizer.learning_rate,
        resolved.train.global_batch_size,
        resolved.data.max_seq_length,
        resolved.train.num_steps,
    )
    assert (resolved.optimizer.warmup_steps, resolved.optimizer.weight_decay_rate) == (10_000, 0.01)
    assert (resolved.optimizer.epsilon, resolved.optimizer.beta_1, resolved.optimizer.beta_2) == (1e-6, 0.9, 0.999)
    assert (model.hidden_dropout, model.attention_dropout) == (0.1, 0.1)
    assert resolved.derived.generator_num_layers == model.num_layers
    assert resolved.derived.generator_num_attention_heads == resolved.derived.generator_hidden_size // 64


@pytest.mark.parametrize(
    ("length", "mask_prob", "slots"), [(128, 0.15, 19), (512, 0.15, 79), (512, 0.25, 130), (32, 0.125, 4), (8, 0.01, 1)]
)
def test_masked_slots_are_the_originals(length, mask_prob, slots):
    config = default_config()
    config.data.dir, config.data.max_seq_length, config.data.mask_prob = "data", length, mask_prob
    assert resolve(config, 100).derived.max_predictions_per_seq == slots


@pytest.mark.parametrize(("mask_prob", "mask_prob_end", "slots"), [(0.15, 0.3, 39), (0.3, 0.05, 39), (0.15, None, 19)])
def test_the_largest_rate_decides_the_masked_slots(mask_prob, mask_prob_end, slots):
    config = default_config()
    config.update_from_flattened_dict(
        {"data.dir": "data", "data.mask_prob": mask_prob, "data.mask_prob_end": mask_prob_end}
    )
    assert resolve(config, 100).derived.max_predictions_per_seq == slots


def test_every_preset_has_the_keys_of_the_default():
    assert PRETRAINING.names() == [
        "base", "large", "modern_base", "modern_small", "small", "small_mlm", "small_plus_plus",
        "small_teams", "tiny", "xsmall",
    ]  # fmt: skip
    for name in PRETRAINING.names():
        assert flatten(preset(name)).keys() == flatten(default_config()).keys()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.dir", "", "--config.data.dir=DIR"),
        ("data.mask_prob", 0.0, "greater than 0"),
        ("data.mask_prob", 1.5, "must be a fraction"),
        ("data.mask_prob_end", 1.0, "greater than 0 and less than 1"),
        ("data.mask_token_prob", 1.1, "from 0 to 1"),
        ("data.max_seq_length", 4, "at least 8"),
        ("data.max_seq_length", 1024, "must be config.model.max_position_embeddings=512 at most"),
        ("model.hidden_size", 255, "multiple of config.model.num_attention_heads=4"),
        ("model.generator_size", 0.0, "fraction of the discriminator's"),
        ("model.generator_size", 0.7, "generator of width 179, which 2 attention heads do not divide"),
        ("model.type_vocab_size", 1, "at least 2"),
        ("model.vocab_size", 3, "greater than the 5 special tokens"),
        ("model.architecture", "bert", "must be one of electra, modern"),
        ("model.local_attention", 0, "must be an even number of tokens, 2 or more"),
        ("model.local_attention", 65, "must be an even number of tokens, 2 or more"),
        ("model.local_attention", 64, "belongs to config.model.architecture=modern: set that, or leave it at 128"),
        ("model.global_attention_every", 2, "belongs to config.model.architecture=modern"),
        ("model.global_attention_every", 0, "greater than 0"),
        ("model.global_rope_theta", 1.0, "greater than 1"),
        ("model.global_rope_theta", 1e6, "belongs to config.model.architecture=modern: .* leave it at 160000.0"),
        ("model.local_rope_theta", 1e6, "belongs to config.model.architecture=modern"),
        ("model.norm_epsilon", 1e-6, "belongs to config.model.architecture=modern: .* leave it at 1e-05"),
        ("model.hidden_dropout", 1.0, "less than 1"),
        ("optimizer.learning_rate", -1.0, "greater than 0"),
        ("optimizer.weight_decay_rate", -0.1, "not be negative"),
        ("train.num_steps", 0, "greater than 0"),
        ("train.seed", 2**31, "less than 2"),
        ("train.log_interval", 30, "multiple of config.train.steps_per_loop=20"),
        ("eval.interval", 10, "multiple of config.train.steps_per_loop=20"),
        ("eval.probe_interval", 10, "multiple of config.train.steps_per_loop=20"),
        ("eval.probe_interval", -20, "not be negative"),
        ("eval.probe_examples", 19, "20 at least"),
        ("eval.probes", ("a.tsv:lable=x",), "may follow a file"),
        ("data.random_token_prob", 0.2, "together at most 1"),
        ("data.random_token_prob", -0.1, "fraction from 0 to 1"),
        ("data.mask_unit", "sentence", "must be one of token, word"),
        ("data.max_ngram", 0, "greater than 0"),
        ("model.embedding_sharing", "some", "must be one of all, word, none, gradient_disentangled"),
        ("model.generator_hidden_size", 200, "makes a generator of width 200, which 3 attention heads"),
        ("model.generator_num_layers", 0, "greater than 0, or left unset"),
        ("objective.name", "clm", "must be one of electra, electric, mlm"),
        ("objective.sampling_temperature_end", 0.0, "greater than 0, or left unset"),
        ("objective.generator_loss_weight_end", -1.0, "not be negative"),
        ("objective.discriminator_loss_weight_end", math.nan, "must be a finite number"),
        ("objective.sampling_temperature_end", 3.5e38, "must be a finite number in float32"),
        ("train.value_schedule", "exponential", "must be one of linear, cosine"),
        ("optimizer.name", "sgd", "must be one of adam_weight_decay, adamw, stable_adamw, lamb"),
        ("optimizer.schedule", "step", "must be one of linear, cosine, warmup_stable_decay"),
        ("optimizer.decay_fraction", 1.5, "at most 1"),
        ("optimizer.ema_decay", 1.0, "less than 1"),
        ("train.keep_every_steps", 3000, "multiple of config.train.checkpoint_interval=2000"),
        ("train.keep_every_steps", -2000, "not be negative"),
        ("train.best_metric", "loss", "must be empty or one of total_loss, masked_lm_loss"),
        ("train.gradient_accumulation_steps", 3, "must divide config.train.global_batch_size=128"),
        ("runtime.strategy", "all", "must be one of auto, one_device, mirrored"),
        ("runtime.precision", "half", "must be one of float32, mixed_bfloat16, mixed_float16"),
        ("runtime.jit_compile", "maybe", "must be one of auto, true, false"),
    ],
)
def test_bad_values_are_named_with_key_and_remedy(key, value, message):
    config = default_config()
    config.data.dir = "data"
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"^config.{key}=.*{message}"):
        resolve(config, 100)


# A config of the architecture modern that can be trained.
MODERN = {"data.dir": "data", "model.architecture": "modern", "model.embedding_size": 256, "model.generator_size": 1.0}


@pytest.mark.parametrize(
    ("key", "overrides", "message"),
    [
        ("model.embedding_size", {"model.embedding_size": 128}, "must be config.model.hidden_size=256"),
        ("model.type_vocab_size", {"model.type_vocab_size": 3}, "no segment types: leave the key unset"),
        ("model.num_attention_heads", {"model.num_attention_heads": 256}, "makes 256 heads of width 1; .* even"),
        (
            "model.generator_num_attention_heads",
            {"model.generator_num_attention_heads": 256},
            "makes 256 heads of width 1; .* even, for rotary positions: choose another number of heads",
        ),
        (
            "model.generator_size",
            {"model.generator_size": 0.25},
            "generator of width 64; .* make it 256, or set config.model.embedding_sharing=none",
        ),
        ("model.generator_hidden_size", {"model.generator_hidden_size": 128}, "generator of width 128; .* make it 256"),
        (
            "model.generator_size",
            {"model.generator_size": 0.25, "model.embedding_sharing": "gradient_disentangled"},
            "generator of width 64; .* make it 256",
        ),
    ],
)
def test_what_the_architecture_modern_cannot_have(key, overrides, message):
    config = default_config()
    config.update_from_flattened_dict(MODERN)
    resolve(config, 100)
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=f"^config.{key}=.*{message}"):
        resolve(config, 100)


@pytest.mark.parametrize(
    "overrides",
    [
        {"model.generator_size": 0.25, "model.embedding_sharing": "none"},
        {"model.generator_size": 0.25, "objective.name": "mlm"},
        {"model.generator_size": 0.25, "objective.uniform_generator": True},
        {"model.generator_size": 0.25, "objective.tied_generator": True},
    ],
    ids=str,
)
def test_the_width_of_a_generator_of_its_own_is_free(overrides):
    config = default_config()
    config.update_from_flattened_dict({**MODERN, **overrides})
    assert resolve(config, 100).model.hidden_size == 256


def test_what_the_architecture_modern_does_not_need_is_named():
    config = default_config()
    config.update_from_flattened_dict({**MODERN, "data.max_seq_length": 66})
    assert notices(config) == []
    config.data.max_seq_length = 65
    assert notices(config) == [
        "config.model.local_attention=128 reaches all of 65 tokens (config.data.max_seq_length): every layer attends "
        "to the complete text"
    ]
    config.phases.max_seq_length, config.data.max_seq_length = (65, 512), 128
    config.init.positions = "interpolate"
    assert notices(config) == ["config.init.positions is not used: the architecture modern has no position table"]


def test_settings_of_probes_that_are_not_read_are_named():
    config = default_config()
    config.eval.probe_interval = 100
    assert notices(config) == ["config.eval.probe_interval is not used: config.eval.probes names no file"]
    config.eval.probes = ("a.tsv",)
    assert notices(config) == []
    assert notices(config, with_evaluation=False) == ["config.eval.probes is not used: --mode=train evaluates nothing"]


UNWEIGHTED = {"objective.generator_loss_weight": 0.0, "objective.discriminator_loss_weight": 0.0}
UNIFORM = {"objective.uniform_generator": True}
FROZEN = {"objective.frozen_generator": True, "model.embedding_sharing": "none"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"objective.tied_generator": True, "objective.uniform_generator": True}, "set only one of the two"),
        ({"objective.tied_generator": True, "objective.name": "mlm"}, "the objective mlm has no generator"),
        ({"objective.uniform_generator": True, "objective.name": "mlm"}, "the objective mlm has no generator"),
        ({"objective.name": "electric", "data.mask_prob_end": 0.3}, "mask_prob_end=0.3: must be unset with .*electric"),
        ({"train.best_metric": "cloze_loss"}, "must be empty or one of total_loss"),
        ({"objective.frozen_generator": True}, "must be none or gradient_disentangled with .*frozen_generator"),
        (
            {"objective.frozen_generator": True, "objective.name": "mlm"},
            "leave it out: it is for a generator of",
        ),
        ({"objective.frozen_generator": True, "objective.tied_generator": True}, "that is neither tied nor uniform"),
        (
            {"init.generator": "run", "objective.uniform_generator": True},
            "leave it out: it is for a generator of",
        ),
        ({"train.best_metric": "rtd_auc", "objective.name": "mlm"}, "one of total_loss, masked_lm_loss, masked_lm_acc"),
        ({"objective.tied_generator": True, "model.embedding_sharing": "word"}, "must be all with .*tied_generator"),
        (UNWEIGHTED, r"weight=0\.0: nothing would be learned: .*0 \(discriminator_.*, generator_loss_weight\)$"),
        ({**UNWEIGHTED, "objective.name": "electric"}, "nothing would be learned"),
        ({**UNWEIGHTED, "objective.name": "teams", "objective.selection_loss_weight": 0.0}, "weight, selection_loss_"),
        ({**UNWEIGHTED, "objective.generator_loss_weight": 1.0, **UNIFORM}, r"\(discriminator_loss_weight\)$"),
        ({**UNWEIGHTED, "objective.generator_loss_weight": 1.0, **FROZEN}, r"\(discriminator_loss_weight\)$"),
    ],
)
def test_objectives_that_exclude_each_other(overrides, message):
    config = default_config()
    config.update_from_flattened_dict({"data.dir": "data", **overrides})
    with pytest.raises(UserError, match=message):
        resolve(config, 100)


@pytest.mark.parametrize(
    "overrides",
    [
        {"objective.generator_loss_weight": 1.0},
        {"objective.discriminator_loss_weight_end": 1.0},
        {"objective.name": "teams"},
        {"objective.name": "mlm"},
        {"objective.discriminator_loss_weight": 1.0, "objective.uniform_generator": True},
    ],
)
def test_one_loss_with_a_weight_is_enough(overrides):
    config = default_config()
    config.update_from_flattened_dict({"data.dir": "data", **UNWEIGHTED, **overrides})
    assert resolve(config, 100).derived.vocab_size == 100


def test_a_tied_generator_has_the_sizes_of_the_discriminator():
    config = default_config()
    config.data.dir, config.objective.tied_generator = "data", True
    derived = resolve(config, 100).derived
    assert (derived.generator_hidden_size, derived.generator_num_layers) == (256, 12)
    assert (derived.generator_num_attention_heads, derived.generator_intermediate_size) == (4, 1024)


def test_keys_that_are_not_read_are_named():
    config = default_config()
    assert notices(config) == []
    config.objective.name, config.model.generator_size, config.model.hidden_size = "mlm", 0.5, 800
    config.optimizer.decay_fraction = 0.2
    config.train.value_schedule, config.data.mask_prob_end = "cosine", 0.3
    config.objective.generator_loss_weight_end = 2.0
    config.data.dir, config.model.num_attention_heads = "data", 10
    assert notices(resolve(config, 100)) == [
        "config.model.generator_size is not used: the objective mlm has no generator and no discriminator",
        "config.objective.generator_loss_weight_end is not used: the objective mlm has no generator and no "
        "discriminator",
        "config.optimizer.decay_fraction is not used: it belongs to config.optimizer.schedule=warmup_stable_decay",
    ]
    config.objective.name, config.data.mask_token_prob = "electric", 0.8
    assert notices(config)[0] == (
        "config.data.mask_token_prob is not used: the two towers of the objective electric read text without masks"
    )
    config.data.mask_token_prob = 0.85
    config.data.mask_prob_end = config.objective.generator_loss_weight_end = None
    assert "config.train.value_schedule is not used: no key ..._end is set" in notices(config)
    config.objective.name, config.objective.uniform_generator = "electra", True
    assert notices(config)[0].startswith("config.model.generator_size is not used: a uniform generator")


def test_vocabulary_of_another_size():
    config = default_config()
    config.data.dir, config.model.vocab_size = "data", 200
    with pytest.raises(UserError, match=r"config\.model\.vocab_size=200 but the vocabulary of data has 100 entries"):
        resolve(config, 100)
    assert resolve(config, 200).derived.vocab_size == 200


def test_differences_are_sorted_into_harmless_and_not():
    old, new = default_config(), default_config()
    new.eval.interval, new.train.seed, new.data.dir = 20, 3, "elsewhere"
    assert PRETRAINING.differences(old.to_dict(), new.to_dict()) == (
        ["train.seed: 0 -> 3"],
        ['data.dir: "" -> "elsewhere"', "eval.interval: 10000 -> 20"],
    )
    assert PRETRAINING.differences(old.to_dict(), json.loads(json.dumps(old.to_dict()))) == ([], [])


def test_rotary_positions_limit_no_length():
    config = preset("modern_small")
    config.data.dir = "data"
    assert resolve(config, 100).model.max_position_embeddings == 512
    config.data.max_seq_length = 8192
    assert resolve(config, 100).model.max_position_embeddings == 8192
    config = preset("modern_base")
    config.phases.data_dir = ("short", "long")
    run = resolve_phases(config, check(config), 100)
    each = [phase.config for phase in run.phases]
    assert [phase.data.max_seq_length for phase in each] == [1024, 8192]
    assert [phase.model.max_position_embeddings for phase in (run.resolved, *each)] == [8192] * 3


def test_derived_values_are_not_named_as_differences():
    config = default_config()
    config.data.dir = "data"
    old = resolve(config, 100).to_dict()
    config.model.hidden_size = 512
    assert PRETRAINING.differences(old, resolve(config, 100).to_dict()) == (["model.hidden_size: 256 -> 512"], [])


def test_a_key_that_is_newer_than_the_run_had_its_default():
    old = default_config().to_dict()
    del old["objective"]["sampling_temperature"]
    new = default_config()
    assert PRETRAINING.differences(old, new.to_dict()) == ([], [])
    new.objective.sampling_temperature = 1.5
    assert PRETRAINING.differences(old, new.to_dict()) == (["objective.sampling_temperature: 1.0 -> 1.5"], [])


def test_what_a_started_run_may_change():
    changeable = {key for key, field in PRETRAINING.fields.items() if field.changeable}
    for section in ("eval.", "watch."):
        assert {key for key in PRETRAINING.fields if key.startswith(section)} <= changeable
    assert {key for key in changeable if not key.startswith(("eval.", "watch."))} == {
        "data.dir", "phases.data_dir", "init.checkpoint", "init.generator", "init.vocab_file", "model.remat",
        "train.log_interval",
        "train.checkpoint_interval", "train.steps_per_loop", "train.keep_checkpoints", "train.keep_every_steps",
        "train.best_metric", "train.async_checkpoints", "train.histograms", "runtime.strategy",
        "runtime.worker_addresses", "runtime.worker_index", "runtime.tpu", "runtime.logical_cpus",
        "runtime.jit_compile", "runtime.attention",
    }  # fmt: skip


def test_short_runs_are_noticed():
    config = default_config()
    assert notices(config) == []
    config.train.num_steps = 200
    assert "warmup_steps=10,000 is longer than the run of 200 steps" in notices(config)[0]


def test_a_best_metric_without_evaluations_is_noticed():
    config = default_config()
    config.train.best_metric = "rtd_auc"
    assert notices(config) == []
    assert notices(config, with_evaluation=False) == [
        "config.train.best_metric is not used: --mode=train evaluates nothing"
    ]


def test_resolved_configs_are_frozen():
    config = default_config()
    config.data.dir = "data"
    resolved = resolve(config, 100)
    assert isinstance(resolved, ml_collections.FrozenConfigDict)
    with pytest.raises(AttributeError):
        resolved.train.seed = 1


def test_slots_are_never_more_than_tokens():
    config = default_config()
    config.data.dir, config.data.mask_prob = "data", 0.999
    assert resolve(config, 100).derived.max_predictions_per_seq == 128


SIZES = {
    "data.max_seq_length": 131_072,
    "model.vocab_size": 16_777_216,
    "model.embedding_size": 65_536,
    "model.num_layers": 1000,
    "model.hidden_size": 65_536,
    "model.num_attention_heads": 65_536,
    "model.intermediate_size": 262_144,
    "model.generator_num_layers": 1000,
    "model.generator_hidden_size": 65_536,
    "model.generator_num_attention_heads": 65_536,
    "model.generator_intermediate_size": 262_144,
    "model.max_position_embeddings": 1_048_576,
    "model.type_vocab_size": 65_536,
    "train.global_batch_size": 1_048_576,
    "data.max_ngram": 131_072,
    "runtime.logical_cpus": 1024,
}


@pytest.mark.parametrize("value", [10**8, 10**9])
@pytest.mark.parametrize("key", SIZES)
def test_sizes_that_no_machine_holds(key, value):
    config = default_config()
    config.data.dir = "data"
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"^config.{key}={value}: must be {SIZES[key]:,} at most$"):
        resolve(config, 100)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (10**9, "must be 16,777,216 at most"),
        (4, "must be greater than the 5 special tokens"),
        (100.0, "must be a whole number"),
    ],
)
def test_vocabularies_of_damaged_records(size, message):
    config = default_config()
    config.data.dir = "data"
    with pytest.raises(UserError, match=f"^derived.vocab_size={size}: {message}$"):
        resolve(config, size)
