"""SentencePiece models in the place of a WordPiece vocabulary."""

from array import array
from collections.abc import Sequence

import numpy as np

from electra_cli import files
from electra_cli.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from electra_cli.errors import UnreadableError, UserError

SUFFIX = ".model"


class SentencePieceTokenizer:
    """Tokenizes with a SentencePiece model, which cleans and splits text in its own way.

    Args:
      path: the model's file.

    Attributes:
      vocabulary: its pieces, by id; '<unk>' and '<pad>' under BERT's names. Those of BERT's special tokens that it
        lacks come behind its last piece.

    Raises:
      UserError: it cannot be read, or is no SentencePiece model.
    """

    def __init__(self, path: str):
        import sentencepiece  # noqa: PLC0415  (import time)

        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(files.read_bytes(path))
        except OSError as error:
            raise UnreadableError(f"vocabulary {path} cannot be read: {error.strerror or error}") from error
        except RuntimeError as error:
            raise UserError(
                f"vocabulary {path} is no SentencePiece model: give one, or a vocabulary as text"
            ) from error
        pieces = [self._processor.id_to_piece(index) for index in range(self._processor.get_piece_size())]
        pieces[self._processor.unk_id()] = "[UNK]"
        if self._processor.pad_id() >= 0:
            pieces[self._processor.pad_id()] = "[PAD]"
        self.vocabulary = Vocabulary((*pieces, *(token for token in SPECIAL_TOKENS if token not in pieces)))

    def encode_lines(self, lines: Sequence[str]) -> list[array]:
        """Returns the ids of each line, arrays of 'I' (uint32), without special tokens."""
        return [array("I", ids) for ids in self._processor.encode(list(lines), out_type=int)]

    def encode_with_offsets(self, text: str) -> tuple[array, np.ndarray]:
        """Returns the ids of a text, as `encode_lines` does, and where its tokens stand.

        Returns:
          The ids; and int32 [tokens, 2], the first character of `text` that each token is made of, and the one behind
          its last. The space before a word is not a part of its token here.
        """
        encoding = self._processor.encode(text, return_type="offset_mapping")
        offsets: np.ndarray = np.array(encoding["offsets"], np.int32).reshape(-1, 2)
        for place, (begin, end) in enumerate(encoding["offsets"]):
            offsets[place, 0] = end - len(text[begin:end].lstrip())
        return array("I", encoding["ids"]), offsets
