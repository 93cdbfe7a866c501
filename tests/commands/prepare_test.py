"""`electra-prepare` as a user calls it."""

import subprocess
import sys

from electra_cli.data.tfrecords import read_manifest, read_token_counts
from electra_cli.data.vocabulary import SPECIAL_TOKENS, WordRules
from tests.conftest import make_text


def test_what_is_read_comes_first_and_what_to_do_with_it_last(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "books.txt").write_text(make_text(60))
    (tmp_path / "text" / "reviews.tsv").write_text(make_text(2))
    flags = ["--input=text/", "--learn_vocab=160", "--max_seq_length=64", "--output_dir=data", "--num_workers=1"]
    command = [sys.executable, "-m", "electra_cli.commands.prepare", *flags]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[0] == "reading 2 files: books.txt, reviews.tsv"
    first, *_, last = result.stdout.splitlines()
    assert first.startswith("--input=text/: reviews.tsv is read as plain text")
    assert last.startswith("Next: electra-pretrain --config=small --config.data.dir=data --config.data.max_seq_length=")

    quiet = [*command, "--quiet", "--overwrite"]
    result = subprocess.run(quiet, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stderr == "" and result.stdout.startswith("--input=text/: reviews.tsv is read as plain text")
    assert "Next:" not in result.stdout


def test_a_byte_level_bpe_is_learned_and_given(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(60))
    flags = ["--input=text.txt", "--max_seq_length=64", "--num_workers=1"]
    for source in (["--learn_bpe=300"], ["--tokenizer_file=0/tokenizer.json"], ["--vocab_file=0/tokenizer.json"]):
        out = str(len([path for path in tmp_path.iterdir() if path.is_dir()]))
        command = [sys.executable, "-m", "electra_cli.commands.prepare", *flags, *source, f"--output_dir={out}"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
    first, second, third = (read_manifest(str(tmp_path / out)) for out in "012")
    assert first.fingerprint == second.fingerprint == third.fingerprint
    assert first.tokenizer_sha256 == third.tokenizer_sha256 and first.vocab_size == 300


def test_settings_next_to_a_vocabulary_are_the_defaults(tmp_path):
    words = ["가나", "다라", "마바", "##가", "Ich", "möchte"]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *words]) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "max_input_chars_per_word": 50}')
    (tmp_path / "text.txt").write_text("\n\n".join(["가나 다라 Ich möchte", "마바 가나가"] * 9))
    flags = [f"--input={tmp_path}/text.txt", f"--vocab_file={tmp_path}/vocab.txt", "--num_workers=1"]
    for given, lower_case, unknown in (([], False, 0), (["--lower_case", "--strip_accents=false"], True, 9)):
        out = tmp_path / f"data{unknown}"
        command = [sys.executable, "-m", "electra_cli.commands.prepare", *flags, *given, f"--output_dir={out}"]
        result = subprocess.run(
            [*command, "--validation_fraction=0"], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stderr
        manifest = read_manifest(str(out))
        assert manifest.rules == WordRules(lower_case, False if lower_case else None, max_word_length=50)
        assert read_token_counts(str(out))[1] == unknown  # "ich" is not in the vocabulary
