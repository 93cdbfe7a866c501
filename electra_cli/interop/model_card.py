"""The model card of an export: what the model is, how it was trained and what it reached."""

from electra_cli import __version__
from electra_cli.interop.runs import Run

_USES = {
    "discriminator": """\
from transformers import AutoModelForPreTraining, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(PATH)
model = AutoModelForPreTraining.from_pretrained(PATH)
logits = model(**tokenizer("Some text.", return_tensors="pt")).logits  # greater than 0: was replaced
""",
    "generator": """\
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(PATH)
model = AutoModelForMaskedLM.from_pretrained(PATH)
logits = model(**tokenizer("Some [MASK].", return_tensors="pt")).logits
""",
}
_ROLES = {
    "discriminator": "The discriminator: it says of every token whether it was replaced, and is the network to "
    "fine-tune.",
    "generator": "The generator: a masked language model.",
}


def model_card(run: Run, role: str) -> str:
    """Returns the text of a model card in Markdown with the metadata that model hubs read."""
    sizes, config = run.network(role).sizes, run.config
    averaged = " (moving averages of them)" if run.is_averaged else ""
    rows = {
        "layers": sizes.num_layers,
        "hidden size": sizes.hidden_size,
        "attention heads": sizes.num_attention_heads,
        "embedding size": sizes.embedding_size,
        "vocabulary": f"{sizes.vocab_size:,} tokens, {'uncased' if run.tokenizer.lower_case else 'cased'}",
        "objective": config.objective.name,
        f"weights{averaged}": f"after {run.step:,} of {config.train.num_steps:,} steps",
        "batch": f"{config.train.global_batch_size:,} examples of {config.data.max_seq_length:,} tokens",
        "learning rate": f"{config.optimizer.learning_rate:g} ({config.optimizer.name}, {config.optimizer.schedule})",
    }
    figures = {
        name: f"{value:.4f}"
        for name, value in run.held_out.items()
        if isinstance(value, float) and name not in ("step", "phase")
    }
    lines = [
        "---",
        "library_name: transformers",
        "tags:",
        "- electra",
        "---",
        "",
        "# ELECTRA " + role,
        "",
        f"{_ROLES[role]} Pre-trained with electra-pretrain {__version__} "
        "([ELECTRA](https://arxiv.org/abs/2003.10555)).",
        "",
        "```python",
        *_USES[role].splitlines(),
        "```",
        "",
        "| training | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
    ]
    if figures:
        lines += [
            f"| held-out, step {run.held_out['step']:,} | |",
            "| --- | --: |",
            *(f"| {name} | {value} |" for name, value in figures.items()),
            "",
        ]
    return "\n".join(lines)
