"""Which documents of a corpus are taken: long enough, and not copies of an earlier one."""

import hashlib
from collections.abc import Iterable, Iterator

from electra_cli.data.corpus import Document
from electra_cli.errors import UserError


class DocumentFilter:
    """Drops documents and counts them.

    Args:
      min_words: documents of fewer words (between spaces) are dropped.
      drops_copies: whether a document with the text of an earlier one is dropped. Its memory is some 100 bytes a
        document.

    Attributes:
      num_short: documents dropped because they are short.
      num_copies: documents dropped because they are copies.
    """

    def __init__(self, *, min_words: int, drops_copies: bool):
        self._min_words = min_words
        self._drops_copies = drops_copies
        self.num_short = 0
        self.num_copies = 0

    def __call__(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Yields the documents that are kept, in order.

        Raises:
          UserError: (at the end) none was kept.
        """
        seen: set[bytes] = set()
        num_kept = 0
        for document in documents:
            if self._min_words and sum(len(line.split()) for line in document.lines) < self._min_words:
                self.num_short += 1
                continue
            if self._drops_copies:
                digest = hashlib.blake2b("\n".join(document.lines).encode("utf-8", "surrogatepass"), digest_size=16)
                if digest.digest() in seen:
                    self.num_copies += 1
                    continue
                seen.add(digest.digest())
            num_kept += 1
            yield document
        if not num_kept:
            raise UserError(
                f"no document of --input is left: {self.num_short:,} have fewer words than "
                f"--min_words={self._min_words}"
            )
