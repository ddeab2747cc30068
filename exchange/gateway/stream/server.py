"""What Hypercorn leaves open about WebSockets, closed: compression and endless messages.

Hypercorn 0.18 always offers permessage-deflate, which inflates without bound (400 kB on the
wire become 470 MB), and goes on collecting a message that is too long for as long as a
client ignores that it was told so. Neither is a setting, so ``harden`` replaces the two
parts of it, once, before the server starts.
"""

from hypercorn.protocol import h11, ws_stream
from hypercorn.protocol.events import StreamClosed
from wsproto.events import CloseConnection

MESSAGE_BYTES_MAX = 64 * 1024  # the largest message that makes sense has less than one


class BoundedStream(ws_stream.WSStream):
    """Ends when we close it or a message is too long, whatever its client does."""

    async def _handle_events(self) -> None:
        if self.state is ws_stream.ASGIWebsocketState.CLOSED:
            await self._heed_close()
            return
        await super()._handle_events()
        if self.buffer.length > self.buffer.max_length:
            self.buffer.clear()
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def _heed_close(self) -> None:
        """Drop what comes after our close, which nobody takes, but for the client's own."""
        for event in self.connection.events():
            if isinstance(event, CloseConnection):
                await self.send(StreamClosed(stream_id=self.stream_id))


def harden() -> None:
    """Let WebSockets neither compress nor collect without bound."""
    setattr(ws_stream, "server_extensions_handshake", _no_extensions)  # noqa: B010
    setattr(h11, "WSStream", BoundedStream)  # noqa: B010


def _no_extensions(_requested: object, _supported: object) -> None:
    return None
