import pytest

from electra_cli.loggers.sample_texts import Sample, Token, markdown_legend, to_markdown


@pytest.mark.parametrize(
    ("token", "verdict"),
    [
        (Token("a", False, "b", True, 0.5, 0.5, 0.51), "caught"),
        (Token("a", False, "b", True, 0.5, 0.5, 0.5), "missed"),
        (Token("a", False, "b", True, 0.5, 0.5), "wrong"),
        (Token("a", False, "a", False, 0.5, 0.5, 0.1), "right"),
        (Token("a", False, "a", False, 0.5, 0.5, 0.9), "alarm"),
        (Token("a", False, replaced_probability=0.9), "alarm"),
        (Token("a", False, replaced_probability=0.1), None),
        (Token("a", False), None),
    ],
)
def test_verdicts(token, verdict):
    assert token.verdict == verdict


def test_markdown():
    sample = Sample(
        (
            Token("[CLS]", False, replaced_probability=0.0),
            Token("su", False, replaced_probability=0.0),
            Token("ng", True, replaced_probability=0.0),
            Token("*", False, "a_b", True, 0.125, 0.5, 0.9),
            Token("old", False, "old", False, 0.75, 0.75, 0.0),
            Token("men", False, replaced_probability=0.8),
        )
    )
    assert to_markdown(sample) == r"\[CLS\] sung ~~\*~~ **a\_b** (0.12) ✓ **old** = men !"
    assert markdown_legend([sample]) == (
        "✓ replaced, and the discriminator says so; ! the original, and taken for replaced; "
        "= masked, and the original was chosen"
    )
