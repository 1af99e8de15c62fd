"""Bodies of answers that break on their way."""

from collections.abc import Iterator

import httpx2


class CutStream(httpx2.SyncByteStream):
    """A body that breaks after its first `chunks` pieces."""

    def __init__(self, inner: httpx2.SyncByteStream, chunks: int) -> None:
        self._inner = inner
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for number, chunk in enumerate(self._inner):
            if number == self._chunks:
                raise httpx2.ReadError("connection reset")
            yield chunk

    def close(self) -> None:
        self._inner.close()
