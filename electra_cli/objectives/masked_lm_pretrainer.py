"""`MaskedLMPretrainer`: BERT's masked language modeling, the baseline that ELECTRA is compared with."""

import tensorflow as tf
import tf_keras
from official.nlp.modeling.layers.masked_lm import MaskedLM

from electra_cli.modeling import features
from electra_cli.modeling.encoders import encode


class MaskedLMPretrainer(tf_keras.Model):
    """An encoder that predicts masked tokens (BERT, arXiv 1810.04805, section 3.1, without next-sentence prediction).

    Args:
      encoder_network: the encoder; as the networks of `ElectraPretrainer`.
      activation: activation of the masked-LM head.
      initializer: initializer of the head.
      name: name of the model.
    """

    def __init__(
        self,
        encoder_network: tf_keras.layers.Layer,
        activation,
        initializer: tf_keras.initializers.Initializer,
        name: str | None = None,
    ):
        super().__init__(name=name, autocast=False)
        self.encoder_network = encoder_network
        self.masked_lm = MaskedLM(
            embedding_table=encoder_network.get_embedding_table(),
            activation=activation,
            initializer=initializer,
            name="masked_lm",
        )

    def call(self, inputs, training=None, seed=None):
        """Predicts the masked tokens.

        Args:
          inputs: dict of int [batch, seq_length] `input_word_ids` (masked), `input_mask`, `input_type_ids`, and int
            [batch, num_token_predictions] `masked_lm_positions`.
          training: whether to drop out.
          seed: int32 [2] that dropout follows from; None: drawn from TensorFlow's global generator.

        Returns:
          Dict of `lm_outputs`, logits, float32 [batch, num_token_predictions, vocab_size].
        """
        encoded = encode(self.encoder_network, inputs, training, seed)
        return {"lm_outputs": tf.cast(self.masked_lm(encoded, inputs[features.MASKED_LM_POSITIONS]), tf.float32)}

    @property
    def checkpoint_items(self) -> dict[str, tf_keras.layers.Layer]:
        """What a checkpoint for fine-tuning holds: the encoder, as 'encoder'."""
        return {"encoder": self.encoder_network}
