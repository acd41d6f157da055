"""The controller's socket: newline-delimited JSON over a Unix stream socket, mode 0600.

A request is `{"id": n, "op": "...", ...}`, its answer `{"id": n, "ok": true, "result": ...}` or
`{"id": n, "ok": false, "code": "...", "error": text}`. After `subscribe` the server also sends pushes,
`{"push": "...", ...}`, without an id. Answers come in the order of the requests of a connection.

Everything is bounded: lines to `MAX_LINE_BYTES`, connections to `MAX_CLIENTS`, waiting pushes to the newest of each key
(state) or to `MAX_EVENTS` (events); a client that takes nothing for `SEND_TIMEOUT_S` is disconnected.
"""

from __future__ import annotations

from ._control_client import ControlClient
from ._control_format import MAX_CLIENTS, MAX_EVENTS, MAX_LINE_BYTES, SEND_TIMEOUT_S
from ._control_server import ControlServer

__all__ = ["MAX_CLIENTS", "MAX_EVENTS", "MAX_LINE_BYTES", "SEND_TIMEOUT_S", "ControlClient", "ControlServer"]
