"""How text became tokens: from a data directory to what tokenizes text as its text was."""

import dataclasses

import tensorflow as tf

from electra_cli.data.sentencepiece_model import SentencePieceTokenizer
from electra_cli.data.tfrecords import MANIFEST_FILE, SENTENCEPIECE_FILE, read_manifest
from electra_cli.data.tokenization import Tokenizer
from electra_cli.data.vocabulary import Vocabulary


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
        """Returns what tokenizes as the run's data was."""
        if self.sentencepiece_file:
            return SentencePieceTokenizer(self.sentencepiece_file)
        return Tokenizer(self.vocabulary, lower_case=self.lower_case)


def tokenizer_of_data(data_dir: str, lower_case: bool | None = None) -> TokenizerSettings:
    """Returns how the text of a data directory became tokens.

    Args:
      data_dir: a directory with `vocab.txt`, of electra-prepare or not.
      lower_case: whether text is lower-cased; None: as the manifest says, and where there is none, it is.

    Raises:
      UserError: vocabulary or manifest are missing or damaged.
    """
    sentencepiece_file = None
    if tf.io.gfile.exists(tf.io.gfile.join(data_dir, MANIFEST_FILE)):
        manifest = read_manifest(data_dir)
        lower_case = manifest.lower_case if lower_case is None else lower_case
        if manifest.sentencepiece_sha256:
            sentencepiece_file = tf.io.gfile.join(data_dir, SENTENCEPIECE_FILE)
    vocabulary = Vocabulary.from_file(tf.io.gfile.join(data_dir, "vocab.txt"))
    return TokenizerSettings(vocabulary, lower_case is not False, sentencepiece_file)
