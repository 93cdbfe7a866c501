"""How text became tokens: from a data directory to what tokenizes text as its text was."""

import dataclasses

from electra_cli import files
from electra_cli.data.tfrecords import MANIFEST_FILE, SENTENCEPIECE_FILE, VOCAB_FILE, read_manifest
from electra_cli.data.tokenization import SUFFIX, SentencePieceTokenizer, Tokenizer
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import UserError


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
    """How a run's text became tokens.

    Attributes:
      vocabulary: the tokens.
      lower_case: whether text is lower-cased and its accents are stripped.
      sentencepiece_file: a SentencePiece model that takes the place of WordPiece; None: there is none.
    """

    vocabulary: Vocabulary
    lower_case: bool
    sentencepiece_file: str | None = None

    def build(self) -> Tokenizer | SentencePieceTokenizer:
        """Returns what tokenizes as the run's data was.

        Raises:
          UserError: the vocabulary is that of a SentencePiece model, and the model is not known.
        """
        if self.sentencepiece_file:
            return SentencePieceTokenizer(self.sentencepiece_file)
        if self.vocabulary.is_sentencepiece:
            raise UserError(
                f"the vocabulary is that of a SentencePiece model, without which no text becomes tokens: give the "
                f"model, --vocab_file=FILE{SUFFIX}"
            )
        return Tokenizer(self.vocabulary, lower_case=self.lower_case)

    def save(self, directory: str) -> None:
        """Writes `vocab.txt` and, of a SentencePiece model, `sentencepiece.model`, unless they are there already.

        Raises:
          OSError, tf.errors.OpError: they cannot be written.
        """
        contents = {VOCAB_FILE: self.vocabulary.to_bytes()}
        if self.sentencepiece_file:
            contents[SENTENCEPIECE_FILE] = files.read_bytes(self.sentencepiece_file)
        for name, content in contents.items():
            file = files.join(directory, name)
            if files.size(file) is None or files.read_bytes(file) != content:
                files.write_atomically(file, content)


def read_tokenizer(vocab_file: str, lower_case: bool | None = None) -> TokenizerSettings:
    """Returns the tokenizer of a vocabulary file, or of a SentencePiece model.

    Args:
      vocab_file: the file; a model ends in `.model`.
      lower_case: whether text is lower-cased; None: it is. A model does that, or not, by itself.

    Raises:
      UserError: it cannot be read.
    """
    if vocab_file.endswith(SUFFIX):
        return TokenizerSettings(SentencePieceTokenizer(vocab_file).vocabulary, False, vocab_file)
    return TokenizerSettings(Vocabulary.from_file(vocab_file), lower_case is not False)


def saved_tokenizer(directory: str, lower_case: bool | None = None) -> TokenizerSettings | None:
    """Returns what `TokenizerSettings.save` wrote to a directory; None: nothing is there.

    Args:
      directory: the directory.
      lower_case: see `read_tokenizer`.
    """
    file = find_vocab_file(directory)
    return None if file is None else read_tokenizer(file, lower_case)


def find_vocab_file(directory: str) -> str | None:
    """Returns the SentencePiece model of a directory, or else its vocabulary; None: it has neither."""
    found = (files.join(directory, name) for name in (SENTENCEPIECE_FILE, VOCAB_FILE))
    return next((file for file in found if files.size(file) is not None), None)


def tokenizer_of_data(data_dir: str, lower_case: bool | None = None) -> TokenizerSettings:
    """Returns how the text of a data directory became tokens.

    Args:
      data_dir: a directory with `vocab.txt`, of electra-prepare or not.
      lower_case: whether text is lower-cased; None: as the manifest says, and where there is none, it is.

    Raises:
      UserError: vocabulary or manifest are missing or damaged.
    """
    sentencepiece_file = None
    if files.size(files.join(data_dir, MANIFEST_FILE)) is not None:
        manifest = read_manifest(data_dir)
        lower_case = manifest.lower_case if lower_case is None else lower_case
        if manifest.sentencepiece_sha256:
            sentencepiece_file = files.join(data_dir, SENTENCEPIECE_FILE)
    vocabulary = Vocabulary.from_file(files.join(data_dir, VOCAB_FILE))
    return TokenizerSettings(vocabulary, lower_case is not False, sentencepiece_file)
