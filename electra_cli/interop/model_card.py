"""Model cards: what a model is, how it was trained and what it reached, in Markdown with the metadata of model hubs."""

import html
import re
from collections.abc import Mapping
from typing import Any

from electra_cli import __version__
from electra_cli.errors import printable
from electra_cli.finetuning.model import FineTunedModel
from electra_cli.interop.runs import LoadedRun

_ROLES = {
    "discriminator": "The discriminator: it predicts of every token whether it was replaced, and is the network to "
    "fine-tune.",
    "generator": "The generator: a masked language model.",
}
_ENERGIES = (
    "The discriminator of [Electric](https://arxiv.org/abs/2012.08561): it gives the energy of every token, of which "
    "the negative stands for the log-probability given the other tokens, and is the network to fine-tune."
)
# What a model for each kind of task does, and the pipeline tag of that on model hubs.
_TASKS = {
    "classification": ("It predicts the class of {texts}", "text-classification"),
    "regression": ("It predicts a number for {texts}", "text-classification"),
    "tagging": ("It predicts a tag for each word of a text", "token-classification"),
    "question_answering": ("It finds the answer to a question in a text", "question-answering"),
}
_CARD = """\
---
library_name: transformers
{metadata}tags:
- electra
---

# {title}

{about} with electra-pretrain {version} ([ELECTRA](https://arxiv.org/abs/2003.10555)).

```python
{use}```

{tables}"""
_LOAD = """\
from transformers import {automatic}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(PATH)
model = {automatic}.from_pretrained(PATH)
"""
_USE_ON_TEXTS = (
    _LOAD.format(automatic="AutoModelForSequenceClassification")
    + 'logits = model(**tokenizer({texts}, return_tensors="pt")).logits\n'
)
_USES = {
    "discriminator": _LOAD.format(automatic="AutoModelForPreTraining")
    + 'logits = model(**tokenizer("Some text.", return_tensors="pt")).logits  # greater than 0: was replaced\n',
    "generator": _LOAD.format(automatic="AutoModelForMaskedLM")
    + 'logits = model(**tokenizer(f"Some {tokenizer.mask_token}.", return_tensors="pt")).logits\n',
    "classification": _USE_ON_TEXTS + "label = model.config.id2label[int(logits.argmax())]\n",
    "regression": _USE_ON_TEXTS + "number = float(logits)\n",
    "tagging": """\
from transformers import pipeline

# The first token of a word carries its tag.
tag = pipeline("token-classification", model=PATH, aggregation_strategy="first")
entities = tag("Some text.")
""",
    "question_answering": _LOAD.format(automatic="AutoModelForQuestionAnswering")
    + """\
inputs = tokenizer("Who?", "Some text.", truncation="only_second", return_tensors="pt")
found = model(**inputs)
first, last = int(found.start_logits.argmax()), int(found.end_logits.argmax()){none}
answer = tokenizer.decode(inputs["input_ids"][0, first : last + 1])
""",
}


def run_card(run: LoadedRun, role: str) -> str:
    """Returns the model card of a network of a run."""
    sizes, config = run.network(role).sizes, run.config
    averaged = " (moving averages of them)" if run.is_averaged else ""
    training = {
        "architecture": sizes.architecture,
        "layers": sizes.num_layers,
        "hidden size": sizes.hidden_size,
        "attention heads": sizes.num_attention_heads,
        "embedding size": sizes.embedding_size,
        "vocabulary": f"{sizes.vocab_size:,} tokens, {'uncased' if run.tokenizer.rules.lower_case else 'cased'}",
        "objective": config.objective.name,
        f"weights{averaged}": f"after {run.step:,} of {config.train.num_steps:,} steps",
        "batch": f"{config.train.global_batch_size:,} examples of {config.data.max_seq_length:,} tokens",
        "learning rate": f"{config.optimizer.learning_rate:g} ({config.optimizer.name}, {config.optimizer.schedule})",
    }
    scores = {
        name: value
        for name, value in run.held_out.items()
        if isinstance(value, float) and name not in ("step", "phase")
    }
    tables = _table("training", training)
    if scores:
        tables += _scores_table(f"held-out, step {run.held_out['step']:,}", scores)
    use, about = _USES[role], _ROLES[role]
    if run.has_energies:
        use, about = use.replace("greater than 0: was replaced", "energies"), _ENERGIES
    if sizes.architecture == "modern":
        use = use.replace("ForPreTraining", "ForTokenClassification")
    return _card(f"ELECTRA {role}", "", f"{about} Pre-trained", use, tables)


def fine_tuned_card(model: FineTunedModel) -> str:
    """Returns the model card of a fine-tuned model."""
    kind, config, record = model.task.kind, model.config, model.record
    labels = model.task.labels.labels
    use = _USES[kind].format(
        texts='"Some text.", "Another."' if record.has_pairs else '"Some text."',
        none="  # 0 and 0: the text has no answer" if len(labels) > 1 else "",
    )
    named = (
        f": {', '.join(map(_escape, labels))}"
        if labels and kind in ("classification", "tagging") and len(labels) <= 30
        else ""
    )
    fine_tuning = {
        "task": config.task,
        "started from": record.source,
        "epochs": config.train.num_epochs,
        "batch": f"{config.train.global_batch_size:,} examples of up to {record.length:,} tokens",
        "learning rate": f"{config.optimizer.learning_rate:g} ({config.optimizer.schedule}), times "
        f"{config.optimizer.layerwise_lr_decay:g} from layer to layer",
        "seed": model.seed,
        "vocabulary": f"{record.sizes.vocab_size:,} tokens, {'uncased' if record.lower_case else 'cased'}",
    }
    tables = _table("fine-tuning", fine_tuning)
    for name, split in model.scores.items():
        if split["scores"] is not None:
            tables += _scores_table(f"{name}, {split['num_examples']:,} examples", split["scores"])
    task, pipeline = _TASKS[kind]
    about = f"{task.format(texts='two texts' if record.has_pairs else 'a text')}{named}. Fine-tuned"
    title = f"ELECTRA, fine-tuned: {kind.replace('_', ' ')}"
    return _card(title, f"pipeline_tag: {pipeline}\n", about, use, tables)


def _card(title: str, metadata: str, about: str, use: str, tables: list[str]) -> str:
    return _CARD.format(
        metadata=metadata, title=title, about=about, version=__version__, use=use, tables="\n".join(tables)
    )


def _table(title: str, rows: Mapping[str, Any], alignment: str = "---") -> list[str]:
    lines = [f"| {_escape(name)} | {_escape(value)} |" for name, value in rows.items()]
    return [f"| {_escape(title)} | |", f"| --- | {alignment} |", *lines, ""]


def _escape(text: Any) -> str:
    """Returns text as Markdown of a line that shows it as it is: no HTML, link, cell or emphasis."""
    text = printable(html.escape(" ".join(str(text).split()), quote=False))
    return re.sub(r"([\\`*\[\]|~#$!]|(?<!\w)_|_(?!\w)|(?<=-)-|:(?=\S))", r"\\\1", text)


def _scores_table(title: str, scores: Mapping[str, float]) -> list[str]:
    return _table(title, {name: f"{score:.4f}" for name, score in scores.items()}, "--:")
