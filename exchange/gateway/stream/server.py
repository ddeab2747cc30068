"""What Hypercorn leaves open about WebSockets, closed: compression, endless messages, pings.

Hypercorn 0.18 always offers permessage-deflate, which inflates without bound (400 kB on the
wire become 470 MB), goes on collecting a message that is too long for as long as a client
ignores that it was told so, and answers any number of pings, of which the application never
hears. None is a setting, so ``harden`` replaces the two parts of it, once, before the server
starts.
"""

from typing import Any, Final

from hypercorn.protocol import h11, ws_stream
from hypercorn.protocol.events import StreamClosed
from wsproto.events import CloseConnection, Event, Pong
from wsproto.frame_protocol import CloseReason

from exchange.gateway.stream.token_bucket import TokenBucket

MESSAGE_BYTES_MAX = 64 * 1024  # the largest message that makes sense has less than one
PINGS_PER_SECOND_MAX: Final = 10
PINGS_BURST_MAX: Final = 20  # two seconds of them


class BoundedStream(ws_stream.WSStream):
    """Ends when we close it, or its client sends too long a message or too many pings."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pings = TokenBucket(PINGS_PER_SECOND_MAX, PINGS_BURST_MAX)

    async def _handle_events(self) -> None:
        if self.state is ws_stream.ASGIWebsocketState.CLOSED:
            await self._heed_close()
            return
        await super()._handle_events()
        if self.buffer.length > self.buffer.max_length:
            self.buffer.clear()
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_wsproto_event(self, event: Event) -> None:
        if not isinstance(event, Pong) or self._pings.take():
            await super()._send_wsproto_event(event)
        elif self.state is not ws_stream.ASGIWebsocketState.CLOSED:
            self.state = ws_stream.ASGIWebsocketState.CLOSED
            reason = f"more than {PINGS_PER_SECOND_MAX} pings a second"
            await super()._send_wsproto_event(CloseConnection(CloseReason.POLICY_VIOLATION, reason))
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
