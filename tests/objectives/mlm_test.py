import numpy as np
import pytest
import tensorflow as tf

from electra_cli.modeling.fused import with_jit_regions
from electra_cli.objectives.mlm import masked_lm_loss


@pytest.mark.parametrize("jit_regions", [False, True])
def test_masked_lm_loss_and_gradient_equal_those_of_tensorflow(jit_regions):
    rng = np.random.default_rng(0)
    # Far from 0, where an exponential without its largest subtracted would overflow.
    logits = tf.constant(rng.normal(size=(2, 3, 50)) * 5 + [[[0.0], [200.0], [-200.0]]], tf.float32)
    ids, weights = tf.constant(rng.integers(0, 50, (2, 3)), tf.int32), tf.constant([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])

    def expected_loss(logits):
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits) * weights)

    def run(function, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = function(logits)
        return loss, tape.gradient(loss, logits)

    compute = with_jit_regions(lambda x: run(lambda x: masked_lm_loss(x, ids, weights)[0], x), jit_regions)
    loss, gradient = tf.function(compute)(logits)
    expected, expected_gradient = run(expected_loss, logits)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
    assert not gradient[0, 2].numpy().any()
    assert masked_lm_loss(logits, ids, weights)[1] == 5.0
