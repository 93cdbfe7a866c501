"""A tiny vocabulary with its tokenizer, a SentencePiece model, and examples."""

import io

import sentencepiece

from electra_cli.config.finetuning import default_config
from electra_cli.data.tokenization import Tokenizer
from electra_cli.data.vocabulary import Vocabulary, WordRules
from electra_cli.finetuning.examples import Answer, Example

TOKENS = """
[PAD] [UNK] [CLS] [SEP] [MASK]
the a cat dog sat on mat ##s ##ting in paris , . ? where is who red big bird
""".split()
VOCABULARY = Vocabulary(tuple(TOKENS))
ENCODER = Tokenizer(VOCABULARY, WordRules(True))
PAD, UNK, CLS, SEP = 0, 1, 2, 3


def config_of(task, primary_score="", **data):
    """A config of a task and its data."""
    config = default_config()
    config.task, config.primary_score = task, primary_score
    config.data.update(data)
    return config


def ids(text):
    return [VOCABULARY.tokens.index(token) for token in text.split()]


def tokens(row):
    """The tokens of a row without padding."""
    return " ".join(VOCABULARY.tokens[token] for token in row if token != PAD)


def sentence(text, second=None, label=None, line=1):
    return Example(f"file.tsv:{line}", str(line), text, second, label)


def tagged(words, tags=None, line=1):
    words = tuple(words.split())
    return Example(
        f"file.conll:{line}", str(line), " ".join(words), words=words, tags=tuple(tags.split()) if tags else None
    )


def question(text, context, *answers, is_impossible=False, number=1):
    """A question; each answer is the text between the first occurrence and its end."""
    return Example(
        f"file.json, question q{number}",
        f"q{number}",
        text,
        context,
        answers=tuple(Answer(answer, context.index(answer)) for answer in answers),
        is_impossible=is_impossible,
    )


def train_sentencepiece(path, lines, vocab_size):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=vocab_size, minloglevel=2, hard_vocab_limit=False
    )
    path.write_bytes(model.getvalue())
