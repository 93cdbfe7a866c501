import pytest

from electra_cli.data.data_size import describe_epochs, describe_repetition


@pytest.mark.parametrize(
    ("num_epochs", "text"),
    [
        (0.00123, "0.00123 epochs"),
        (1.1875, "1.19 epochs"),
        (99.4, "99.4 epochs"),
        (100, "100 epochs"),
        (3958.2, "3,958 epochs"),
    ],
)
def test_epochs_as_people_read_them(num_epochs, text):
    assert describe_epochs(num_epochs) == text


def test_text_that_is_repeated_too_often():
    assert describe_repetition(40) == ""
    assert describe_repetition(41).startswith("Each pass over the same text teaches less than the one before: more")
