import pytest

from electra_cli.errors import UserError
from electra_cli.interop.model_card import _table
from electra_cli.loggers.lines import Lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [("<script>", "&lt;script&gt;"), ("[x](javascript:a)", "\\[x\\](javascript\\:a)"), ("a\n---", "a -\\-\\-"),
     ("a|b", "a\\|b"), ("rtd_auc", "rtd_auc"), ("0.6250", "0.6250"), ("\x1b[2J", "\\\\x1b\\[2J")],
)  # fmt: skip
def test_text_of_others_is_no_markdown(text, shown):
    assert f"| name | {shown} |" in _table("title", {"name": text})


def test_text_of_others_does_not_command_the_terminal(capsys):
    assert str(UserError("weight \x1b[2J\u202e is missing")) == r"weight \x1b[2J\u202e is missing"
    Lines().notice("Unexpected: \x1b]0;title\x07\tx")
    assert capsys.readouterr().out == "Unexpected: \\x1b]0;title\\x07\tx\n"
