"""Folders of ModernBERT, both ways, with transformers itself as the other implementation."""

import json
import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from electra_cli import api
from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.data.vocabulary import Vocabulary, WordRules
from electra_cli.errors import UserError
from electra_cli.finetuning.model import load_fine_tuned
from electra_cli.interop import exporting, huggingface_export
from electra_cli.interop.runs import load_run
from electra_cli.objectives import weights as weights_module
from tests.finetuning import synthetic
from tests.interop.common import TOKENS, make_run, random_inputs
from tests.interop.huggingface_test import import_from, largest, same_tensors

MODERN = {
    "model.architecture": "modern",
    "model.embedding_size": 16,
    "model.generator_size": 1.0,
    "model.generator_num_layers": 3,
    "model.num_layers": 4,
    "model.local_attention": 8,
    "model.local_rope_theta": 500.0,
    "model.norm_epsilon": 1e-4,
    "model.hidden_dropout": 0.2,
}
NARROW = {"model.generator_size": 0.5, "model.embedding_sharing": "none"}


def silent(_):
    pass


def compute(model, inputs):
    with torch.no_grad():
        return model.eval()(
            torch.tensor(inputs["input_word_ids"], dtype=torch.long),
            attention_mask=torch.tensor(inputs["input_mask"], dtype=torch.long),
            output_hidden_states=True,
        )


@pytest.mark.parametrize("overrides", [{}, {"model.embedding_sharing": "gradient_disentangled"}, NARROW], ids=str)
def test_a_run_goes_to_transformers_and_back_bit_for_bit(tmp_path, overrides):
    run = make_run(tmp_path / "run", **{**MODERN, **overrides})
    difference = exporting.export_run(run, "huggingface", "both", str(tmp_path / "out"), overwrite=False, notice=silent)
    assert difference < 1e-4
    discriminator = transformers.ModernBertForTokenClassification.from_pretrained(tmp_path / "out" / "discriminator")
    generator = transformers.ModernBertForMaskedLM.from_pretrained(tmp_path / "out" / "generator")
    bare = transformers.ModernBertModel.from_pretrained(tmp_path / "out" / "discriminator")
    assert discriminator.num_labels == 1 and discriminator.config.id2label == {0: "replaced"}
    config = discriminator.config
    assert (config.pad_token_id, config.cls_token_id, config.sep_token_id, config.vocab_size) == (0, 2, 3, len(TOKENS))
    assert config.layer_types == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    assert config.rope_parameters["sliding_attention"] == {"rope_type": "default", "rope_theta": 500.0}
    assert (config.mlp_dropout, config.embedding_dropout, config.attention_dropout) == (0.2, 0.2, 0.1)
    inputs = random_inputs(len(TOKENS))
    for role, model in (("discriminator", discriminator), ("generator", generator)):
        expected, states = compute(model, inputs), run.hidden_states(role, inputs)
        logits = run.logits(role, states[-1])
        assert float(expected.logits.std()) > 0.05
        assert largest(logits, expected.logits.reshape(tuple(logits.shape)), inputs) < 1e-4
    states = run.hidden_states("discriminator", inputs)[-1]
    assert largest(states, compute(bare, inputs).last_hidden_state, inputs) < 1e-4
    sources = (tmp_path / "out" / role for role in ("discriminator", "generator"))
    back = import_from(next(sources), tmp_path / "back", generator_source=next(sources))
    first, second = (weights_module.read(each.model) for each in (run, back))
    assert weights_module.are_equal(first, second)
    kept = [key for key in MODERN if "generator" not in key]
    assert {key: back.config.model[key.partition(".")[2]] for key in kept} == {key: MODERN[key] for key in kept}
    assert back.config.model.embedding_sharing == {"gradient_disentangled": "none"}.get(
        overrides.get("model.embedding_sharing", "all"), overrides.get("model.embedding_sharing", "all")
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A directory with a `run`, and the `folder` that its discriminator is exported to."""
    root = tmp_path_factory.mktemp("exported")
    run = make_run(root / "run", **MODERN)
    exporting.export_run(run, "huggingface", "discriminator", str(root / "folder"), overwrite=False)
    return root


def test_users_call_what_they_load(exported):
    """As the card shows it: what the tokenizer returns are the model's arguments."""
    card = (exported / "folder" / "README.md").read_text()
    assert "AutoModelForTokenClassification.from_pretrained(PATH)" in card and "ForPreTraining" not in card
    scope = {"PATH": str(exported / "folder")}
    exec(card.partition("```python\n")[2].partition("```")[0], scope)
    probabilities = torch.sigmoid(scope["logits"])[0, 1:-1, 0]
    ours = api.load(str(exported / "run")).detect_replaced_tokens(["Some text."])[0]
    np.testing.assert_allclose(probabilities.detach(), [token.replaced_probability for token in ours], atol=1e-5)


def hf_config(**changes):
    sizes = {"hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 11}
    sizes |= {"local_attention": 6, "max_position_embeddings": 40, "global_attn_every_n_layers": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    return transformers.ModernBertConfig(
        vocab_size=len(TOKENS), **{**sizes, **ids, "initializer_range": 0.3, **changes}
    )


def save(model, directory):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.05))
    model.eval().save_pretrained(directory)
    tokenizer = TokenizerSettings(Vocabulary(TOKENS), WordRules(True))
    for name, content in huggingface_export.tokenizer_files(tokenizer, 40, has_types=False).items():
        (pathlib.Path(directory) / name).write_text(content)
    return model


def test_models_of_transformers_are_imported_and_go_back_bit_for_bit(tmp_path):
    inputs = random_inputs(len(TOKENS))
    masked_lm = save(transformers.ModernBertForMaskedLM(hf_config()), tmp_path / "masked_lm")
    run = import_from(tmp_path / "masked_lm", tmp_path / "mlm")
    assert (run.config.objective.name, run.config.model.global_attention_every) == ("mlm", 2)
    expected = compute(masked_lm, inputs)
    states = run.hidden_states("generator", inputs)
    assert largest(run.logits("generator", states[-1]), expected.logits, inputs) < 1e-4
    exporting.export_run(run, "huggingface", "generator", str(tmp_path / "back"), overwrite=False)
    assert same_tensors(tmp_path / "masked_lm", tmp_path / "back")

    rtd = save(transformers.ModernBertForTokenClassification(hf_config(num_labels=1)), tmp_path / "rtd")
    lines = []
    run = import_from(tmp_path / "rtd", tmp_path / "electra", lines.append, generator_size=0.34)
    logits = run.logits("discriminator", run.hidden_states("discriminator", inputs)[-1])
    assert largest(logits, compute(rtd, inputs).logits[..., 0], inputs) < 1e-4
    derived = run.config.derived
    assert (derived.generator_num_layers, derived.generator_hidden_size, derived.generator_intermediate_size) == (
        1,
        20,
        11,
    )
    assert run.model.generator_network.embeddings is run.model.discriminator_network.embeddings
    assert "Missing: generator." in "\n".join(lines)
    exporting.export_run(run, "huggingface", "discriminator", str(tmp_path / "again"), overwrite=False)
    assert same_tensors(tmp_path / "rtd", tmp_path / "again")

    for model, dropped in (
        (transformers.ModernBertModel(hf_config()), "nothing"),
        (transformers.ModernBertForTokenClassification(hf_config(num_labels=3)), "classifier (2 weights), head (2"),
        (transformers.ModernBertForSequenceClassification(hf_config(num_labels=1)), "classifier (2 weights), head (2"),
    ):
        name, lines = type(model).__name__, []
        save(model, tmp_path / name)
        run = import_from(tmp_path / name, tmp_path / f"{name}_ours", lines.append)
        expected = compute(model, inputs).hidden_states[-1]
        assert largest(run.hidden_states("discriminator", inputs)[-1], expected, inputs) < 1e-4
        assert f"Unexpected, left out: {dropped}" in "\n".join(lines)


def test_a_config_of_earlier_versions_means_the_same(tmp_path):
    model = save(transformers.ModernBertForMaskedLM(hf_config()), tmp_path / "source")
    file = tmp_path / "source" / "config.json"
    config = json.loads(file.read_text())
    del config["rope_parameters"], config["layer_types"]
    config |= {"global_attn_every_n_layers": 2, "global_rope_theta": 160000.0, "local_rope_theta": 10000}
    file.write_text(json.dumps(config))
    run, inputs = import_from(tmp_path / "source", tmp_path / "ours"), random_inputs(len(TOKENS))
    logits = run.logits("generator", run.hidden_states("generator", inputs)[-1])
    assert largest(logits, compute(model, inputs).logits, inputs) < 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_bias": True}, "norm_bias is True; this program computes layers without bias only"),
        ({"attention_bias": True}, "attention_bias is True; this program computes layers without bias only"),
        ({"decoder_bias": False}, "decoder_bias is False; this program computes a decoder with a bias only"),
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'; this program computes the exact GELU only"),
        ({"layer_types": ["full_attention", "full_attention", "sliding_attention"]}, "layer_types are not full_att"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types are not full_attention in every n-th layer"),
        ({"layer_types": ["chunked_attention"] * 3}, "layer_types are not full_attention in every n-th layer"),
        ({"layer_types": None, "global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0, not a number"),
        ({"local_attention": 7}, "local_attention is 7: must be an even number of tokens"),
        ({"norm_eps": "small"}, "norm_eps is 'small': must be a number"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling is a dict; this program computes rotary positions that are"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}},
            "rope_type is 'yarn'; only default can be imported",
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": "1"}}}, "global_rope_theta is '1': must be a number"),
        ({"num_hidden_layers": 4}, "num_hidden_layers is 4, the weights have 3"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, not a number from 1"),
        ({"num_attention_heads": 3}, "of width 20 cannot have 3 heads"),
        ({"model_type": "modernvbert"}, "model_type is 'modernvbert'; electra, bert and modernbert can be imported"),
    ],
    ids=str,
)
def test_what_is_computed_otherwise_is_refused_in_one_line(tmp_path, changes, message):
    save(transformers.ModernBertForMaskedLM(hf_config()), tmp_path / "source")
    file = tmp_path / "source" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(UserError) as error:
        import_from(tmp_path / "source", tmp_path / "ours")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "ours").exists()


def test_a_bpe_of_letters_is_refused_by_its_kind(tmp_path):
    save(transformers.ModernBertForMaskedLM(hf_config()), tmp_path / "source")
    file = tmp_path / "source" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"] = {"type": "BPE", "vocab": tokenizer["model"]["vocab"], "merges": []}
    tokenizer["pre_tokenizer"] = {"type": "Metaspace"}
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="of type BPE of Metaspace, not of byte-level BPE: "):
        import_from(tmp_path / "source", tmp_path / "ours")


@pytest.mark.parametrize("format_name", ["tfm", "google_tf1"])
def test_formats_without_such_a_network_are_refused_before_work(tmp_path, format_name, exported):
    run = load_run(str(exported / "run"), notice=silent)
    message = f"^--format={format_name} has no network of config.model.architecture=modern: give huggingface$"
    with pytest.raises(UserError, match=message):
        exporting.export_run(run, format_name, "discriminator", str(tmp_path / "out"), overwrite=False)
    assert not (tmp_path / "out").exists()


def test_a_saved_model_computes_what_the_run_does(tmp_path):
    pytest.importorskip("tensorflow_text")
    run = make_run(tmp_path / "run", **{**MODERN, "model.num_layers": 2, "model.generator_num_layers": 1})
    difference = exporting.export_run(run, "saved_model", "both", str(tmp_path / "out"), overwrite=False)
    assert difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", synthetic.MAKERS)
def test_fine_tuned_it_is_exported_too(tmp_path, kind, exported):
    """From the run, and the same from the folder that it is exported to."""
    files = synthetic.write(kind, tmp_path, 64, 20)
    scores = []
    for source in ("run", "folder"):
        workdir = str(tmp_path / f"from_{source}")
        synthetic.fine_tune_briefly(kind, files, workdir, str(exported / source))
        model = load_fine_tuned(workdir, notice=silent)
        assert model.record.sizes.architecture == "modern"
        scores.append(model.scores["validation"]["scores"])
    assert scores[0] == scores[1]
    difference = exporting.export_fine_tuned(model, "huggingface", str(tmp_path / "out"), overwrite=False)
    assert difference < 1e-4
    names = {
        "classification": "Sequence",
        "regression": "Sequence",
        "tagging": "Token",
        "question_answering": "Question",
    }
    (written,) = json.loads((tmp_path / "out" / "config.json").read_text())["architectures"]
    assert written.startswith(f"ModernBertFor{names[kind]}")
    depths = model.model.depths()
    norm = model.model.encoder.final_norm.gamma
    assert [depth for depth, v in zip(depths, model.model.trainable_variables, strict=True) if v is norm] == [4]
    assert sorted(set(depths)) == [0, 1, 2, 3, 4, 6]


def test_a_starting_point_is_trained_on(tmp_path):
    """Its config makes the model that its checkpoint holds."""
    save(transformers.ModernBertForTokenClassification(hf_config(num_labels=1)), tmp_path / "source")
    import_from(tmp_path / "source", tmp_path / "ours", generator_size=1.0)
    scope = {"__file__": str(tmp_path / "ours" / "config.py")}
    exec((tmp_path / "ours" / "config.py").read_text(), scope)
    model = scope["get_config"]().model
    expected = load_run(str(tmp_path / "ours"), notice=silent).config.model
    for key in ("architecture", "global_attention_every", "local_attention", "norm_epsilon", "embedding_size"):
        assert model[key] == expected[key]
