import numpy as np
import pytest

from electra_cli import api
from electra_cli.errors import UserError
from electra_cli.interop.runs import encode_texts
from tests.interop.common import TOKENS, make_workdir

TEXTS = ["The quick [MASK] jumps over [MASK].", "two minute", "is Brown city [MASK]?"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("api") / "run")


@pytest.fixture(scope="module")
def electra(workdir):
    return api.load(str(workdir))


def test_encoded_texts_are_the_layers_without_padding(electra):
    inputs = encode_texts(electra.run.tokenizer, TEXTS, 48)
    for role in ("discriminator", "generator"):
        expected = [np.asarray(state) for state in electra.run.hidden_states(role, inputs)]
        found = electra.encode(TEXTS, network=role, batch_size=2)
        assert found.tokens[1] == ["[CLS]", "two", "minute", "[SEP]"]
        for row, tokens in enumerate(found.tokens):
            layers = np.stack([state[row, : len(tokens)] for state in expected])
            np.testing.assert_allclose(found.layers[row], layers, atol=1e-5)
            np.testing.assert_allclose(found.sequence_output[row], layers[-1], atol=1e-5)
            np.testing.assert_allclose(found.first[row], layers[-1][0], atol=1e-5)
            np.testing.assert_allclose(found.mean[row], layers[-1].mean(0), atol=1e-5)


def test_replaced_tokens_are_the_discriminators(electra):
    inputs = encode_texts(electra.run.tokenizer, TEXTS, 48)
    logits = electra.run.logits("discriminator", electra.run.hidden_states("discriminator", inputs)[-1])
    found = electra.detect_replaced_tokens(TEXTS)
    assert [token.token for token in found[1]] == ["two", "minute"]
    for row, tokens in enumerate(found):
        expected = 1 / (1 + np.exp(-np.asarray(logits)[row, 1 : len(tokens) + 1]))
        np.testing.assert_allclose([token.replaced_probability for token in tokens], expected, atol=1e-6)


def test_masks_are_filled_by_the_generator(electra):
    found = electra.fill_mask(TEXTS, top_k=3, batch_size=1)
    assert [len(of_text) for of_text in found] == [2, 0, 1]
    inputs = encode_texts(electra.run.tokenizer, TEXTS, 48)
    encoded = electra.run.hidden_states("generator", inputs)[-1]
    logits = np.asarray(electra.run.logits("generator", encoded), np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for row, mask, place in ((0, 0, 3), (0, 1, 7), (2, 0, 4)):
        best = np.argsort(-probabilities[row, place])[:3]
        assert [filled.token for filled in found[row][mask]] == [TOKENS[index] for index in best]
        np.testing.assert_allclose(
            [filled.probability for filled in found[row][mask]], probabilities[row, place, best], rtol=1e-4
        )


def test_mistakes(electra, workdir, tmp_path):
    with pytest.raises(UserError, match="give a list of one text or more"):
        electra.encode("a text")
    for texts, message in (
        (iter(TEXTS), "give a list of one text or more"),
        (["a", None], r"texts\[1\]=None: must be a str"),
        ([b"a"], r"texts\[0\]=b'a': must be a str"),
    ):
        with pytest.raises(UserError, match=message):
            electra.encode(texts)
    with pytest.raises(UserError, match="batch_size=0: must be 1 or more"):
        electra.encode(TEXTS, batch_size=0)
    assert len(electra.fill_mask(["a [MASK]"], top_k=np.int64(2))[0][0]) == 2
    for top_k in (0, 2.5):
        with pytest.raises(UserError, match=f"top_k={top_k}: must be a whole number from 1 to 108"):
            electra.fill_mask(TEXTS, top_k=top_k)
    with pytest.raises(UserError, match="has no teacher; it has: discriminator, generator"):
        electra.encode(TEXTS, network="teacher")
    with pytest.raises(UserError, match=r"^path=.* holds no config\.json"):
        api.load(str(tmp_path))
    other = tmp_path / "vocab.txt"
    other.write_text("\n".join([*TOKENS, "more"]))
    with pytest.raises(UserError, match=r"has 109 tokens, the model of .* 108: give the one"):
        api.load(str(workdir), vocab_file=str(other))
    with pytest.raises(UserError, match=r"^checkpoint=.*nowhere: no such checkpoint or directory"):
        api.load(str(workdir), checkpoint=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"^checkpoint=.*best"):
        api.load(str(workdir), checkpoint="best")
    masked = api.load(str(make_workdir(tmp_path / "mlm", **{"objective.name": "mlm"})))
    with pytest.raises(UserError, match="has no discriminator; it has: generator"):
        masked.detect_replaced_tokens(TEXTS)
