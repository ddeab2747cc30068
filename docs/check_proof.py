"""Check that an event is in the log of an exchange, with nothing of that exchange.

Run `python check_proof.py PROOF SHARD:POSITION:ROOT`, with what `exchange proof` wrote or printed
and the published root of the tree (RFC 9162, section 2.1) over the shard's events.
"""

import base64
import hashlib
import json
import sys
import zlib
from pathlib import Path

COLUMNS = ["shard", "position", "instrument", "type", "version", "command_id", "kafka_offset"]


def check(data: bytes, published: str) -> str:
    """Return the event that is proved; raise an error if it is not."""
    if data.startswith(b"{"):
        proof = json.loads(data)
        hashes = base64.b64decode(proof["path"])
        if base64.b64encode(hashes).decode() != proof.pop("path"):
            raise ValueError("the path is not as it is written")
    else:  # the fields are compressed, and the hashes follow as they are
        packed = zlib.decompressobj()
        proof, hashes = json.loads(packed.decompress(data, 2**16)), packed.unused_data
    if proof.keys() - {"root"} != {*COLUMNS, "data", "size"}:
        raise ValueError("the proof has other fields")
    event = "\x1f".join(str(proof[name]) for name in [*COLUMNS, "data"])
    root = hashlib.sha256(b"\0" + event.encode()).digest()
    at, last = proof["position"] - 1, proof["size"] - 1
    for other in (hashes[begin : begin + 32] for begin in range(0, len(hashes), 32)):
        is_right = at % 2 == 1 or at == last
        root = hashlib.sha256(b"\1" + (other + root if is_right else root + other)).digest()
        while is_right and at % 2 == 0 and at > 0:
            at, last = at // 2, last // 2
        at, last = at // 2, last // 2
    if last != 0 or proof.get("root", root.hex()) != root.hex():
        raise ValueError("the path does not lead to the root that the proof names")
    if f"{proof['shard']}:{proof['size']}:{root.hex()}" != published:
        raise ValueError("it does not lead to the published root")
    return f"event {proof['shard']}:{proof['position']} {proof['type']} {proof['data']}"


if __name__ == "__main__":
    try:
        told = check(Path(sys.argv[1]).read_bytes(), sys.argv[2])
        print("In the log:", told.encode("ascii", "backslashreplace").decode())
    except Exception as error:  # whatever is wrong with it, it proves nothing
        sys.exit(f"NOT PROVED: {error}" if len(sys.argv) == 3 else __doc__)
