"""Check that an event is in the log of an exchange, with nothing of that exchange.

    python check_proof.py PROOF SHARD:POSITION:ROOT

PROOF is what `exchange proof` wrote or, with --json, printed, and SHARD:POSITION:ROOT what was
published: the root of the tree (RFC 9162, section 2.1) over the shard's events up to that position.
"""

import base64
import hashlib
import json
import sys
import zlib
from pathlib import Path
from typing import Any

COLUMNS = ["shard", "position", "instrument", "type", "version", "command_id"]
COLUMNS += ["kafka_offset", "data"]


def read(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the fields of a proof, and the hashes that lead from its event to the root."""
    if not data.startswith(b"{"):  # the fields are compressed, and the hashes follow as they are
        packed = zlib.decompressobj()
        return json.loads(packed.decompress(data, 2**16)), packed.unused_data
    proof = json.loads(data)
    path = proof.pop("path")
    if base64.b64encode(hashes := base64.b64decode(path)).decode() != path:
        raise ValueError("the path is not as it is written")
    return proof, hashes


def check(data: bytes, published: str) -> str:
    """Return the event that is proved; raise ValueError if it is not."""
    proof, hashes = read(data)
    if proof.keys() - {"root"} != {*COLUMNS, "size"}:
        raise ValueError("the proof has other fields")
    event = "\x1f".join(str(proof[column]) for column in COLUMNS)
    root = hashlib.sha256(b"\0" + event.encode()).digest()
    at, last = proof["position"] - 1, proof["size"] - 1
    for begin in range(0, len(hashes), 32):
        if last == 0:
            raise ValueError("the path is too long")
        other = hashes[begin : begin + 32]
        is_right = at % 2 == 1 or at == last
        root = hashlib.sha256(b"\1" + (other + root if is_right else root + other)).digest()
        while is_right and at % 2 == 0 and at > 0:
            at, last = at // 2, last // 2
        at, last = at // 2, last // 2
    if at != 0 or last != 0 or f"{proof['shard']}:{proof['size']}:{root.hex()}" != published:
        raise ValueError("it does not lead to the published root")
    if proof.get("root", root.hex()) != root.hex():
        raise ValueError("the proof names another root than it leads to")
    return f"event {proof['shard']}:{proof['position']} {proof['type']} {proof['data']}"


if __name__ == "__main__":
    try:
        told = check(Path(sys.argv[1]).read_bytes(), sys.argv[2])
        print("In the log:", told.encode("ascii", "backslashreplace").decode())
    except Exception as error:  # whatever is wrong with it, it proves nothing
        sys.exit(f"NOT PROVED: {error}")
