"""The whole road for texts of a thousand tokens, with the console commands: attention in blocks, then compared."""

import json
import re
import sys

import numpy as np
import pytest

from electra_cli import api
from tests import forking
from tests.conftest import make_text, prepare_small

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH = 1024  # the first at which `runtime.attention=auto` means blocks in every layer
SIZES = {
    "data.max_seq_length": LENGTH,
    "data.mask_unit": "word",
    "data.max_ngram": 3,
    "model.num_layers": 2,  # the second sees a window
    "model.local_attention": 32,
    "model.hidden_size": 16,
    "model.embedding_size": 16,
    "model.num_attention_heads": 2,
    "model.intermediate_size": 24,
    "model.initializer_range": 0.3,
    "model.generator_num_layers": 1,
    "model.generator_intermediate_size": 24,
    "train.global_batch_size": 2,
    "train.num_steps": 2,
    "train.steps_per_loop": 1,
    "train.log_interval": 1,
    "train.checkpoint_interval": 1,
    "eval.interval": 2,
    "eval.num_examples": 2,
    "optimizer.warmup_steps": 1,
}


def run(module, *arguments):
    command = [sys.executable, "-m", f"electra_cli.{module}", *map(str, arguments)]
    result = forking.run(command, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_blocks_from_text_to_transformers(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(300))
    data, manifest = prepare_small(tmp_path / "text.txt", tmp_path / "data", max_seq_length=LENGTH, packing="full")
    assert manifest.max_seq_length == LENGTH and manifest.num_examples("validation") >= 2

    workdir = tmp_path / "run"
    keys = [f"--config.{key}={value}" for key, value in SIZES.items()]
    run("main", "--config=modern_small", f"--config.data.dir={data}", f"--workdir={workdir}", *keys)
    config = json.loads((workdir / "config.json").read_text())["config"]
    assert config["model"]["max_position_embeddings"] == LENGTH  # recorded, though no table limits it

    # Full attention computes the same of the same examples.
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (held_out,) = (line for line in lines if line["split"] == "validation")
    assert held_out["num_examples"] == 2
    full = run("main", f"--workdir={workdir}", "--mode=eval", "--config.runtime.attention=full")
    for name in ("masked_lm_loss", "rtd_loss", "rtd_auc"):
        printed = float(re.search(rf"{name} +([\d.]+)", full)[1])
        assert printed == pytest.approx(held_out[name], abs=1e-4), name

    # So does transformers, of a text that fills all positions and is cut there.
    exported = tmp_path / "exported"
    run("commands.export_checkpoint", f"--workdir={workdir}", "--format=huggingface", f"--output_dir={exported}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    text = make_text(150, seed=1).replace("\n", " ")
    inputs = tokenizer(text, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape == (1, LENGTH) and len(tokenizer(text)["input_ids"]) > LENGTH
    model = transformers.AutoModelForTokenClassification.from_pretrained(exported).eval()
    assert model.config.max_position_embeddings == LENGTH
    with torch.no_grad():
        expected = torch.sigmoid(model(**inputs).logits)[0, 1:-1, 0].numpy()
    (tokens,) = api.load(str(workdir)).detect_replaced_tokens([text])
    assert expected.std() > 0.05
    np.testing.assert_allclose([token.replaced_probability for token in tokens], expected, atol=1e-5)
