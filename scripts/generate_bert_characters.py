"""Writes electra_cli/data/bert_characters.py: characters that two tokenizers are known to treat alike.

usage: python scripts/generate_bert_characters.py     after a new version of tensorflow-text or tokenizers
"""

import pathlib
import unicodedata

import tensorflow as tf
import tensorflow_text as tf_text
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

OUTPUT = pathlib.Path(__file__).resolve().parents[1] / "electra_cli" / "data" / "bert_characters.py"
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Controls, surrogates, unassigned and private characters, and marks, which change what stands before them.
SKIPPED_CATEGORIES = ("Cc", "Cs", "Cn", "Co", "Mn", "Mc", "Me")
HEADER = '''"""Characters that FastBertTokenizer of tensorflow-text treats as BERT's own tokenizer does.

Written by scripts/generate_bert_characters.py; a test compares it with the installed versions. Ranges of code points,
in hexadecimal, first and last.
"""
'''


def agreeing_characters(*, lower_case: bool) -> list[int]:
    """Returns the code points that both tokenizers turn into the same tokens, alone and within a word.

    Args:
      lower_case: whether both lower-case and strip accents.
    """
    code_points = [point for point in range(1, 0x110000) if unicodedata.category(chr(point)) not in SKIPPED_CATEGORIES]
    # A vocabulary in which every character that can come out is a token, so that no difference hides in [UNK].
    invisible = ("Zs", "Zl", "Zp", "Cf")
    visible = [
        chr(point)
        for point in range(1, 0x110000)
        if unicodedata.category(chr(point)) not in (*invisible, "Cc", "Cs", "Cn", "Co")
    ]
    vocabulary = [*SPECIAL_TOKENS, *(token for character in visible for token in (character, f"##{character}"))]
    exact = tokenizers.Tokenizer(
        models.WordPiece({token: index for index, token in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    exact.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    exact.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast = tf_text.FastBertTokenizer(
        vocabulary, lower_case_nfd_strip_accents=lower_case, support_detokenization=False, token_out_type=tf.int32
    )
    texts = [f"a{chr(point)}b {chr(point)}" for point in code_points]
    expected = [encoding.ids for encoding in exact.encode_batch_fast(texts, add_special_tokens=False)]
    found = fast.tokenize(texts).to_list()
    return [point for point, first, second in zip(code_points, expected, found, strict=True) if first == second]


def to_ranges(code_points: list[int]) -> list[tuple[int, int]]:
    """Joins ascending neighbours to (first, last)."""
    ranges: list[tuple[int, int]] = []
    for point in code_points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1] = (ranges[-1][0], point)
        else:
            ranges.append((point, point))
    return ranges


def format_table(name: str, ranges: list[tuple[int, int]]) -> str:
    """Returns an assignment of the ranges, in lines of at most 120 characters."""
    words = [f"{first:x}" if first == last else f"{first:x}-{last:x}" for first, last in ranges]
    lines, line = [], ""
    for word in words:
        if len(line) + len(word) > 105:
            lines.append(line)
            line = ""
        line += f"{word} "
    lines.append(line)
    body = "".join(f'    "{line}"\n' for line in lines)
    return f"\n{name} = (\n{body})\n"


def render() -> str:
    """Returns the text of the module."""
    return (
        HEADER
        + format_table("UNCASED", to_ranges(agreeing_characters(lower_case=True)))
        + format_table("CASED", to_ranges(agreeing_characters(lower_case=False)))
    )


if __name__ == "__main__":
    OUTPUT.write_text(render())
    print(f"wrote {OUTPUT}")
