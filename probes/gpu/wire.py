"""What the daemon and its NVML child say to each other: one JSON object a line, each with the version and a kind.

daemon -> child   read {index, processes, health}
                  register {}                               for Xids, once the child has said that it would
child -> daemon   hello {why, driver, cuda, devices}        once NVML was opened, or not: `why`; devices: how many
                  reading {index, devices}                  the answer to read: `reading.encode` of a GPU and its slices
                  registering {}                            it would register for Xids, which asks about every device
                  watched {devices}                         the answer to register: UUIDs of those that tell their Xids;
                                                            none when the wait for them has failed
                  xid {at, device, xid}
                  beat {call, late_s, xid_late_s}           every BEAT_S: the call that has not returned, None for none,
                                                            and by how much; the same for the wait for Xids
"""

from __future__ import annotations

import json
from typing import Any

VERSION = 2
BEAT_S = 1.0
MAX_LINE_BYTES = 4_000_000  # a thousand processes on a device are 30 kB


class WireError(Exception):
    """A line that is not understood."""


def encode(kind: str, **fields: Any) -> bytes:
    return json.dumps({"v": VERSION, "kind": kind, **fields}, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """An object with a `kind`. Raises WireError."""
    try:
        said = json.loads(line)
    except ValueError as error:
        raise WireError("no JSON") from error
    if not isinstance(said, dict) or not isinstance(said.get("kind"), str):
        raise WireError("no object with a kind")
    if said.get("v") != VERSION:
        raise WireError(f"version {said.get('v')!r}; this is version {VERSION}: restart the daemon after an upgrade")
    return said
