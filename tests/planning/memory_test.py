"""The model of memory: its arithmetic by hand, and its peak beside that of a process that trains."""

import pytest

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.planning.memory import replica_memory
from electra_cli.planning.parameters import count_parameters
from tests.planning.common import load_script


def resolved(vocab_size=100, **changes):
    config = default_config()
    config.data.dir = "data"
    config.data.max_seq_length = 16
    config.model.hidden_size = config.model.embedding_size = 8
    config.model.num_attention_heads, config.model.num_layers, config.model.intermediate_size = 2, 3, 32
    config.objective.uniform_generator = True
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return resolve(config, vocab_size)


def memory(config, num_examples=4, remat=False, compiled=True, num_replicas=1):
    return replica_memory(config, num_examples, remat=remat, compiled=compiled, num_replicas=num_replicas)


def test_weights_and_what_belongs_to_each():
    config = resolved()
    trained = 4 * count_parameters(config).trained
    found = memory(config)
    assert (found.weights, found.optimizer, found.gradients) == (trained, 2 * trained, trained)
    averaged = memory(resolved(optimizer__ema_decay=0.9))
    assert (averaged.optimizer, averaged.weights) == (3 * trained, trained)
    mixed = memory(resolved(runtime__precision="mixed_bfloat16"))
    assert (mixed.optimizer, mixed.weights) == (2 * trained, 1.5 * trained)
    in_parts = memory(resolved(train__gradient_accumulation_steps=2))
    assert (in_parts.gradients, memory(config, num_replicas=4).gradients) == (2 * trained, 2 * trained)


@pytest.mark.parametrize(("precision", "width"), [("float32", 4), ("mixed_bfloat16", 2)])
def test_activations_of_a_compiled_step_counted_by_hand(precision, width):
    found = memory(resolved(runtime__precision=precision))
    tokens, scores = 4 * 16, 4 * 2 * 16 * 16
    # Query, key, value, context and both sides of two LayerNorms; three about GELU; probabilities before and behind
    # dropout.
    block = width * (tokens * (8 * 8 + 3 * 32) + 2 * scores)
    embeddings, head = width * 4 * tokens * 8, width * tokens * (2 * 8 + 32)
    assert found.activations == 3 * block + embeddings + head
    kept = memory(resolved(runtime__precision=precision), remat=True)
    # Query, key, value, two about GELU, and probabilities are computed again.
    again = width * (tokens * (3 * 8 + 2 * 32) + 2 * scores)
    assert kept.activations == 3 * (block - again) + embeddings + head
    assert (found.working, kept.working) == (0, again)


@pytest.mark.parametrize(("precision", "width"), [("float32", 4), ("mixed_bfloat16", 2)])
def test_activations_on_a_cpu_counted_by_hand(precision, width):
    found = memory(resolved(runtime__precision=precision), compiled=False)
    tokens, scores = 4 * 16, 4 * 2 * 16 * 16
    block = width * (tokens * (8 * 8 + 2 * 32) + 2 * scores)
    embeddings, head = width * 3 * tokens * 8, tokens * 8 * (2 * width + (4 if width == 2 else 0))
    assert found.activations == 3 * block + embeddings + head
    kept = memory(resolved(runtime__precision=precision), remat=True, compiled=False)
    again = width * (tokens * (3 * 8 + 32) + 2 * scores)
    widest = 2 * width * (tokens * 32 + scores)
    assert (found.working, kept.working) == (widest, widest + again)


def test_without_dropout_its_tensors_are_not_there():
    for compiled in (True, False):
        dropped = memory(resolved(), compiled=compiled).activations
        kept = memory(resolved(model__hidden_dropout=0.0, model__attention_dropout=0.0), compiled=compiled).activations
        assert kept < dropped


def test_peak_grows_with_the_batch_and_has_the_weights_at_least():
    config = resolved()
    peaks = [memory(config, number).peak for number in (1, 8, 64)]
    assert peaks == sorted(peaks) and peaks[0] > 3 * 4 * count_parameters(config).trained
    # Activations dominate in the end: eight times as many take eight times as much.
    assert (memory(config, 6400).peak - memory(config, 3200).peak) / 3200 == pytest.approx(
        (memory(config, 12800).peak - memory(config, 6400).peak) / 6400
    )


@pytest.mark.slow
def test_peak_of_a_process():
    """A small model, op by op; docs/scale.md has more. The goal of the model is 15 %."""
    script = load_script("benchmark_memory")
    overrides = script.case_overrides(0)
    assert script.predict(overrides) == pytest.approx(script.measure(overrides)["measured_bytes"], rel=0.15)
