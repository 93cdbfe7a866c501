"""A tiny vocabulary with its tokenizer, a SentencePiece model, and examples."""

import io

import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from electra_cli.config.finetuning import default_config
from electra_cli.data.tokenization import Tokenizer
from electra_cli.data.vocabulary import SPECIAL_TOKENS, Vocabulary, WordRules
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


def train_byte_level(path, lines, vocab_size=330, *, names=SPECIAL_TOKENS, add_prefix_space=False, split=None, **parts):
    """Writes a `tokenizer.json` of byte-level BPE with special tokens of these names; returns its tokenizer."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=split is None)
    if split is not None:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, tokenizer.pre_tokenizer])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    for part, value in parts.items():
        setattr(tokenizer, part, value)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens(list(names))
    tokenizer.save(str(path))
    return tokenizer
