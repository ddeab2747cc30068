"""What happens at an exchange, message by message, through every disconnection.

Read ``follow``. The caller is asked for its subscription at each connection: a caller that has seen
trades up to a sequence goes on after it, and a caller that keeps a book begins with a snapshot.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

PAUSE_S: Final = (0.2, 5.0)  # before connecting again: the first, and the longest
SILENT_S: Final = 10.0  # heartbeats come each second

Message = dict[str, Any]
Take = Callable[[Message], bool]


class Gap(Exception):
    """A message is missing, so the caller must begin anew on another connection."""


class Refused(Exception):
    """The exchange does not take the subscription; the message is one line."""


def stream_url(base_url: str) -> str:
    """Return where an exchange's stream is."""
    return f"{base_url.replace('http', 'ws', 1).rstrip('/')}/stream"


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """Connect to a stream, with the options of ``connect``, and leave no socket behind.

    A connection whose closing is cancelled would stay half closed for as long as it is referred to.
    """
    socket = await connect(url, **options)
    try:
        async with socket:
            yield socket
    finally:
        socket.transport.abort()


def read(text: str | bytes) -> Message:
    """Read a message without rounding its numbers."""
    message: Message = json.loads(text, parse_float=Decimal)
    return message


async def follow(
    base_url: str, subscription: Callable[[], Message], take: Take, tell: Callable[[str], None]
) -> None:
    """Hand messages to ``take`` until it has enough, connecting again whenever that is needed.

    Args:
        base_url: Of a gateway.
        subscription: Returns the message that each connection begins with.
        take: Returns whether it has seen enough; may raise ``Gap``.
        tell: Gets one line when the connection is lost, and an empty one when it is back.

    Raises:
        Refused: The exchange does not take the subscription.
    """
    pause_s = PAUSE_S[0]
    while True:
        try:
            url = stream_url(base_url)
            async with connected(url, compression=None) as socket:
                await socket.send(json.dumps(subscription()))
                await _first(socket)
                tell("")
                pause_s = PAUSE_S[0]
                while not take(await _next(socket)):
                    pass
                return
        except InvalidURI as error:
            raise Refused(str(error)) from error
        except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake, Gap) as error:
            reason = str(error) or "it says nothing"
            tell(f"connecting to {base_url} again ({reason})")
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, PAUSE_S[1])


async def _first(socket: ClientConnection) -> None:
    hello = await _next(socket)
    assert hello["type"] == "connected", hello


async def _next(socket: ClientConnection) -> Message:
    async with asyncio.timeout(SILENT_S):
        message = read(await socket.recv())
    if message["type"] != "error":
        return message
    if message["status"] >= 500:  # it passes
        raise TimeoutError(message["detail"])
    raise Refused(f"{message['code']}: {message['detail']}")
