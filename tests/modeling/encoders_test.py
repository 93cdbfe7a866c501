import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.modeling.encoders import ElectraEncoder
from electra_cli.modeling.fused import with_jit_regions
from electra_cli.modeling.layers import ElectraEmbeddings
from tests.modeling.common import LENGTH, VOCAB_SIZE, make_inputs


def build_encoder(remat):
    tf_keras.utils.set_random_seed(0)
    embeddings = ElectraEmbeddings(VOCAB_SIZE, 8, LENGTH)
    encoder = ElectraEncoder(embeddings, 16, 3, 2, 32, 0.2, 0.2, 0.3, remat=remat)
    encoder(make_inputs())
    return encoder


def output_and_gradients(encoder, how):
    def run(inputs, seed):
        with tf.GradientTape() as tape:
            output = encoder(inputs, training=True, seed=seed)["sequence_output"]
            loss = tf.reduce_sum(output * tf.random.stateless_normal(tf.shape(output), [5, 6]))
        return output, [tf.convert_to_tensor(x) for x in tape.gradient(loss, encoder.trainable_variables)]

    compiled = tf.function(with_jit_regions(run, how == "regions"), jit_compile=how == "xla")
    return compiled(make_inputs(), tf.constant([1, 2]))


@pytest.mark.parametrize("how", ["plain", "regions", "xla"])
def test_recomputed_blocks_give_the_same_output_and_gradients(how):
    kept, recomputed = (output_and_gradients(build_encoder(remat), how) for remat in (False, True))
    np.testing.assert_array_equal(recomputed[0], kept[0])
    assert len(kept[1]) == 4 + 2 + 1 + 3 * 12
    for gradient, expected in zip(recomputed[1], kept[1], strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-6 * np.abs(expected).max(), rtol=0)


def test_recomputation_is_part_of_the_config():
    encoder = build_encoder(remat=True)
    assert ElectraEncoder.from_config(encoder.get_config()).remat
