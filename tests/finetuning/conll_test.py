import pytest

from electra_cli.errors import UserError
from electra_cli.finetuning.labeled_files import LabeledFile
from electra_cli.finetuning.tables import Columns

CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

-DOCSTART- -X- -X- O

# # # O
Peter NNP B-NP B-PER
"""


CONLLU = """# newdoc
# text = vámonos al mar
1-2	vámonos	_	_	_	_	_	_	_	_
1	vamos	ir	VERB	_	Mood=Imp	0	root	_	_
2	nos	nosotros	PRON	_	_	1	obj	_	_
2.1	ya	ya	ADV	_	_	_	_	1:advmod	_

# sent_id = 2
1	#	#	SYM	_	_	0	root	_	_
"""


def read(tmp_path, content, words="", tags="", is_conllu=False):
    path = tmp_path / "data.conll"
    path.write_text(content)
    file_format = "conllu" if is_conllu else "conll"
    return LabeledFile(str(path), Columns(words, "", tags), file_format, label_needed=False).read("tagging").examples


def test_sentences_of_conll_2003(tmp_path):
    examples = read(tmp_path, CONLL_2003)
    assert [(example.words, example.tags) for example in examples] == [
        (("EU", "rejects"), ("B-ORG", "O")),
        (("#", "Peter"), ("O", "B-PER")),
    ]
    assert [example.where.rpartition("/")[2] for example in examples] == ["data.conll:3", "data.conll:8"]
    assert [example.id for example in examples] == ["0", "1"]
    assert examples[0].text == "EU rejects" and examples[0].is_labelled


def test_columns_by_number_tabs_and_comments(tmp_path):
    content = "# id = 1\n1\tNew York\tPROPN\n2\tis\tVERB\n\n# another comment\n1\tbig\tADJ"
    examples = read(tmp_path, content, "1", "2")
    assert [example.words for example in examples] == [("New York", "is"), ("big",)]
    assert [example.tags for example in examples] == [("PROPN", "VERB"), ("ADJ",)]
    assert [example.tags for example in read(tmp_path, CONLL_2003, "0", "1")] == [("NNP", "VBZ"), ("#", "NNP")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # As many fields as the data has, between spaces.
        ("# sent_id = 3\n# a new b\nEU N _ ORG\nis V _ O\n", [("EU", "is")]),
        ("# id 5239-aa domain=train\nEU _ _ ORG\n\n# id 77-b\tdomain=train\n# _ _ O\n", [("EU",), ("#",)]),
        ("# newdoc\n# O\nEU ORG\nis O\n", [("#", "EU", "is")]),
        ("# newdoc\n\n# text = O O\nis O\n# newdoc\n", [("is", "#")]),
        # The same between tabs, where a word may have a space in it.
        ("# id 5239\tdomain=train\n#\tO\nEU\tORG\n\n# 1\tO\nis\tO\n", [("#", "EU"), ("# 1", "is")]),
        # A word that no other has a tag with: Penn's of '#', and a hashtag.
        ("# #\n42 CD\n\n#brexit EVENT\n42 CD\n", [("#", "42"), ("#brexit", "42")]),
        # OntoNotes' comments, the first of them before any word.
        ("#begin document (a/b); part 0\nEU N ORG\n\n#end document\n", [("EU",)]),
        # One column: a comment has more.
        ("#\nis\n\n# newdoc\n#tag\n", [("#", "is"), ("#tag",)]),
    ],
)
def test_comments_are_told_from_words_that_begin_with_their_sign(tmp_path, content, expected):
    assert [example.words for example in read(tmp_path, content)] == expected


def test_words_and_parts_of_speech_of_conllu(tmp_path):
    examples = read(tmp_path, CONLLU, is_conllu=True)
    assert [(example.words, example.tags) for example in examples] == [
        (("vamos", "nos"), ("VERB", "PRON")),
        (("#",), ("SYM",)),
    ]
    assert [example.where.rpartition("/")[2] for example in examples] == ["data.conll:4", "data.conll:9"]
    assert read(tmp_path, CONLLU, "2", "7", is_conllu=True)[0].words == ("ir", "nosotros")
    assert read(tmp_path, CONLLU, "2", "7", is_conllu=True)[0].tags == ("root", "obj")
    blank = CONLLU.replace("VERB", "_").replace("PRON", "_").replace("ADV", "_").replace("SYM", "_")
    assert [example.is_labelled for example in read(tmp_path, blank, is_conllu=True)] == [False, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("EU\tORG\n", r"data\.conll: columns 2, and CoNLL-U has 10 between tabs: .* --config\.data\.format=conll$"),
        (CONLLU.replace("2\tnos\t", "2\t"), r"data\.conll:5: number of columns 9, where the first word's line has 10"),
    ],
)
def test_bad_files_of_conllu(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, content, is_conllu=True)


@pytest.mark.parametrize("space", [" ", "  ", " \t"])
def test_columns_lie_between_ascii_spaces_or_tabs_only(tmp_path, space):
    lines = [f"10\u00a0000{space}CD", f"\u4e2d\u3000\u56fd{space}NN", f"\u3000{space}PU", f"a\x85b\u2003{space}X"]
    (example,) = read(tmp_path, "\n".join(lines))
    assert example.words == ("10\u00a0000", "\u4e2d\u3000\u56fd", "\u3000", "a\x85b\u2003")
    assert example.tags == ("CD", "NN", "PU", "X")


def test_one_column_of_an_invisible_word_is_no_end_of_a_sentence(tmp_path):
    assert [example.words for example in read(tmp_path, "a\n\u3000\nb\n \nc\n")] == [("a", "\u3000", "b"), ("c",)]


def test_one_column_is_unlabelled(tmp_path):
    examples = read(tmp_path, "EU\nrejects\n\nPeter\n")
    assert [(example.words, example.tags) for example in examples] == [(("EU", "rejects"), None), (("Peter",), None)]


@pytest.mark.parametrize(
    ("content", "words", "tags", "message"),
    [
        ("a O\nb\n", "", "", r"data\.conll:2: number of columns 1, where the first word's line has 2"),
        ("a O\nb c O\n", "", "", r"data\.conll:2: number of columns 3, where"),
        ("a O\n# b c\n", "", "", r"data\.conll:2: number of columns 3, where"),
        ("a\tO\nb\t\n", "", "", r"data\.conll:2: the tag \(column 1\) is empty"),
        ("a\tO\n\tO\n", "", "", r"data\.conll:2: the word \(column 0\) is empty"),
        ("a O\n", "2", "", r"has 2 columns, 0 to 1: no --config\.data\.text=2"),
        ("a O\n", "", "-3", r"has 2 columns, 0 to 1: no --config\.data\.label=-3"),
        ("a O\n", "word", "", r"--config\.data\.text=word: columns of CoNLL files have no names"),
        ("a O\n", "1", "", r"column 1 is that of words .* and of tags"),
        ("# only a comment\n", "", "", r"data\.conll holds no word"),
        ("-DOCSTART- O\n\n", "", "", r"data\.conll holds no word"),
        ("\n", "", "", r"data\.conll is empty"),
    ],
)
def test_bad_files(tmp_path, content, words, tags, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, content, words, tags)
