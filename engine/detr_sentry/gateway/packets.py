"""The frame message of the stream: u32 little-endian length of the JSON, the JSON, the JPEG (as in the reference)."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_LENGTH = struct.Struct("<I")


def encode_packet(header: Mapping[str, Any], jpeg: bytes = b"") -> bytes:
    """One message; without a JPEG it ends after the JSON."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    return b"".join((_LENGTH.pack(len(text)), text, jpeg))
