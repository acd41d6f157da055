"""What one listener lets in: peers, hosts, origins and whether a token is asked for.

The app is built once per listener, from the same gateway and a policy of its own: an ingress and an API port differ
in whom they trust and in nothing else.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from detr_sentry.errors import SettingsError

if TYPE_CHECKING:
    from detr_sentry.settings import GatewaySettings

LOOPBACK_NAMES = frozenset({"localhost"})
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerPolicy:
    """The trust of one listener.

    `hosts` are the names a Host header may carry; `None` leaves the check to `peers`. `ip_hosts` says which IP literals
    pass as Host: "loopback" or "any" (an address cannot be rebound by DNS, a name can). `peers` are the only addresses
    that may connect; empty means all. `origins` are allowed beside the request's own.
    """

    host: str
    port: int
    token_required: bool
    hosts: frozenset[str] | None = LOOPBACK_NAMES
    ip_hosts: str = "loopback"
    origins: frozenset[str] = frozenset()
    peers: frozenset[str] = frozenset()

    def allows_peer(self, address: str | None) -> bool:
        """Whether this address may talk to the listener at all."""
        return not self.peers or (address is not None and _plain_address(address) in self.peers)

    def allows_host(self, header: str | None) -> bool:
        """Whether a Host header names this engine; a missing one never does."""
        if self.hosts is None:
            return True
        name, _port = split_host(header or "")
        if not name:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return self.ip_hosts == "any" or address.is_loopback or str(address) in self.hosts

    def allows_origin(self, origin: str, *, scheme: str, hosts: tuple[str, ...]) -> bool:
        """Whether a page of `origin` may change things or open sockets: it was served by us, or it is listed.

        `hosts` are the Host headers by which the browser may have reached us; `scheme` is the one that we see.
        """
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme not in DEFAULT_PORTS or not parts.netloc or parts.path not in {"", "/"}:
            return False
        if normal_origin(origin) in self.origins:
            return True
        # Behind ingress TLS ends before us, so only there the scheme may differ from ours.
        if self.hosts is not None and parts.scheme != scheme:
            return False
        default = DEFAULT_PORTS[parts.scheme]
        wanted = split_host(parts.netloc, default)
        return any(split_host(host, default) == wanted for host in hosts)


def split_host(netloc: str, default_port: int = 0) -> tuple[str, int]:
    """`name:port` in lower case without brackets or a final dot; ("", 0) if it is malformed."""
    try:
        parts = urlsplit(f"//{netloc}")
        port = parts.port
    except ValueError:
        return "", 0
    name = parts.hostname
    if name is None or parts.username is not None or parts.path or parts.query or parts.fragment:
        return "", 0
    return name.rstrip("."), port if port is not None else default_port


def normal_origin(url: str) -> str:
    """The origin of a URL in one spelling: scheme, host, and the port only where it is not the default."""
    parts = urlsplit(url)
    name, port = split_host(parts.netloc, DEFAULT_PORTS.get(parts.scheme, 0))
    shown = f"[{name}]" if ":" in name else name
    return (
        f"{parts.scheme}://{shown}" if port == DEFAULT_PORTS.get(parts.scheme) else f"{parts.scheme}://{shown}:{port}"
    )


def is_loopback(host: str) -> bool:
    """Whether a listening address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in LOOPBACK_NAMES


def api_policy(settings: GatewaySettings) -> ListenerPolicy:
    """The policy of the ordinary listener: open on loopback, by token everywhere else. Raises SettingsError."""
    loopback = is_loopback(settings.host)
    hosts = set(LOOPBACK_NAMES)
    hosts.update(split_host(host)[0] for host in settings.allowed_hosts)
    origins = frozenset[str]()
    if settings.public_url:
        try:
            hosts.add(split_host(urlsplit(settings.public_url).netloc)[0])
            origins = frozenset({normal_origin(settings.public_url)})
        except ValueError as error:
            raise SettingsError("gateway.public_url", f"is not a URL: {error}") from error
    if not loopback:
        hosts.add(settings.host.lower())
    return ListenerPolicy(
        host=settings.host,
        port=settings.port,
        token_required=not loopback,
        hosts=frozenset(hosts - {""}),
        ip_hosts="loopback" if loopback else "any",
        origins=origins,
    )


def ingress_policy(port: int, peer: str, host: str = "0.0.0.0") -> ListenerPolicy:  # noqa: S104 - the peer check is the wall
    """The policy behind Home Assistant's ingress: its proxy alone may connect; it has asked who is there."""
    return ListenerPolicy(host=host, port=port, token_required=False, hosts=None, peers=frozenset({peer}))


def _plain_address(address: str) -> str:
    parsed = ipaddress.ip_address(address.split("%", 1)[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
