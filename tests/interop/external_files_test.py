"""Foreign files that are damaged, or hold what no model has: one line with file and field, whatever the damage."""

import copy
import json
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import safetensors.numpy

from electra_cli import files
from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.data import inputs
from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.data.vocabulary import Vocabulary, WordRules
from electra_cli.errors import UserError
from electra_cli.interop import google_tf1, huggingface, huggingface_export, starting_points
from electra_cli.objectives.costs import EncoderSizes, expected_shapes
from tests.interop.common import TOKENS

# Without shrinking, which would take minutes: what fails is printed as it is.
MUTATIONS = settings(
    max_examples=200, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate]
)
SIZES = EncoderSizes(
    vocab_size=len(TOKENS), embedding_size=4, hidden_size=8, num_layers=3, num_attention_heads=2,
    intermediate_size=12, max_position_embeddings=16, type_vocab_size=2,
)  # fmt: skip
CONFIG = {
    "model_type": "electra", **huggingface.size_keys(SIZES), "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
}  # fmt: skip
HPARAMS = {"learning_rate": 5e-4, "mask_prob": 0.15, "vocab_size": len(TOKENS), "embedding_size": 4,
           "model_hparam_overrides": {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2,
                                      "intermediate_size": 12, "max_position_embeddings": 16}}  # fmt: skip


def weights_of(role, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in expected_shapes(role, SIZES).items()}


def tensors_of(role="discriminator", seed=0):
    return {
        huggingface.to_hf_name(name, role): np.ascontiguousarray(value.T if name.endswith("/kernel") else value)
        for name, value in weights_of(role, seed).items()
    }


def write_folder(folder, config=CONFIG, tensors=None, tokens=TOKENS, role="discriminator"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(tensors or tensors_of(role), folder / "model.safetensors")
    names = huggingface_export.tokenizer_files(TokenizerSettings(Vocabulary(tuple(tokens)), WordRules(True)), 16)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text(names[name])
    return folder


def write_torch(folder, tensors):
    write_folder(folder)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def torch_tensors():
    return {name: torch.tensor(value) for name, value in tensors_of().items()}


def write_google(folder):
    folder.mkdir()
    weights = {}
    for role, scope in (("discriminator", "electra/"), ("generator", "generator/")):
        for name, value in weights_of(role).items():
            weights[(f"{role}_" if name.startswith("predictions/") else scope) + name] = value
    google_tf1.write(weights, 3, str(folder / "model.ckpt-3"))
    (folder / "config.json").write_text(json.dumps(HPARAMS))
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return folder


def refusal(folder, format_name="huggingface", **arguments):
    with pytest.raises(UserError) as caught:
        starting_points.read_source(format_name, str(folder), **arguments)
    text = str(caught.value)
    assert "\n" not in text and str(folder) in text
    return text


def is_read_or_refused(folder, format_name="huggingface"):
    """Whether a source is read; what is not read must be refused in a line that names a file of it."""
    try:
        external = starting_points.read_source(format_name, str(folder))
    except UserError as error:
        assert str(folder) in str(error) and "\n" not in str(error) and len(str(error)) < 1000
        return False
    assert external.discriminator.sizes.num_layers == 3 and external.discriminator.sizes.hidden_size == 8
    return True


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([10**400, 2**63, -1, 0, 1e300])
    | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)  # fmt: skip


def places_of(value):
    """Yields the path of each value in a JSON document; of long lists and objects, of the first and the last three."""
    entries = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, child in entries if len(entries) < 12 else entries[:3] + entries[-3:]:
        yield (key,)
        yield from ((key, *path) for path in places_of(child))


def mutated(document, data):
    """Returns a document with one to three of its values replaced, or removed."""
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(list(places_of(document)) or [("new",)]))
        target = document
        for key in path:
            target = target[key]
        if data.draw(st.booleans()):
            target[last] = data.draw(VALUES)
        else:
            del target[last]
        if not document:
            break
    return document


def mutated_bytes(content, data):
    """Returns bytes with some replaced, or cut."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(0, 4))):
        changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(content)))
    return bytes(changed[:cut])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json",
                                  "model.safetensors.index.json"])  # fmt: skip
def test_json_of_any_content_is_read_or_refused_in_a_line(tmp_path, name):
    folder = write_folder(tmp_path / "model")
    if "index" in name:
        os.rename(folder / "model.safetensors", folder / "part.safetensors")
        (folder / name).write_text(json.dumps({"weight_map": dict.fromkeys(tensors_of(), "part.safetensors")}))
    document = json.loads((folder / name).read_text())
    assert is_read_or_refused(folder)
    outcomes = set()

    @MUTATIONS
    @given(st.data())
    def check(data):
        (folder / name).write_text(json.dumps(mutated(document, data)))
        outcomes.add(is_read_or_refused(folder))

    check()
    assert outcomes == (
        {True} if "tokenizer" in name else {True, False}
    )  # other tokenizers are refused where text is read


@pytest.mark.slow
def test_hyperparameters_of_any_content_are_read_or_refused_in_a_line(tmp_path):
    folder = write_google(tmp_path / "google")
    assert is_read_or_refused(folder, "google_tf1")

    @MUTATIONS
    @given(st.data())
    def check(data):
        (folder / "config.json").write_text(json.dumps(mutated(HPARAMS, data)))
        is_read_or_refused(folder, "google_tf1")

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "torch", "google_index", "google_data", "config", "tokenizer"])
def test_damaged_bytes_are_read_or_refused_in_a_line(tmp_path, kind):
    folder = tmp_path / "model"
    if kind.startswith("google"):
        write_google(folder)
    elif kind == "torch":
        write_torch(folder, torch_tensors())
    else:
        write_folder(folder)
    names = {
        "safetensors": "model.safetensors", "torch": "pytorch_model.bin", "google_index": "model.ckpt-3.index",
        "google_data": "model.ckpt-3.data-00000-of-00001", "config": "config.json", "tokenizer": "tokenizer.json",
    }  # fmt: skip
    file, format_name = folder / names[kind], "google_tf1" if kind.startswith("google") else "huggingface"
    content = file.read_bytes()
    assert is_read_or_refused(folder, format_name)

    @MUTATIONS
    @given(st.data())
    def check(data):
        file.write_bytes(mutated_bytes(content, data))
        is_read_or_refused(folder, format_name)

    check()


TENSORS = {
    "parameter": lambda value: torch.nn.Parameter(value),
    "sparse": lambda value: value.to_sparse(),
    "meta": lambda value: value.to("meta"),
    "quantized": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "without strides": lambda value: torch.zeros(1).expand(1 << 33),
    "of no dimension": lambda value: value.sum(),
    "flat": lambda value: value.flatten(),
    "of rank 3": lambda value: value.unsqueeze(0),
    "empty": lambda value: value[:0],
    "of integers": lambda value: value.long(),
    "complex": lambda value: value.to(torch.complex64),
    "bfloat16": lambda value: value.bfloat16(),
    "too large": lambda value: value.double() * 1e300,
    "not finite": lambda value: value * float("nan"),
    "a number": lambda value: 3.0,
    "none": lambda value: None,
}


@pytest.mark.slow
def test_tensors_of_any_kind_are_read_or_refused_in_a_line(tmp_path, monkeypatch):
    # To pickle a quantized tensor, Python looks for its scheme in all modules: these import theirs when looked at.
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    tensors = torch_tensors()
    folder = write_torch(tmp_path / "model", tensors)

    @MUTATIONS
    @given(st.dictionaries(st.sampled_from(sorted(tensors)), st.sampled_from(sorted(TENSORS)), min_size=1, max_size=2))
    def check(kinds):
        changed = {name: TENSORS[kind](tensors[name]) for name, kind in kinds.items()}
        torch.save({**tensors, **changed}, folder / "pytorch_model.bin")
        # A bias may be flattened, a tensor of the head's may be missing with all of it: those are read.
        if is_read_or_refused(folder):
            assert set(kinds.values()) <= {"parameter", "bfloat16", "flat"}

    check()


def test_parameters_are_read_as_their_values(tmp_path):
    tensors = torch_tensors()
    folder = write_torch(tmp_path / "model", {name: torch.nn.Parameter(value) for name, value in tensors.items()})
    external = starting_points.read_source("huggingface", str(folder))
    for name, value in weights_of("discriminator").items():
        np.testing.assert_array_equal(external.discriminator.weights[name], value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("sparse", "is sparse, quantized or without data"), ("meta", "is sparse, quantized or without data"),
     ("without strides", "of shape [8589934592] is larger than its data"),
     ("of no dimension", "embeddings/word_embeddings has shape [], which is no table of numbers"),
     ("of rank 3", "embeddings/word_embeddings has shape [1, 108, 4]"),
     ("not finite", "embeddings/word_embeddings is NaN or infinite in float32"),
     ("too large", "embeddings/word_embeddings is NaN or infinite in float32")],
)  # fmt: skip
def test_a_tensor_that_is_no_weight_is_named(tmp_path, kind, message):
    tensors, name = torch_tensors(), "electra.embeddings.word_embeddings.weight"
    text = refusal(write_torch(tmp_path / "model", {**tensors, name: TENSORS[kind](tensors[name])}))
    assert message in text


@pytest.mark.parametrize(
    ("change", "message"),
    [({"hidden_dropout_prob": None}, "hidden_dropout_prob is None: must be a number"),
     ({"hidden_dropout_prob": "abc"}, "hidden_dropout_prob is 'abc': must be a number"),
     ({"initializer_range": float("inf")}, "initializer_range is inf: must be a finite number"),
     ({"num_attention_heads": "2"}, "num_attention_heads is '2', where a value of type int belongs"),
     ({"is_decoder": True}, "is_decoder is True; this program computes attention to both sides only"),
     ({"add_cross_attention": True}, "add_cross_attention is True; this program computes attention within one text")],
)  # fmt: skip
def test_a_field_that_will_not_do_is_named(tmp_path, change, message):
    text = refusal(write_folder(tmp_path / "model", {**CONFIG, **change}))
    assert f"{tmp_path}/model/config.json: {message}" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [({"learning_rate": float("inf")}, "learning_rate is inf: must be a finite number"),
     ({"mask_prob": "abc"}, "mask_prob is 'abc': must be a number"),
     ({"model_hparam_overrides": {"num_hidden_layers": "3"}},
      "num_hidden_layers is '3': must be a whole number"),
     ({"model_hparam_overrides": [1]}, "model_hparam_overrides is a list, where a value of type dict belongs")],
)  # fmt: skip
def test_a_hyperparameter_that_will_not_do_is_named(tmp_path, change, message):
    folder = write_google(tmp_path / "google")
    (folder / "config.json").write_text(json.dumps({**HPARAMS, **change}))
    assert message in refusal(folder, "google_tf1")


def test_a_tokenizer_without_added_tokens_is_read(tmp_path):
    folder = write_folder(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    del tokenizer["added_tokens"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert starting_points.read_source("huggingface", str(folder)).vocabulary.tokens == TOKENS


@pytest.mark.parametrize("value", ["7", None, [], 7.0, True])
def test_an_id_of_an_added_token_that_is_no_number_is_refused(tmp_path, value):
    folder = write_folder(tmp_path / "model")
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    (folder / "added_tokens.json").write_text(json.dumps({"[E1]": value}))
    assert "added_tokens.json: the id of the token '[E1]' is no whole number: copy it again" in refusal(folder)


def test_json_nested_too_deeply_is_refused(tmp_path):
    folder = write_folder(tmp_path / "model")
    (folder / "config.json").write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")
    assert "config.json is no JSON: its lists and objects are nested too deeply" in refusal(folder)
    with pytest.raises(ValueError, match="nested too deeply"):
        files.parse_json("[" * 100_000)


_NAMES = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "added_tokens.json",
]


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("kind", ["FIFO", "broken link"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, name, kind):
    folder = write_folder(tmp_path / "model")
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name) if kind == "FIFO" else (folder / name).symlink_to("nowhere")
    state = "is no regular file" if kind == "FIFO" else "is a broken link"
    assert f"{name} {state}" in refusal(folder)


@pytest.mark.parametrize("name", ["model.ckpt-3.index", "model.ckpt-3.data-00000-of-00001", "config.json"])
def test_a_checkpoint_with_a_fifo_is_not_opened(tmp_path, name):
    folder = write_google(tmp_path / "google")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"{name} is no regular file" in refusal(folder, "google_tf1")


@pytest.mark.parametrize("wrong", ["../model.safetensors", 3, None, ["a"]])
def test_a_shard_outside_the_folder_is_refused(tmp_path, wrong):
    folder = write_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {**dict.fromkeys(tensors_of(), "a"), "electra.x": wrong}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "the weight_map of electra.x names no file of this folder" in refusal(folder)


@pytest.mark.parametrize("lost", ["encoder.layer.1.", "encoder.layer.1.output.dense.weight"])
def test_a_lost_layer_is_named_where_the_config_does_not_count_them(tmp_path, lost):
    tensors = {name: value for name, value in tensors_of().items() if lost not in name}
    config = {name: value for name, value in CONFIG.items() if name != "num_hidden_layers"}
    text = refusal(write_folder(tmp_path / "model", config, tensors))
    assert "has weights of layer" in text and "encoder/layer_1/output/dense/kernel is missing" in text


def test_a_checkpoint_without_its_first_layer_is_refused(tmp_path):
    folder = write_google(tmp_path / "google")
    weights = google_tf1.read_weights(str(folder / "model.ckpt-3"))
    shutil.rmtree(folder)
    folder.mkdir()
    kept = {name: value for name, value in weights.items() if "layer_0" not in name}
    google_tf1.write(kept, 3, str(folder / "model.ckpt-3"))
    assert "encoder/layer_0/output/dense/kernel is missing" in refusal(folder, "google_tf1")
    google_tf1.write(
        {"electra/embeddings/word_embeddings": np.zeros([9, 4], np.float32)}, 3, str(folder / "model.ckpt-3")
    )
    assert "holds the layers of no network" in refusal(folder, "google_tf1")


def test_networks_of_different_vocabularies_of_one_size_are_refused(tmp_path):
    write_folder(tmp_path / "one")
    tokens = (*TOKENS[:-2], TOKENS[-1], TOKENS[-2])
    write_folder(tmp_path / "other", tokens=tokens, role="generator")
    text = refusal(tmp_path / "one", generator_source=str(tmp_path / "other"))
    assert f"token {len(TOKENS) - 2} is {TOKENS[-2]!r} there, {TOKENS[-1]!r} here" in text
    write_folder(tmp_path / "same", role="generator")
    external = starting_points.read_source(
        "huggingface", str(tmp_path / "one"), generator_source=str(tmp_path / "same")
    )
    assert external.generator.role == "generator"


@pytest.mark.parametrize("kind", ["FIFO", "broken link"])
def test_a_directory_of_text_with_what_is_no_file_is_refused(tmp_path, kind):
    (tmp_path / "a.txt").write_text("text\n")
    path: pathlib.Path = tmp_path / "b.txt"
    os.mkfifo(path) if kind == "FIFO" else path.symlink_to("nowhere")
    state = "is a pipe or device" if kind == "FIFO" else "is a broken link"
    with pytest.raises(UserError, match=f"b.txt {state}"):
        inputs.list_files(str(tmp_path))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_learning_rate_must_be_finite(value):
    config = default_config()
    config.data.dir, config.optimizer.learning_rate = "data", value
    with pytest.raises(UserError, match=r"config\.optimizer\.learning_rate=.*: must be a finite number"):
        resolve(config, 100)
    config.optimizer.learning_rate, config.phases.num_steps = 1e-3, (config.train.num_steps - 1, 1)
    config.phases.learning_rate = (1e-3, value)
    with pytest.raises(UserError, match=r"in phase 2 of 2 .*must be a finite number"):
        resolve(config, 100)
