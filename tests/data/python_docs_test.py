from electra_cli.data import python_docs

SOURCE = '''
"""Reads the settings of a program from a file and
checks that each of them is of the type expected.

    code = {"a": 1}

>>> an_example(of_code) and it is the one that is left out of it
"""

class Reader:
    def read(self):
        """Returns the ``value`` of a setting, or the default where the file has none for it."""
        return "not the text that is documented in the source of it"

    def short(self):
        """Too short."""
'''


def test_prose_is_taken_from_docstrings_and_code_is_not(tmp_path):
    (tmp_path / "a.py").write_text(SOURCE)
    (tmp_path / "b.py").write_text("def broken(:")
    assert python_docs.extract_prose(
        [str(tmp_path / "a.py"), str(tmp_path / "b.py"), str(tmp_path / "missing.py")]
    ) == [
        [
            "Reads the settings of a program from a file and checks that each of them is of the type expected.",
            "Returns the value of a setting, or the default where the file has none for it.",
        ],
        [],
        [],
    ]


def test_metadata_is_read_without_its_head(tmp_path):
    (tmp_path / "METADATA").write_text(
        "Name: x\nSummary: this is a summary of it all and it is left out of the text\n\n"
        "This package is the one that reads the settings of all the others."
    )
    assert python_docs.extract_prose([str(tmp_path / "METADATA")]) == [
        ["This package is the one that reads the settings of all the others."]
    ]


def test_repeated_paragraphs_are_written_once_and_short_documents_not_at_all(tmp_path, monkeypatch):
    long = "This is the text of a paragraph that is long enough to be a document in the corpus. " * 5
    (tmp_path / "a.txt").write_text(f"{long}\n\nThis is the other paragraph and it is in both of the files.")
    (tmp_path / "b.txt").write_text("This is the other paragraph and it is in both of the files.")
    (tmp_path / "c.txt").write_text(long.replace("text", "body"))
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt", "c.txt")]
    monkeypatch.setattr(python_docs, "_stdlib_files", lambda: files)
    monkeypatch.setattr(python_docs, "_package_files", lambda: [])
    python_docs.extract(str(tmp_path / "out.txt"), map, lambda *_: None)
    assert (tmp_path / "out.txt").read_text() == (
        f"{long.strip()}\nThis is the other paragraph and it is in both of the files.\n\n"
        f"{long.strip().replace('text', 'body')}\n\n"
    )


def test_the_requirements_of_requirements_are_found():
    names = {distribution.metadata["Name"].lower() for distribution in python_docs._distributions()}
    assert {"tensorflow", "numpy", "absl-py", "tf-models-official", "pandas"} <= names
    assert "pytest" not in names
