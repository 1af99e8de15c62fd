"""HTTP protocol that refuses malformed requests with a problem document."""

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ranksieve.api.http.errors import refuse_unreadable


class Protocol(H11Protocol):
    """Uvicorn's protocol with problem documents in place of plain-text refusals.

    The application never sees such a request.
    """

    def send_400_response(self, msg: str) -> None:
        """Answer and close the connection: the next request's start is unknown."""
        answer = refuse_unreadable(msg)
        headers = [*answer.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=answer.status_code, headers=headers),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
