"""Who is asking: the token, browser sessions and one-use tickets.

The token never travels in a URL. A browser trades it once for a cookie; a player that can only take a URL gets a ticket
that works for one request within 30 seconds. Sessions and tickets are random, bounded, and kept as hashes in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from detr_sentry.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN_FILE = "token"  # noqa: S105 - a file name
COOKIE = "detr_sentry_session"
SESSION_S = 30 * 86400
TICKET_S = 30.0
# More sessions or tickets than a household or a fleet operator opens; the oldest go first, so a flood costs no memory.
MAX_SESSIONS = 256
MAX_TICKETS = 1024
_TOKEN_BYTES = 32


def load_token(state_dir: Path) -> tuple[str, bool]:
    """The API token of this engine and whether it was made just now. It is stored in `state_dir/token`, mode 0600.

    Raises StorageError naming the path if it can be neither read nor made.
    """
    path = state_dir / TOKEN_FILE
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        made = not os.path.lexists(path) and _make_token(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor) as file:
            os.fchmod(descriptor, 0o600)
            token = file.read(4096).strip()
    except OSError as error:
        raise StorageError(f"cannot read or make the API token {path}: {error.strerror}") from error
    if len(token) < 16:
        raise StorageError(f"the API token in {path} has fewer than 16 characters: delete the file to get a new one")
    return token, made


def _make_token(path: Path) -> bool:
    """Make a token that is complete on disk before its name exists; False if another process was faster."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(_TOKEN_BYTES) + "\n")
            file.flush()
            os.fsync(descriptor)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        Path(temporary).unlink()
    return True


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


class Authenticator:
    """Checks tokens, sessions and tickets. `now` is a monotonic clock in seconds."""

    def __init__(self, token: str | None, now: Callable[[], float]) -> None:
        self._token = None if token is None else _digest(token)
        self._now = now
        self._sessions: OrderedDict[bytes, float] = OrderedDict()
        self._tickets: OrderedDict[bytes, float] = OrderedDict()

    def is_token(self, candidate: str) -> bool:
        """Whether this is the token; takes the same time for every wrong one."""
        return self._token is not None and hmac.compare_digest(_digest(candidate), self._token)

    def open_session(self) -> str:
        """The secret of a new session, good for SESSION_S."""
        return self._issue(self._sessions, SESSION_S, MAX_SESSIONS)

    def close_session(self, secret: str) -> None:
        """Forget a session; an unknown one is no error."""
        self._sessions.pop(_digest(secret), None)

    def is_session(self, secret: str) -> bool:
        """Whether the session is open."""
        return self._sessions.get(_digest(secret), 0.0) > self._now()

    def issue_ticket(self) -> str:
        """A ticket for one request within TICKET_S."""
        return self._issue(self._tickets, TICKET_S, MAX_TICKETS)

    def use_ticket(self, secret: str) -> bool:
        """Whether the ticket was good; it is not any more."""
        return self._tickets.pop(_digest(secret), 0.0) > self._now()

    def _issue(self, kept: OrderedDict[bytes, float], life_s: float, limit: int) -> str:
        now = self._now()
        while kept and (len(kept) >= limit or next(iter(kept.values())) <= now):
            kept.popitem(last=False)
        secret = secrets.token_urlsafe(_TOKEN_BYTES)
        # Keys are hashes, so the time of the look-up tells nothing about a secret.
        kept[_digest(secret)] = now + life_s
        return secret
