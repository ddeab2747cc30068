"""Is a gateway ready, or does it say that a part of the exchange is healthy?

Containers ask this every few seconds for as long as they run, as ``python -S -m exchange.healthy``.
So it imports a little of the standard library and nothing else: importing all of ``exchange`` takes
more than a second of processor time, this a fortieth of that.
"""

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Final

READINESS: Final = "readiness"
PROJECTIONS: Final = "projections"
PARTS: Final = (READINESS, "checks", "matching", PROJECTIONS)  # of a gateway's health

WELL: Final = frozenset({"healthy"})
# Whoever restarts what is not healthy would make a projector that lags lag more, and a model that
# an operator paused stays paused.
AT_WORK: Final = WELL | {"lagging", "paused"}
LOOPBACK: Final = "127.0.0.1"
PORT: Final = 3000
KEYS: Final = "keys"  # DOOR where requests are signed
INSIDE_PORT: Final = 3800  # GATEWAY_METRICS_PORT

TIMEOUT_S: Final = 4.0  # compose gives the check up after 5 s
ANSWER_BYTES_MAX: Final = 1024 * 1024  # 64 shards take 2 KiB


def main(arguments: Sequence[str]) -> int:
    """Return the exit code: 0 if the part that is named is healthy, 2 if none is named."""
    if not arguments or arguments[0] not in PARTS:
        print(f"name one of {', '.join(PARTS)}, and a host", file=sys.stderr)
        return 2
    part, host = arguments[0], arguments[1] if len(arguments) > 1 else LOOPBACK
    return 0 if is_healthy(part, host, port_of(os.environ)) else 1


def port_of(environ: Mapping[str, str]) -> int:
    """Return where a gateway tells all of its health to who has no key."""
    if environ.get("DOOR", "").strip().lower() != KEYS:
        return PORT
    return int(environ.get("GATEWAY_METRICS_PORT", "").strip() or INSIDE_PORT)


def is_healthy(part: str, host: str, port: int) -> bool:
    """Tell whether a gateway is ready (``readiness``), or a part of its health is healthy.

    Projections that lag or are paused count as healthy: their projector is at work.
    """
    try:
        status, body = _get(host, port, "/readyz" if part == READINESS else "/healthz")
        if part == READINESS:
            return status == b"200"
        states = json.loads(body).get(part)
    except (OSError, ValueError, AttributeError):  # nobody answers, or something else does
        return False
    fine = AT_WORK if part == PROJECTIONS else WELL
    return isinstance(states, dict) and bool(states) and set(states.values()) <= fine


def _get(host: str, port: int, path: str) -> tuple[bytes, bytes]:
    """Return status and body of an answer that ends with its connection."""
    with socket.create_connection((host, port), TIMEOUT_S) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = b""
        while (part := connection.recv(65_536)) and len(answer) <= ANSWER_BYTES_MAX:
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    _version, _, rest = head.partition(b" ")
    return rest[:3], body


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
