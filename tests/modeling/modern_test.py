"""The oracle is PyTorch's ModernBERT of transformers, eager and in float32, with random weights."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
import transformers

from electra_cli.modeling.fused import with_jit_regions
from electra_cli.modeling.layers import ElectraEmbeddings
from electra_cli.modeling.modern import ModernEncoder, ModernMaskedLM

VOCAB_SIZE, LENGTH = 60, 24


@dataclasses.dataclass(frozen=True)
class Shape:
    hidden_size: int = 36
    num_attention_heads: int = 3
    num_layers: int = 4
    intermediate_size: int = 50
    global_attention_every: int = 3
    local_attention: int = 8
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5


SHAPES = [
    Shape(),
    Shape(hidden_size=32, num_attention_heads=2, num_layers=3, global_attention_every=1, intermediate_size=64),
    Shape(hidden_size=20, num_attention_heads=10, num_layers=5, global_attention_every=2, local_attention=4),
    Shape(local_attention=128, global_rope_theta=500.0, local_rope_theta=20.0, intermediate_size=7),
    Shape(num_layers=1, local_attention=6, norm_epsilon=0.1),
]


def build_encoder(shape, **settings):
    tf_keras.utils.set_random_seed(0)
    embeddings = ElectraEmbeddings(
        VOCAB_SIZE, shape.hidden_size, None, None, 0.2, norm_epsilon=shape.norm_epsilon, norm_has_bias=False
    )
    return ModernEncoder(embeddings, **dataclasses.asdict(shape), initializer_range=0.2, **settings)


def build_oracle(shape):
    sizes = dataclasses.asdict(shape)
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(
        vocab_size=VOCAB_SIZE,
        num_hidden_layers=sizes.pop("num_layers"),
        norm_eps=sizes.pop("norm_epsilon"),
        global_attn_every_n_layers=sizes.pop("global_attention_every"),
        **sizes,
        initializer_range=0.2,
        pad_token_id=0, bos_token_id=2, cls_token_id=2, eos_token_id=3, sep_token_id=3,
        attn_implementation="eager",
    )  # fmt: skip
    oracle = transformers.ModernBertForMaskedLM(config).eval()
    with torch.no_grad():  # scales of norms and the decoder's bias, which start at 1 and 0
        for name, value in oracle.named_parameters():
            if "norm" in name or name == "decoder.bias":
                value.add_(0.3 * torch.randn_like(value))
    return oracle


def copy_weights(oracle, encoder, masked_lm):
    named = {name: value.detach().numpy() for name, value in oracle.named_parameters()}

    def assign(variable, name):
        value = named.pop(name)
        variable.assign(value.T if value.ndim == 2 and "tok_embeddings" not in name else value)

    assign(encoder.embeddings.word_embeddings, "model.embeddings.tok_embeddings.weight")
    assign(encoder.embeddings.layer_norm.gamma, "model.embeddings.norm.weight")
    for index, block in enumerate(encoder.transformer_layers):
        layer = f"model.layers.{index}"
        if index > 0:
            assign(block.attention_norm.gamma, f"{layer}.attn_norm.weight")
        assign(block.query_key_value.kernel, f"{layer}.attn.Wqkv.weight")
        assign(block.attention_output.kernel, f"{layer}.attn.Wo.weight")
        assign(block.intermediate_norm.gamma, f"{layer}.mlp_norm.weight")
        assign(block.intermediate.kernel, f"{layer}.mlp.Wi.weight")
        assign(block.output_dense.kernel, f"{layer}.mlp.Wo.weight")
    assign(encoder.final_norm.gamma, "model.final_norm.weight")
    assign(masked_lm.dense.kernel, "head.dense.weight")
    assign(masked_lm.layer_norm.gamma, "head.norm.weight")
    assign(masked_lm.bias, "decoder.bias")
    assert not named


def make_inputs(lengths):
    """Documents of the given lengths, one an example."""
    rng = np.random.default_rng(1)
    mask = (np.arange(LENGTH) < np.array(lengths)[:, np.newaxis]).astype(np.int32)
    ids = rng.integers(5, VOCAB_SIZE, mask.shape).astype(np.int32) * mask
    return {name: tf.constant(value) for name, value in zip(NAMES, (ids, mask, 0 * mask), strict=True)}


NAMES = ("input_word_ids", "input_mask", "input_type_ids")
LENGTHS = (LENGTH, 17, 3)


@pytest.mark.parametrize("attention", ["full", "blockwise"])
@pytest.mark.parametrize("shape", SHAPES, ids=range(5))
def test_states_and_logits_are_those_of_transformers(shape, attention):
    encoder, inputs, oracle = build_encoder(shape, attention=attention), make_inputs(LENGTHS), build_oracle(shape)
    positions = tf.broadcast_to(tf.range(LENGTH), [len(LENGTHS), LENGTH])
    masked_lm = ModernMaskedLM(encoder.get_embedding_table(), encoder.new_prediction_head())
    masked_lm(encoder(inputs)["sequence_output"], positions)
    copy_weights(oracle, encoder, masked_lm)
    ids, mask = (torch.tensor(inputs[name].numpy(), dtype=torch.long) for name in NAMES[:2])
    with torch.no_grad():
        expected = oracle(ids, attention_mask=mask, output_hidden_states=True)
    outputs = encoder(inputs)
    kept = inputs["input_mask"].numpy().astype(bool)
    assert len(outputs["encoder_outputs"]) == shape.num_layers == len(expected.hidden_states) - 1
    for ours, theirs in zip(outputs["encoder_outputs"], expected.hidden_states[1:], strict=True):
        np.testing.assert_allclose(ours.numpy()[kept], theirs.numpy()[kept], atol=1e-4, rtol=1e-5)
    assert outputs["encoder_outputs"][-1] is outputs["sequence_output"]
    logits = masked_lm(outputs["sequence_output"], positions).numpy()
    assert np.abs(logits[kept]).max() > 1
    np.testing.assert_allclose(logits[kept], expected.logits.numpy()[kept], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("attention", ["full", "blockwise"])
@pytest.mark.parametrize("shape", SHAPES, ids=range(5))
def test_packed_documents_are_encoded_as_if_alone(shape, attention):
    """The lengths of two examples' documents are greater and less than the windows."""
    packed_lengths = [[10, 11], [3, 14, 5]]
    encoder, alone = build_encoder(shape, attention=attention), make_inputs([10, 11, 3, 14, 5])
    ids, documents, positions = (np.zeros([2, LENGTH], np.int32) for _ in range(3))
    document = 0
    where = []
    for row, lengths in enumerate(packed_lengths):
        begin = 0
        for number, length in enumerate(lengths, 1):
            kept = slice(begin, begin + length)
            ids[row, kept] = alone["input_word_ids"][document, :length]
            documents[row, kept], positions[row, kept] = number, np.arange(length)
            where.append((row, kept, document, length))
            begin, document = begin + length, document + 1
    packed = {
        "input_word_ids": ids,
        "input_mask": (documents > 0).astype(np.int32),
        "input_type_ids": np.zeros_like(ids),
        "document_ids": documents,
        "position_ids": positions,
    }
    packed = {name: tf.constant(value) for name, value in packed.items()}
    together, single = (encoder(inputs)["sequence_output"].numpy() for inputs in (packed, alone))
    for row, kept, document, length in where:
        np.testing.assert_allclose(together[row, kept], single[document, :length], atol=1e-5)
    joined = encoder({name: packed[name] for name in NAMES})["sequence_output"].numpy()
    assert np.abs(joined[1, 3:17] - together[1, 3:17]).max() > 1e-2


def test_a_local_layer_sees_half_the_window_to_each_side():
    """The second of two layers is local; a change of one token reaches no token further away than 4."""
    shape = dataclasses.replace(SHAPES[0], num_layers=2, local_attention=8)
    encoder = build_encoder(shape)
    encoder(make_inputs([LENGTH]))
    block = encoder.transformer_layers[1]
    context = encoder._contexts(make_inputs([LENGTH]))[1]
    x = np.random.default_rng(0).normal(size=[1, LENGTH, shape.hidden_size]).astype(np.float32)
    changed = x.copy()
    changed[0, 12] += 1.0
    difference = np.abs(block(tf.constant(changed), *context) - block(tf.constant(x), *context)).max(axis=(0, 2))
    assert [index for index, value in enumerate(difference) if value > 0] == list(range(8, 17))


def random_weights(inputs):
    """Weights of outputs, of padding 0: what it becomes depends on rounding, for a window may hold nothing else."""
    weights = np.random.default_rng(3).normal(size=[len(LENGTHS), LENGTH, 36]).astype(np.float32)
    return weights * tf.cast(inputs["input_mask"], tf.float32)[:, :, tf.newaxis]


def output_and_gradients(remat, how, precision="float32"):
    tf_keras.mixed_precision.set_global_policy(precision)
    try:
        shape = dataclasses.replace(SHAPES[0], num_layers=2)
        encoder = build_encoder(shape, hidden_dropout=0.2, attention_dropout=0.2, remat=remat)
        inputs = make_inputs(LENGTHS)
        encoder(inputs)

        def run(inputs, seed):
            with tf.GradientTape() as tape:
                output = tf.cast(encoder(inputs, training=True, seed=seed)["sequence_output"], tf.float32)
                loss = tf.reduce_sum(output * random_weights(inputs))
            return output, [tf.convert_to_tensor(x) for x in tape.gradient(loss, encoder.trainable_variables)]

        compiled = tf.function(with_jit_regions(run, how == "regions"), jit_compile=how == "xla")
        return compiled(inputs, tf.constant([1, 2]))
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")


# Word table and norm; 5 weights of the first block, 6 of the other; final norm.
NUM_WEIGHTS = 2 + 5 + 6 + 1


@pytest.mark.parametrize(("how", "remat"), [("plain", True), ("regions", False), ("xla", True)])
def test_compiled_and_recomputed_it_is_the_same(how, remat):
    plain, other = output_and_gradients(False, "plain"), output_and_gradients(remat, how)
    kept = make_inputs(LENGTHS)["input_mask"].numpy().astype(bool)
    np.testing.assert_allclose(other[0][kept], plain[0][kept], atol=1e-5)
    assert len(plain[1]) == NUM_WEIGHTS
    for gradient, expected in zip(other[1], plain[1], strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_positions_become_no_literals_of_each_layer():
    shape = Shape(32, 1, num_layers=5, intermediate_size=8, local_attention=128)
    encoder = build_encoder(shape, attention="blockwise")
    ids = tf.ones([1, 1024], tf.int32)
    inputs = {"input_word_ids": ids, "input_mask": ids, "input_type_ids": 0 * ids}
    encoder(inputs)

    @tf.function(jit_compile=True, autograph=False)
    def gradients(inputs):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(inputs)["sequence_output"])
        return tape.gradient(loss, encoder.trainable_variables[0])

    # With literals 7.6 MB: distances of tokens to those that they might see, and angles, of each layer.
    assert len(gradients.experimental_get_compiler_ir(inputs)(stage="hlo_serialized")) < 1_200_000


def test_norms_softmax_and_rotation_stay_float32_in_other_precisions():
    wide, narrow = (output_and_gradients(False, "plain", name) for name in ("float32", "mixed_bfloat16"))
    assert 1e-4 < np.abs(narrow[0] - wide[0]).max() < 0.5
    assert all(np.isfinite(gradient).all() for gradient in narrow[1])


def test_gradients_are_those_of_finite_differences():
    encoder, inputs = build_encoder(SHAPES[0]), make_inputs(LENGTHS)
    encoder(inputs)
    weights = random_weights(inputs)

    def loss():
        return tf.reduce_sum(encoder(inputs)["sequence_output"] * weights)

    with tf.GradientTape() as tape:
        value = loss()
    variables = encoder.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True):
        gradient = tf.convert_to_tensor(gradient).numpy()
        original = variable.numpy()
        step = 1e-3 * gradient / np.linalg.norm(gradient)
        variable.assign(original + step)
        up = float(loss())
        variable.assign(original - step)
        down = float(loss())
        variable.assign(original)
        assert (up - down) / 2e-3 == pytest.approx(np.linalg.norm(gradient), rel=0.05), variable.name


def test_initial_weights_are_those_of_transformers():
    """Two deviations at most, and those into the residual stream smaller by sqrt(2 x layers)."""
    shape = dataclasses.replace(SHAPES[0], hidden_size=96, intermediate_size=128)
    encoder = build_encoder(shape)
    encoder(make_inputs([LENGTH]))
    head = encoder.new_prediction_head()
    head(tf.zeros([1, 96]))
    block, small = encoder.transformer_layers[1], 0.2 / np.sqrt(8)
    kernels = [(encoder.embeddings.word_embeddings, 0.2), (head.dense.kernel, small)]
    kernels += [(block.query_key_value.kernel, 0.2), (block.intermediate.kernel, 0.2)]
    kernels += [(block.attention_output.kernel, small), (block.output_dense.kernel, small)]
    for kernel, stddev in kernels:
        assert np.abs(kernel).max() == pytest.approx(2 * stddev, rel=0.01)
        assert np.std(kernel) == pytest.approx(0.88 * stddev, rel=0.03)
    oracle = build_oracle(shape).state_dict()
    for name, kernel in (("attn.Wqkv", kernels[2]), ("attn.Wo", kernels[4]), ("mlp.Wo", kernels[5])):
        theirs = oracle[f"model.layers.1.{name}.weight"].numpy()
        assert np.std(kernel[0]) == pytest.approx(theirs.std(), rel=0.03)


def test_config_makes_the_same_encoder():
    encoder, inputs = build_encoder(SHAPES[3], remat=True), make_inputs(LENGTHS)
    expected = encoder(inputs)["sequence_output"]
    copy = ModernEncoder.from_config(encoder.get_config())
    copy(inputs)
    for variable, value in zip(copy.variables, encoder.variables, strict=True):
        variable.assign(value)
    np.testing.assert_array_equal(copy(inputs)["sequence_output"], expected)
    assert copy.remat


@pytest.mark.parametrize(("hidden_size", "heads"), [(36, 4), (10, 4)])
def test_heads_without_halves_are_refused(hidden_size, heads):
    with pytest.raises(ValueError, match="no halves to rotate"):
        build_encoder(dataclasses.replace(SHAPES[0], hidden_size=hidden_size, num_attention_heads=heads))
