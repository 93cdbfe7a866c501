"""The model card of a fine-tuned model: what it does, what it was made of and what it reached."""

from electra_cli import __version__
from electra_cli.finetuning.trained import FineTunedModel

_PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "tagging": "token-classification",
    "question_answering": "question-answering",
}
_SENTENCE_USE = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(PATH)
model = AutoModelForSequenceClassification.from_pretrained(PATH)
logits = model(**tokenizer({texts}, return_tensors="pt")).logits
"""
_USES = {
    "classification": _SENTENCE_USE + "label = model.config.id2label[int(logits.argmax())]\n",
    "regression": _SENTENCE_USE + "number = float(logits)\n",
    "tagging": """\
from transformers import pipeline

# The first token of a word carries its tag.
tag = pipeline("token-classification", model=PATH, aggregation_strategy="first")
entities = tag("Some text.")
""",
    "question_answering": """\
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(PATH)
model = AutoModelForQuestionAnswering.from_pretrained(PATH)
inputs = tokenizer("Who?", "Some text.", truncation="only_second", return_tensors="pt")
found = model(**inputs)
first, last = int(found.start_logits.argmax()), int(found.end_logits.argmax()){none}
answer = tokenizer.decode(inputs["input_ids"][0, first : last + 1])
""",
}
_WHAT = {
    "classification": "It tells the class of {texts}",
    "regression": "It tells a number for {texts}",
    "tagging": "It tells a tag for each word of a text",
    "question_answering": "It finds the answer to a question in a text",
}


def model_card(trained: FineTunedModel) -> str:
    """Returns the text of a model card in Markdown with the metadata that model hubs read."""
    kind, config, record = trained.task.kind, trained.config, trained.record
    pairs, labels = record.has_pairs, trained.task.labels.labels
    use = _USES[kind].format(
        texts='"Some text.", "Another."' if pairs else '"Some text."',
        none="  # 0 and 0: the text has no answer" if len(labels) > 1 else "",
    )
    named = f": {', '.join(labels)}" if labels and kind in ("classification", "tagging") and len(labels) <= 30 else ""
    rows = {
        "task": config.task,
        "started from": record.source,
        "epochs": config.train.num_epochs,
        "batch": f"{config.train.global_batch_size:,} examples of up to {record.length:,} tokens",
        "learning rate": f"{config.optimizer.learning_rate:g} ({config.optimizer.schedule}), times "
        f"{config.optimizer.layerwise_lr_decay:g} from layer to layer",
        "seed": trained.seed,
        "vocabulary": f"{record.sizes.vocab_size:,} tokens, {'uncased' if record.lower_case else 'cased'}",
    }
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            f"pipeline_tag: {_PIPELINES[kind]}",
            "tags:",
            "- electra",
            "---",
            "",
            f"# ELECTRA, fine-tuned: {kind.replace('_', ' ')}",
            "",
            f"{_WHAT[kind].format(texts='two texts' if pairs else 'a text')}{named}. Fine-tuned with electra-pretrain "
            f"{__version__} ([ELECTRA](https://arxiv.org/abs/2003.10555)).",
            "",
            "```python",
            *use.splitlines(),
            "```",
            "",
            "| fine-tuning | |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in rows.items()),
            "",
            *_scores(trained),
        ]
    )


def _scores(trained: FineTunedModel) -> list[str]:
    lines = []
    for name, split in trained.scores.splits.items():
        if split["scores"] is None:
            continue
        lines += [f"| {name}, {split['num_examples']:,} examples | |", "| --- | --: |"]
        lines += [f"| {score} | {value:.4f} |" for score, value in split["scores"].items()]
        lines.append("")
    return lines
