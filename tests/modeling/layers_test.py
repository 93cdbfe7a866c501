import numpy as np
import tensorflow as tf
from scipy import special

from electra_cli.modeling import layers


def test_layer_norm():
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    layer = layers.LayerNorm()
    layer(x)
    layer.gamma.assign(np.arange(1.0, 9.0))
    layer.beta.assign(np.arange(8.0))
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    np.testing.assert_allclose(layer(x), normal * np.arange(1.0, 9.0) + np.arange(8.0), atol=2e-5)
    mixed = layers.LayerNorm(dtype="mixed_bfloat16")
    assert mixed(x).dtype == tf.bfloat16
    assert mixed.gamma.dtype == tf.float32


def test_embeddings_add_up():
    layer = layers.ElectraEmbeddings(11, 4, max_position_embeddings=6, type_vocab_size=2)
    word_ids, type_ids = np.array([[3, 0, 10]]), np.array([[0, 1, 1]])
    output = layer(tf.constant(word_ids), tf.constant(type_ids)).numpy()
    words, positions, types = (table.numpy() for table in layer.trainable_variables[:3])
    total = words[word_ids] + positions[:3] + types[type_ids]
    normal = (total - total.mean(-1, keepdims=True)) / np.sqrt(total.var(-1, keepdims=True) + 1e-12)
    np.testing.assert_allclose(output, normal, atol=1e-4)
    assert layers.ElectraEmbeddings.from_config(layer.get_config()).get_config() == layer.get_config()


def reference_block(block, x, mask):
    """The block in numpy, from its weights."""
    weights = {variable.name: variable.numpy() for variable in block.trainable_variables}

    def dense(value, name):
        kernel = next(weight for key, weight in weights.items() if f"{name}/kernel" in key)
        bias = next(weight for key, weight in weights.items() if f"{name}/bias" in key)
        return value @ kernel + bias

    def norm(value):
        return (value - value.mean(-1, keepdims=True)) / np.sqrt(value.var(-1, keepdims=True) + 1e-12)

    def heads(value):
        return value.reshape(*value.shape[:2], 2, -1).transpose(0, 2, 1, 3)

    query, key, value = (heads(part) for part in np.split(dense(x, "query_key_value"), 3, axis=-1))
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1]) - 10_000.0 * (1 - mask[:, None, None, :])
    context = (special.softmax(scores, -1) @ value).transpose(0, 2, 1, 3).reshape(x.shape)
    x = norm(x + dense(context, "attention_output"))
    inner = dense(x, "intermediate")
    inner = inner * 0.5 * (1 + special.erf(inner / np.sqrt(2)))
    return norm(x + dense(inner, "/output"))


def test_block_equals_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 8)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.float32)
    block = layers.TransformerBlock(8, 2, 16, 0.1, 0.1, initializer_range=0.5)
    output = block(tf.constant(x), -10_000.0 * (1 - mask)[:, None, None, :])
    np.testing.assert_allclose(output, reference_block(block, x, mask), atol=1e-5)


def test_block_drops_out_by_keys():
    x = tf.random.stateless_normal([2, 5, 8], [0, 0])
    scores = tf.zeros([2, 1, 1, 5])
    block = layers.TransformerBlock(8, 2, 16, 0.5, 0.5, initializer_range=0.5)
    keys = layers.dropout_keys(tf.constant([1, 2]), 4)
    first, again = (block(x, scores, keys=keys[:3]).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for index in range(3):
        changed = [keys[3] if index == other else keys[other] for other in range(3)]
        assert (first != block(x, scores, keys=changed).numpy()).any()
    assert (first != block(x, scores).numpy()).any()
