"""Folders of transformers, both ways, with transformers itself as the other implementation."""

import json
import pathlib
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import safetensors.numpy

from electra_cli.data.tokenization import Tokenizer, TokenizerSettings
from electra_cli.data.vocabulary import Vocabulary, WordRules
from electra_cli.errors import UserError
from electra_cli.interop import exporting, huggingface, huggingface_export, importing, starting_points
from electra_cli.interop.graph_tokenization import GraphTokenizer
from electra_cli.interop.runs import load_run, unpadded_rows
from tests.interop.common import TOKENS, make_run, random_inputs, write_vocabulary

_SIZES = ("embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
TINY = dict(zip(_SIZES, (8, 8, 1, 2, 16), strict=True))
SMALL = dict(zip(_SIZES, (32, 64, 3, 4, 128), strict=True))
ODD = {**dict(zip(_SIZES, (5, 21, 1, 3, 11), strict=True)), "type_vocab_size": 3, "max_position_embeddings": 37}
# The discriminator's sizes and the generator's.
SHAPES = {
    "tiny": (TINY, TINY),
    "small": (SMALL, SMALL | {"hidden_size": 16, "num_attention_heads": 1, "intermediate_size": 64}),
    "small, generator of full width": (SMALL, SMALL),
    "odd": (ODD, ODD | {"hidden_size": 12, "num_attention_heads": 4, "num_hidden_layers": 2}),
}


def hf_config(sizes):
    return transformers.ElectraConfig(vocab_size=len(TOKENS), hidden_dropout_prob=0.0, initializer_range=0.2, **sizes)


def save(model, directory, seed=0):
    """Gives a model random weights, biases too, and saves it with its tokenizer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    model.save_pretrained(directory)
    files = huggingface_export.tokenizer_files(TokenizerSettings(Vocabulary(TOKENS), WordRules(True)), 512)
    for name, content in files.items():
        (pathlib.Path(directory) / name).write_text(content)
    return model.eval()


def make_pair(root, shape, seed=0):
    sizes, generator_sizes = SHAPES[shape]
    discriminator = transformers.ElectraForPreTraining(hf_config(sizes))
    generator = transformers.ElectraForMaskedLM(hf_config(generator_sizes))
    save(discriminator, root / "discriminator", seed)
    save(generator, root / "generator", seed + 1)
    return discriminator, generator


def import_from(source, output, notice=lambda _: None, generator_source=None, **changes):
    external = starting_points.read_source(
        "huggingface", str(source), generator_source=generator_source and str(generator_source)
    )
    arguments = {"vocab_file": None, "lower_case": None, "generator_size": 0.25, "overwrite": False, **changes}
    importing.import_external(external, "huggingface", str(output), notice=notice, **arguments)
    return load_run(str(output), notice=lambda _: None)


def compute(model, inputs):
    with torch.no_grad():
        return model(
            torch.tensor(inputs["input_word_ids"], dtype=torch.long),
            attention_mask=torch.tensor(inputs["input_mask"], dtype=torch.long),
            token_type_ids=torch.tensor(inputs["input_type_ids"], dtype=torch.long),
            output_hidden_states=True,
        )


def largest(first, second, inputs):
    real = inputs["input_mask"].astype(bool)
    return np.abs(np.asarray(first) - np.asarray(second))[real].max()


def same_tensors(first, second):
    one, other = (
        safetensors.numpy.load_file(str(pathlib.Path(path) / "model.safetensors")) for path in (first, second)
    )
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.parametrize("shape", SHAPES)
def test_imported_networks_compute_what_transformers_does_and_go_back_bit_for_bit(tmp_path, shape):
    discriminator, generator = make_pair(tmp_path, shape)
    run = import_from(tmp_path / "discriminator", tmp_path / "ours", generator_source=tmp_path / "generator")
    inputs = random_inputs(len(TOKENS))
    for role, model in (("discriminator", discriminator), ("generator", generator)):
        expected = compute(model, inputs)
        states = run.hidden_states(role, inputs)
        assert len(states) == len(expected.hidden_states) - 1
        for ours, theirs in zip(states, expected.hidden_states[1:], strict=True):
            assert largest(ours, theirs, inputs) < 5e-5
        assert float(expected.logits.std()) > 0.05  # figures that could differ
        assert largest(run.logits(role, states[-1]), expected.logits, inputs) < 1e-4
    exporting.export_run(run, "huggingface", "both", str(tmp_path / "back"), overwrite=False)
    for role in ("discriminator", "generator"):
        assert same_tensors(tmp_path / role, tmp_path / "back" / role)
        theirs, ours = (json.loads((path / role / "config.json").read_text()) for path in (tmp_path, tmp_path / "back"))
        for key in ("architectures", "model_type", "hidden_act", "hidden_dropout_prob", *ODD):
            assert ours[key] == theirs[key], key


def test_embeddings_that_the_pair_shares_are_shared(tmp_path):
    discriminator, generator = make_pair(tmp_path, "small")
    generator.electra.embeddings.load_state_dict(discriminator.electra.embeddings.state_dict())
    generator.save_pretrained(tmp_path / "generator")
    run = import_from(tmp_path / "discriminator", tmp_path / "ours", generator_source=tmp_path / "generator")
    assert run.config.model.embedding_sharing == "all"
    assert run.model.generator_network.embeddings is run.model.discriminator_network.embeddings
    generator.electra.embeddings.position_embeddings.weight.data[3] += 1
    generator.save_pretrained(tmp_path / "generator")
    run = import_from(tmp_path / "discriminator", tmp_path / "word", generator_source=tmp_path / "generator")
    assert run.config.model.embedding_sharing == "word"
    expected = compute(generator, random_inputs(len(TOKENS)))
    states = run.hidden_states("generator", random_inputs(len(TOKENS)))
    assert largest(states[-1], expected.hidden_states[-1], random_inputs(len(TOKENS))) < 2e-5


def test_a_discriminator_alone_gets_a_new_generator(tmp_path):
    make_pair(tmp_path, "small")
    lines = []
    run = import_from(tmp_path / "discriminator", tmp_path / "ours", lines.append, generator_size=0.5)
    assert run.config.derived.generator_hidden_size == 32
    text = "\n".join(lines)
    assert "Discriminator: 3 layers, width 64, 4 heads, feed-forward 128, embeddings 32, 108 tokens" in text
    assert "Missing: generator." in text and "Unexpected, left out: nothing." in text
    assert "Freshly initialized: generator (48 weights), generator_predictions (5 weights)." in text
    assert "no generator in the source: a new one is made" in text
    again = import_from(tmp_path / "discriminator", tmp_path / "again", generator_size=0.5)
    for first, second in zip(run.model.variables, again.model.variables, strict=True):
        np.testing.assert_array_equal(first, second)  # what is made new follows from the seed


def test_a_generator_alone_is_a_masked_language_model(tmp_path):
    _, generator = make_pair(tmp_path, "small")
    run = import_from(tmp_path / "generator", tmp_path / "ours")
    assert run.config.objective.name == "mlm" and run.roles == ["generator"]
    inputs = random_inputs(len(TOKENS))
    logits = run.logits("generator", run.hidden_states("generator", inputs)[-1])
    assert largest(logits, compute(generator, inputs).logits, inputs) < 1e-4
    exporting.export_run(run, "huggingface", "generator", str(tmp_path / "back"), overwrite=False)
    assert same_tensors(tmp_path / "generator", tmp_path / "back")
    with pytest.raises(UserError, match="has no discriminator; give --network=generator"):
        exporting.export_run(run, "huggingface", "both", str(tmp_path / "never"), overwrite=False)


@pytest.mark.parametrize("kind", ["BertModel", "BertForPreTraining"])
def test_bert_becomes_a_discriminator_without_head(tmp_path, kind):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = getattr(transformers, kind)(transformers.BertConfig(vocab_size=len(TOKENS), **sizes))
    save(model, tmp_path / "bert")
    lines = []
    run = import_from(tmp_path / "bert", tmp_path / "ours", lines.append)
    inputs = random_inputs(len(TOKENS))
    expected = compute(model.eval(), inputs)
    assert largest(run.hidden_states("discriminator", inputs)[-1], expected.hidden_states[-1], inputs) < 2e-5
    text = "\n".join(lines)
    assert "Missing: discriminator_predictions (2 weights), generator." in text
    assert "pooler" in text if kind == "BertModel" else "cls" in text
    assert "discriminator_predictions (4 weights)" in text


def test_an_encoder_without_heads_and_a_tokenizer_in_one_file(tmp_path):
    model = save(transformers.ElectraModel(hf_config(SMALL)), tmp_path / "saved")
    assert "embeddings.word_embeddings.weight" in safetensors.numpy.load_file(tmp_path / "saved" / "model.safetensors")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "saved" / "vocab.txt").unlink()
    (tmp_path / "saved" / "tokenizer.json").write_text((tmp_path / "tokenizer" / "tokenizer.json").read_text())
    run = import_from(tmp_path / "saved", tmp_path / "ours")
    assert run.tokenizer.vocabulary.tokens == TOKENS and run.tokenizer.rules.lower_case
    inputs = random_inputs(len(TOKENS))
    states = run.hidden_states("discriminator", inputs)
    assert largest(states[-1], compute(model, inputs).hidden_states[-1], inputs) < 5e-5


@pytest.mark.parametrize("has_tokenizer_file", [False, True])
def test_tokens_that_were_added_to_a_vocabulary(tmp_path, has_tokenizer_file):
    config = hf_config(SMALL)
    config.vocab_size += 2
    model, size = save(transformers.ElectraModel(config), tmp_path / "saved"), len(TOKENS)
    added = {"covid": size + 1, "[E1]": size, "[MASK]": TOKENS.index("[MASK]")}
    if has_tokenizer_file:
        file = tmp_path / "saved" / "tokenizer.json"
        transformers.AutoTokenizer.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "tokenizer")
        content = json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())
        content["added_tokens"] += [{**content["added_tokens"][0], "content": token, "id": added[token]}
                                    for token in ("[E1]", "covid")]  # fmt: skip
        file.write_text(json.dumps(content))
    else:
        (tmp_path / "saved" / "added_tokens.json").write_text(json.dumps(added))
    lines = []
    run = import_from(tmp_path / "saved", tmp_path / "ours", lines.append)
    assert run.tokenizer.vocabulary.tokens == (*TOKENS, "[E1]", "covid")
    assert list(run.tokenizer.build().encode("Covid")) == [size + 1]
    assert any(line.startswith("Added tokens: 2, the first '[E1]'.") for line in lines)
    inputs = random_inputs(size + 2)
    states = run.hidden_states("discriminator", inputs)
    assert largest(states[-1], compute(model, inputs).hidden_states[-1], inputs) < 5e-5


def test_added_tokens_with_gaps_are_refused(tmp_path):
    save(transformers.ElectraModel(hf_config(TINY)), tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"new": len(TOKENS) + 1}))
    assert (
        "the id of the added token 'new' is 109, and 108 in transformers" in huggingface.read(str(tmp_path)).unsupported
    )


def test_names_of_old_versions(tmp_path):
    discriminator, _ = make_pair(tmp_path, "tiny")
    tensors = safetensors.numpy.load_file(tmp_path / "discriminator" / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    old["electra.embeddings.position_ids"] = np.arange(512)
    safetensors.numpy.save_file(old, tmp_path / "discriminator" / "model.safetensors")
    run = import_from(tmp_path / "discriminator", tmp_path / "ours")
    inputs = random_inputs(len(TOKENS))
    states = run.hidden_states("discriminator", inputs)
    assert largest(states[-1], compute(discriminator, inputs).hidden_states[-1], inputs) < 5e-5
    report = json.loads((tmp_path / "ours" / "import.json").read_text())
    assert report["unexpected"] == [] and report["missing"] == ["generator"]


def test_a_head_with_a_table_of_its_own_is_refused(tmp_path):
    make_pair(tmp_path, "tiny")
    tensors = safetensors.numpy.load_file(tmp_path / "generator" / "model.safetensors")
    table = tensors["electra.embeddings.word_embeddings.weight"]
    tensors["generator_lm_head.weight"] = table.copy()
    safetensors.numpy.save_file(tensors, tmp_path / "generator" / "model.safetensors")
    huggingface.read(str(tmp_path / "generator"))
    tensors["generator_lm_head.weight"][3, 2] += 1
    safetensors.numpy.save_file(tensors, tmp_path / "generator" / "model.safetensors")
    with pytest.raises(UserError, match="the head's table is not the word table"):
        huggingface.read(str(tmp_path / "generator"))


def test_files_of_pytorch_are_read_and_code_in_them_is_not_run(tmp_path):
    discriminator, _ = make_pair(tmp_path, "tiny")
    folder = tmp_path / "discriminator"
    (folder / "model.safetensors").unlink()
    torch.save(discriminator.state_dict(), folder / "pytorch_model.bin")
    run = import_from(folder, tmp_path / "ours")
    inputs = random_inputs(len(TOKENS))
    states = run.hidden_states("discriminator", inputs)
    assert largest(states[-1], compute(discriminator, inputs).hidden_states[-1], inputs) < 2e-5

    class Evil:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "touched",))

    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds more than tensors, which is not unpickled"):
        huggingface.read(str(folder))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="pytorch_model"):
        huggingface.read(str(folder))
    assert not (tmp_path / "touched").exists()


def test_half_precision_and_shards(tmp_path):
    discriminator, _ = make_pair(tmp_path, "small")
    whole = huggingface.read(str(tmp_path / "discriminator")).discriminator.weights
    discriminator.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    shards = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    assert len(shards) > 2
    read = huggingface.read(str(tmp_path / "shards")).discriminator.weights
    assert read.keys() == whole.keys()
    assert all(np.array_equal(read[name], whole[name]) for name in whole)
    shards[1].unlink()
    with pytest.raises(UserError, match=rf"holds {len(shards) - 1} of {len(shards)} shards: {shards[1].name} is miss"):
        huggingface.read(str(tmp_path / "shards"))
    discriminator.half().save_pretrained(tmp_path / "half")
    external = huggingface.read(str(tmp_path / "half"))
    assert external.notices == ["Weights of type float16 became float32."]
    for name, value in external.discriminator.weights.items():
        np.testing.assert_array_equal(value, whole[name].astype(np.float16).astype(np.float32))
    discriminator.bfloat16().save_pretrained(tmp_path / "bfloat16")
    external = huggingface.read(str(tmp_path / "bfloat16"))
    assert external.notices == ["Weights of type bfloat16 became float32."]
    for name, value in external.discriminator.weights.items():
        np.testing.assert_allclose(value, whole[name], rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'; electra, bert and modernbert can be imported"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; this program computes the exact GELU only"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05"),
        ({"hidden_size": 32}, "hidden_size is 32, the weights have 64"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2, the weights have 3"),
        ({"num_attention_heads": 5}, "width 64 cannot have 5 heads"),
        ({"num_attention_heads": None}, "num_attention_heads is None, not a number"),
    ],
)
def test_configs_that_contradict_weights_or_ask_for_other_layers(tmp_path, change, message):
    make_pair(tmp_path, "small")
    file = tmp_path / "discriminator" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        starting_points.read_source("huggingface", str(tmp_path / "discriminator"))


def test_folders_that_will_not_do(tmp_path):
    make_pair(tmp_path, "tiny")
    folder = tmp_path / "discriminator"
    with pytest.raises(UserError, match="nowhere: no such directory"):
        huggingface.read(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"holds no config\.json"):
        huggingface.read(str(tmp_path))
    with pytest.raises(UserError, match="must be a discriminator"):
        starting_points.read_source("huggingface", str(folder), generator_source=str(folder))
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    cut = {name: value for name, value in tensors.items() if "layer.0.output.dense.bias" not in name}
    safetensors.numpy.save_file(cut, folder / "model.safetensors")
    with pytest.raises(UserError, match="1 weights of the discriminator are missing, such as encoder/layer_0/output"):
        starting_points.read_source("huggingface", str(folder))
    content = (tmp_path / "generator" / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        huggingface.read(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        huggingface.read(str(folder))


def test_a_vocabulary_of_another_size_leaves_nothing(tmp_path):
    make_pair(tmp_path, "tiny")
    other = tmp_path / "other.txt"
    other.write_text("\n".join((*TOKENS, "more")) + "\n")
    with pytest.raises(UserError, match=r"has 109 tokens, the word table 108: .* of at most 108 tokens, --vocab_file"):
        import_from(tmp_path / "discriminator", tmp_path / "ours", vocab_file=str(other))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["discriminator", "generator", "other.txt"]


def test_what_was_trained_is_exported_with_card_and_tokenizer(tmp_path):
    run = make_run(tmp_path / "run", **{"optimizer.ema_decay": 0.9})
    assert run.is_averaged and run.step == 7
    assert exporting.export_run(run, "huggingface", "discriminator", str(tmp_path / "out"), overwrite=False) < 1e-5
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| weights (moving averages of them) | after 7 of 1,000,000 steps |" in card
    assert "| held-out, step 5 | |" in card and "| rtd_auc | 0.6250 |" in card
    plain = load_run(str(tmp_path / "run"), averaged=False, notice=lambda _: None)
    exporting.export_run(plain, "huggingface", "discriminator", str(tmp_path / "plain"), overwrite=False)
    assert not same_tensors(tmp_path / "out", tmp_path / "plain")
    model = transformers.AutoModel.from_pretrained(tmp_path / "out")
    assert type(model).__name__ == "ElectraModel"


@pytest.mark.parametrize("lower_case", [True, False])
def test_the_exported_tokenizer_makes_the_tokens_of_training(tmp_path, lower_case):
    write_vocabulary(tmp_path)
    for name, content in huggingface_export.tokenizer_files(
        TokenizerSettings(Vocabulary(TOKENS), WordRules(lower_case)), 512
    ).items():
        (tmp_path / name).write_text(content)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer(Vocabulary(TOKENS), WordRules(lower_case))
    texts = [*exporting.sample_texts(Vocabulary(TOKENS)), "Ça va?\u200b Ünïcode\tΣΑΣ \x07x", "a" * 101, ""]
    for text in texts:
        if "[MASK]" not in text:  # a token of its own there, text in training
            assert theirs(text, add_special_tokens=False)["input_ids"] == list(ours.encode(text)), text
    assert theirs("the fox", "a dog")["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    assert theirs.model_max_length == 512 and theirs.mask_token_id == 4


WORDS = ("möchte", "mochte", "大学", "大", "学", "Möchte")
TEXTS = ["möchte MÖCHTE Möchte", "大学 the fox", "a" * 101 + " the"]


def write_tokenizer(directory, settings, **tokenizer):
    """Replaces the tokenizer of a saved model by one with `WORDS`, and settings that may be other than BERT's."""
    tokens = (*TOKENS[: -len(WORDS)], *WORDS)
    for name in ("tokenizer.json", "special_tokens_map.json"):
        (directory / name).unlink()
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    if tokenizer:
        model = {"type": "WordPiece", "vocab": {token: index for index, token in enumerate(tokens)}}
        (directory / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": [], **tokenizer}))


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": False, "strip_accents": None, "tokenize_chinese_chars": False},
        {},
    ],
)
def test_settings_of_a_tokenizer_go_with_the_model(tmp_path, settings):
    make_pair(tmp_path, "tiny")
    write_tokenizer(tmp_path / "discriminator", settings)
    notices = []
    run = import_from(tmp_path / "discriminator", tmp_path / "ours", notices.append)
    exporting.export_run(run, "huggingface", "discriminator", str(tmp_path / "out"), overwrite=False)
    theirs = [transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("discriminator", "out")]
    expected = [theirs[0](text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert [theirs[1](text, add_special_tokens=False)["input_ids"] for text in TEXTS] == expected
    assert [list(ids) for ids in run.tokenizer.build().encode_lines(TEXTS)] == expected
    in_graph = GraphTokenizer(run.tokenizer, str(tmp_path / "ours" / "vocab.txt"), 512)
    assert [row[1:-1] for row in unpadded_rows(in_graph(TEXTS))] == expected
    assert len(run.tokenizer.build().encode("möchte")) == 1
    command = next(line for line in notices if line.startswith("Next: "))
    assert f"{run.tokenizer.rules.flags} --output_dir" in command
    assert ("--strip_accents" in command) == (settings.get("strip_accents") is not None)


BERT = {"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}}


@pytest.mark.parametrize(
    ("settings", "tokenizer", "message"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}, {}, "tokenizer_type is 'mecab"),
        ({"tokenizer_class": "KoBertTokenizer"}, {}, "tokenizer_class is 'KoBertTokenizer'"),
        ({"do_basic_tokenize": False}, {}, "do_basic_tokenize is False"),
        ({"never_split": ["fox"]}, {}, r"never_split is \['fox'\]"),
        ({"strip_accents": "no"}, {}, "strip_accents is 'no'"),
        ({}, {**BERT, "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]}},
         "normalizer is NFD and Lowercase, not BertNormalizer"),
        ({}, {**BERT, "pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer is Whitespace, not BertPreTokenizer"),
        ({}, {**BERT, "normalizer": {"type": "BertNormalizer", "clean_text": False}}, "clean_text is False"),
    ],
)  # fmt: skip
def test_settings_that_bert_does_not_have_are_refused(tmp_path, settings, tokenizer, message):
    make_pair(tmp_path, "tiny")
    write_tokenizer(tmp_path / "discriminator", settings, **tokenizer)
    with pytest.raises(UserError, match=message):
        import_from(tmp_path / "discriminator", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
    write_vocabulary(tmp_path)  # what the message advises
    run = import_from(tmp_path / "discriminator", tmp_path / "ours", vocab_file=str(tmp_path / "vocab.txt"))
    assert run.tokenizer.vocabulary.tokens == TOKENS and run.tokenizer.rules == WordRules()


def test_settings_in_tokenizer_json(tmp_path):
    make_pair(tmp_path, "tiny")
    normalizer = {"type": "BertNormalizer", "lowercase": False, "strip_accents": True, "handle_chinese_chars": False}
    sequence = {"type": "Sequence", "normalizers": [normalizer]}
    general = {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_tokenizer(tmp_path / "discriminator", general, **{**BERT, "normalizer": sequence})
    rules = import_from(tmp_path / "discriminator", tmp_path / "ours").tokenizer.rules
    assert rules == WordRules(False, True, tokenize_chinese_chars=False)
