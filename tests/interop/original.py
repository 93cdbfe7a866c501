"""The forward pass of google-research/electra in NumPy and float64, from weights under the names of its checkpoints."""

import numpy as np
import scipy.special

HPARAMS = {
    "embedding_size": 20,
    "generator_hidden_size": 0.5,
    "generator_layers": 2 / 3,
    "mask_prob": 0.25,
    "max_predictions_per_seq": 4,
    "max_seq_length": 16,
    "temperature": 1e-6,
    "vocab_size": 60,
    "model_hparam_overrides": {
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "hidden_size": 48,
        "intermediate_size": 80,
        "max_position_embeddings": 24,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
    },
}


def random_weights(seed: int) -> dict[str, np.ndarray]:
    """Weights of a model of `HPARAMS`, whose generator is 24 wide and has 2 layers, 1 head and a feed-forward of 96."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}

    def dense(scope: str, inputs: int, outputs: int) -> None:
        weights[f"{scope}/kernel"] = rng.normal(size=(inputs, outputs)) / np.sqrt(inputs)
        weights[f"{scope}/bias"] = rng.normal(size=outputs) * 0.3

    def layer_norm(scope: str, width: int) -> None:
        weights[f"{scope}/LayerNorm/gamma"] = rng.normal(size=width) * 0.3 + 1
        weights[f"{scope}/LayerNorm/beta"] = rng.normal(size=width) * 0.3

    for name, rows in (("word_embeddings", 60), ("position_embeddings", 24), ("token_type_embeddings", 2)):
        weights[f"electra/embeddings/{name}"] = rng.normal(size=(rows, 20))
    layer_norm("electra/embeddings", 20)
    for scope, hidden, intermediate, layers in (("electra", 48, 80, 3), ("generator", 24, 96, 2)):
        dense(f"{scope}/embeddings_project", 20, hidden)
        for index in range(layers):
            layer = f"{scope}/encoder/layer_{index}"
            for part in ("query", "key", "value"):
                dense(f"{layer}/attention/self/{part}", hidden, hidden)
            dense(f"{layer}/attention/output/dense", hidden, hidden)
            layer_norm(f"{layer}/attention/output", hidden)
            dense(f"{layer}/intermediate/dense", hidden, intermediate)
            dense(f"{layer}/output/dense", intermediate, hidden)
            layer_norm(f"{layer}/output", hidden)
    dense("generator_predictions/dense", 24, 20)
    layer_norm("generator_predictions", 20)
    weights["generator_predictions/output_bias"] = rng.normal(size=60)
    dense("discriminator_predictions/dense", 48, 48)
    dense("discriminator_predictions/dense_1", 48, 1)
    return weights


class Original:
    """Both networks and their heads."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self._weights = weights

    def masked_lm_logits(self, ids, mask, types, positions):
        """[batch, slots, vocabulary]."""
        encoded = np.take_along_axis(self.encode("generator", ids, mask, types, heads=1), positions[..., None], 1)
        hidden = self._layer_norm("generator_predictions", gelu(self._dense("generator_predictions/dense", encoded)))
        table = self._weights["electra/embeddings/word_embeddings"]
        return hidden @ table.T + self._weights["generator_predictions/output_bias"]

    def rtd_logits(self, ids, mask, types):
        """[batch, length]."""
        encoded = self.encode("electra", ids, mask, types, heads=3)
        hidden = gelu(self._dense("discriminator_predictions/dense", encoded))
        return self._dense("discriminator_predictions/dense_1", hidden)[..., 0]

    def encode(self, scope, ids, mask, types, heads):
        """[batch, length, width]."""
        tables = {name: self._weights[f"electra/embeddings/{name}_embeddings"] for name in ("word", "position")}
        x = tables["word"][ids] + tables["position"][: ids.shape[1]]
        x = self._layer_norm("electra/embeddings", x + self._weights["electra/embeddings/token_type_embeddings"][types])
        x = self._dense(f"{scope}/embeddings_project", x)
        index = 0
        while f"{scope}/encoder/layer_{index}/output/dense/kernel" in self._weights:
            layer = f"{scope}/encoder/layer_{index}"
            attended = self._dense(f"{layer}/attention/output/dense", self._attend(layer, x, mask, heads))
            x = self._layer_norm(f"{layer}/attention/output", x + attended)
            transformed = self._dense(f"{layer}/output/dense", gelu(self._dense(f"{layer}/intermediate/dense", x)))
            x = self._layer_norm(f"{layer}/output", x + transformed)
            index += 1
        return x

    def _attend(self, layer, x, mask, heads):
        batch, length, width = x.shape
        query, key, value = (
            self._dense(f"{layer}/attention/self/{part}", x).reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(width / heads) - 10_000.0 * (1 - mask[:, None, None, :])
        return (scipy.special.softmax(scores, axis=-1) @ value).transpose(0, 2, 1, 3).reshape(batch, length, width)

    def _dense(self, scope, x):
        return x @ self._weights[f"{scope}/kernel"] + self._weights[f"{scope}/bias"]

    def _layer_norm(self, scope, x):
        normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return normal * self._weights[f"{scope}/LayerNorm/gamma"] + self._weights[f"{scope}/LayerNorm/beta"]


def gelu(x):
    """The exact form."""
    return 0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2)))
