"""What a client's library reads of the frames that are written to a connection."""

import json
from typing import Any

from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import TextMessage


def payload_of(frame: bytes) -> str:
    """Return the one text that a frame carries."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frame)
    (event,) = client.events()
    assert isinstance(event, TextMessage)
    assert event.message_finished
    return event.data


def message_of(frame: bytes) -> Any:
    """Return the one message that a frame carries."""
    return json.loads(payload_of(frame))
