from __future__ import annotations

import pytest

from detr_sentry.errors import SettingsError
from detr_sentry.gateway.policy import api_policy, ingress_policy, is_loopback, normal_origin, split_host
from detr_sentry.settings import GatewaySettings

LOOPBACK = api_policy(GatewaySettings())
OPEN = api_policy(
    GatewaySettings(host="0.0.0.0", allowed_hosts=("sentry.lan",), public_url="https://Cam.Example:8443/sentry")
)
INGRESS = ingress_policy(8099, "172.30.32.2")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_a_loopback_address_needs_no_token(host: str) -> None:
    assert not api_policy(GatewaySettings(host=host)).token_required


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "sentry.lan", "localhost.evil.example"])
def test_every_other_address_needs_the_token(host: str) -> None:
    assert api_policy(GatewaySettings(host=host)).token_required


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8099", True),
        ("localhost:8099", True),
        ("LocalHost.", True),
        ("[::1]:8099", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("192.168.1.5:8099", False),
        ("", False),
        (None, False),
        ("user@localhost", False),
        ("localhost/path", False),
        ("localhost:port", False),
        ("[::1", False),
    ],
)
def test_on_loopback_only_loopback_names_pass_as_host(header: str | None, allowed: bool) -> None:
    assert allowed is LOOPBACK.allows_host(header)


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("192.168.1.5:8099", True),
        ("[fd00::5]:8099", True),
        ("sentry.lan:8099", True),
        ("cam.example:8443", True),
        ("localhost", True),
        ("evil.example", False),
        ("sentry.lan.evil.example", False),
    ],
)
def test_elsewhere_addresses_and_listed_names_pass_as_host(header: str, allowed: bool) -> None:
    assert allowed is OPEN.allows_host(header)


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://127.0.0.1:8099", "127.0.0.1:8099", True),
        ("http://localhost:8099", "127.0.0.1:8099", False),
        ("http://127.0.0.1:8098", "127.0.0.1:8099", False),
        ("http://127.0.0.1", "127.0.0.1:80", True),
        ("https://127.0.0.1:8099", "127.0.0.1:8099", False),
        ("null", "127.0.0.1:8099", False),
        ("", "127.0.0.1:8099", False),
        ("http://evil.example", "127.0.0.1:8099", False),
        ("http://127.0.0.1:8099/x", "127.0.0.1:8099", False),
        ("http://127.0.0.1:8099@evil.example", "127.0.0.1:8099", False),
        ("file://127.0.0.1:8099", "127.0.0.1:8099", False),
        ("http://[::1", "127.0.0.1:8099", False),
    ],
)
def test_only_the_page_that_we_served_is_an_origin(origin: str, host: str, allowed: bool) -> None:
    assert allowed is LOOPBACK.allows_origin(origin, scheme="http", hosts=(host,))


def test_the_public_url_is_an_origin_of_its_own() -> None:
    allowed = OPEN.allows_origin("https://cam.example:8443", scheme="http", hosts=("10.0.0.5:8099",))
    other_port = OPEN.allows_origin("https://cam.example", scheme="http", hosts=("10.0.0.5:8099",))

    assert (True, False) == (allowed, other_port)


def test_behind_ingress_the_scheme_may_differ_but_not_the_host() -> None:
    ours = INGRESS.allows_origin("https://ha.example", scheme="http", hosts=("172.30.33.4:8099", "ha.example"))
    other = INGRESS.allows_origin("https://evil.example", scheme="http", hosts=("172.30.33.4:8099", "ha.example"))

    assert (True, False) == (ours, other)


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [("172.30.32.2", True), ("::ffff:172.30.32.2", True), ("172.30.32.3", False), ("127.0.0.1", False), (None, False)],
)
def test_only_the_ingress_proxy_may_connect_to_its_port(peer: str | None, allowed: bool) -> None:
    assert allowed is INGRESS.allows_peer(peer)


def test_any_peer_may_connect_elsewhere() -> None:
    assert OPEN.allows_peer("203.0.113.9")


def test_hosts_and_origins_have_one_spelling() -> None:
    assert ("fd00::5", 80) == split_host("[FD00::5]", 80)
    assert "https://cam.example" == normal_origin("https://CAM.example:443/path")
    assert "http://[fd00::5]:8099" == normal_origin("http://[fd00::5]:8099")
    assert not is_loopback("sentry.lan")


def test_a_public_url_that_is_none_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match=r"gateway\.public_url"):
        api_policy(GatewaySettings(public_url="http://[::1"))
