from __future__ import annotations

import asyncio
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSServerHandshakeError

from detr_sentry.errors import StorageError
from detr_sentry.gateway.auth import COOKIE, MAX_TICKETS, SESSION_S, TICKET_S, Authenticator, load_token
from detr_sentry.gateway.policy import api_policy, ingress_policy
from detr_sentry.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.engine.gateway.conftest import Running

TOKEN = "a-token-of-the-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
OPEN = api_policy(GatewaySettings(host="0.0.0.0"))
PROTECTED = [
    ("GET", "/api/v1/info"),
    ("GET", "/api/v1/cameras"),
    ("GET", "/api/v1/cameras/door/snapshot.jpg"),
    ("GET", "/api/v1/cameras/door/stream.mjpeg"),
    ("GET", "/api/v1/cameras/door/stream"),
    ("GET", "/api/v1/live"),
    ("GET", "/api/v1/events"),
    ("GET", "/api/v1/events/01KB1X5W9N6S4T3R2Q1P0M9K8J/snapshot.jpg"),
    ("GET", "/api/v1/settings"),
    ("GET", "/metrics"),
    ("GET", "/api/v1/nothing-here"),
    ("GET", "/a/b/c"),
    ("POST", "/api/v1/cameras/door/mode"),
    ("POST", "/api/v1/tickets"),
    ("DELETE", "/api/v1/session"),
    ("PUT", "/api/v1/companion"),
    ("DELETE", "/api/v1/companion"),
    ("PATCH", "/api/v1/settings"),
]


@pytest.fixture
async def guarded(start: Callable[..., Any]) -> Running:
    """A gateway that asks for the token."""
    running: Running = await start(policy=OPEN)
    running.engine.push_frame()
    await running.seen(1)
    return running


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_nothing_but_the_page_and_the_probes_answers_without_the_token(
    guarded: Running, method: str, path: str
) -> None:
    answers = []
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer "},
        {"Cookie": f"{COOKIE}={TOKEN}"},
        {"X-Ingress-Path": "/api/hassio_ingress/x", "X-Remote-User-Id": "admin", "X-Forwarded-For": "172.30.32.2"},
        {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
    ):
        kept: dict[str, Any] = {} if method in {"GET", "DELETE"} else {"json": {}}
        status, body = await guarded.send(method, path, headers=headers, **kept)
        answers.append((status, body["code"]))

    assert {(401, "unauthorized")} == set(answers)


@pytest.mark.parametrize("query", [f"?token={TOKEN}", f"?access_token={TOKEN}", f"?ticket={TOKEN}", "?ticket="])
async def test_the_token_in_a_url_opens_nothing(guarded: Running, query: str) -> None:
    status, _body = await guarded.get(f"/api/v1/cameras{query}")

    assert 401 == status


@pytest.mark.parametrize("path", ["/", "/page.js", "/healthz", "/readyz", "/api/v1/openapi.yaml"])
async def test_page_and_probes_need_no_token(guarded: Running, path: str) -> None:
    status, _body = await guarded.get(path)

    assert 200 == status


async def test_the_bearer_token_opens_everything(guarded: Running) -> None:
    status, body = await guarded.get("/api/v1/cameras", headers=BEARER)
    lower, _body = await guarded.get("/api/v1/cameras", headers={"Authorization": f"bearer {TOKEN}"})

    assert (200, "door", 200) == (status, body["cameras"][0]["id"], lower)


async def test_metrics_are_public_if_the_settings_say_so(start: Callable[..., Any], make_settings: Any) -> None:
    running = await start(policy=OPEN, settings=make_settings(metrics_public=True))
    status, body = await running.get("/metrics")

    assert (200, True) == (status, b"detr_sentry_gateway_jpeg_encoded_total 0" in body)


async def test_a_browser_trades_the_token_for_a_cookie_once(guarded: Running) -> None:
    origin = guarded.url.rstrip("/")
    async with guarded.http.post("/api/v1/session", json={"token": TOKEN}, headers={"Origin": origin}) as response:
        cookie = response.headers["Set-Cookie"]
    secret = cookie.split("=", 1)[1].split(";")[0]
    session = {"Cookie": f"{COOKIE}={secret}"}
    status, _ = await guarded.get("/api/v1/cameras", headers=session)
    changed, _ = await guarded.send(
        "POST", "/api/v1/cameras/door/mode", json={"mode": "auto"}, headers={**session, "Origin": origin}
    )
    without_origin, _ = await guarded.send("POST", "/api/v1/cameras/door/mode", json={"mode": "auto"}, headers=session)
    closed, _ = await guarded.send("DELETE", "/api/v1/session", headers={**session, "Origin": origin})
    after, _ = await guarded.get("/api/v1/cameras", headers=session)

    assert {"httponly", "samesite=strict", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    assert TOKEN not in cookie
    assert (200, 200, 403, 204, 401) == (status, changed, without_origin, closed, after)


async def test_a_wrong_token_opens_no_session(guarded: Running) -> None:
    async with guarded.http.post("/api/v1/session", json={"token": "wrong"}) as response:
        cookies = response.headers.getall("Set-Cookie", [])

    assert (401, []) == (response.status, cookies)


async def test_a_session_where_none_is_needed_sets_nothing(running: Running) -> None:
    async with running.http.post("/api/v1/session", json={"token": ""}) as response:
        cookies = response.headers.getall("Set-Cookie", [])

    assert (204, []) == (response.status, cookies)


async def test_a_ticket_opens_one_get(guarded: Running) -> None:
    status, issued = await guarded.send("POST", "/api/v1/tickets", json={}, headers=BEARER)
    path = f"/api/v1/cameras/door/stream?ticket={issued['ticket']}"
    async with guarded.http.ws_connect(path) as ws:
        first = await ws.receive(timeout=5)
    again, _ = await guarded.get(f"/api/v1/cameras?ticket={issued['ticket']}")
    _, other = await guarded.send("POST", "/api/v1/tickets", json={}, headers=BEARER)
    posted, _ = await guarded.send("POST", f"/api/v1/cameras/door/mode?ticket={other['ticket']}", json={"mode": "auto"})

    assert (201, 30.0, True) == (status, issued["expires_in"], len(first.data) > 100)
    assert (401, 401) == (again, posted)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8099", "localhost.evil.example", "10.0.0.1"])
@pytest.mark.parametrize("path", ["/", "/api/v1/cameras", "/healthz", "/metrics"])
async def test_a_foreign_host_is_refused_everywhere(running: Running, host: str, path: str) -> None:
    status, body = await running.get(path, headers={"Host": host})

    assert (403, "host_not_allowed") == (status, body["code"])


CHANGES = [
    ("POST", "/api/v1/cameras/door/mode", {"mode": "off"}),
    ("POST", "/api/v1/session", {"token": TOKEN}),
    ("POST", "/api/v1/tickets", {}),
    ("PUT", "/api/v1/companion", {"ha_instance": "x", "replace_mqtt_entities": True}),
    ("DELETE", "/api/v1/companion", None),
    ("DELETE", "/api/v1/session", None),
    ("PATCH", "/api/v1/settings", {"name": "x"}),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
async def test_another_page_changes_nothing_on_loopback_too(
    running: Running, method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    status, problem = await running.send(method, path, json=body, headers=headers)

    assert (403, "origin_not_allowed") == (status, problem["code"])
    assert [] == running.engine.modes


@pytest.mark.parametrize("path", ["/api/v1/cameras/door/stream", "/api/v1/live"])
@pytest.mark.parametrize("token", [False, True])
async def test_another_page_opens_no_websocket(start: Callable[..., Any], path: str, token: bool) -> None:
    running: Running = await start(policy=OPEN if token else None)
    headers = {"Origin": "http://evil.example", **(BEARER if token else {})}
    with pytest.raises(WSServerHandshakeError) as refused:
        await running.http.ws_connect(path, headers=headers)
    own = await running.http.ws_connect(path, headers={**headers, "Origin": running.url.rstrip("/")})
    await own.close()

    assert 403 == refused.value.status


async def test_another_site_may_link_to_the_page_but_not_embed_pictures(running: Running) -> None:
    embedded, _ = await running.get("/api/v1/cameras/door/snapshot.jpg", headers={"Sec-Fetch-Site": "cross-site"})
    linked, _ = await running.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})

    assert (403, 200) == (embedded, linked)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_what_a_form_can_send_is_refused(running: Running, content_type: str) -> None:
    status, body = await running.send(
        "POST", "/api/v1/cameras/door/mode", data=b'{"mode":"off"}', headers={"Content-Type": content_type}
    )

    assert (415, "unsupported_media_type", []) == (status, body["code"], running.engine.modes)


async def test_the_ingress_port_answers_its_proxy_only(start: Callable[..., Any]) -> None:
    proxied: Running = await start(policy=replace(ingress_policy(0, "127.0.0.1"), host="127.0.0.1"))
    headers = {"Host": "ha.example", "Origin": "https://ha.example", "X-Ingress-Path": "/api/hassio_ingress/x"}
    own, _ = await proxied.send("POST", "/api/v1/cameras/door/mode", json={"mode": "auto"}, headers=headers)
    foreign, _ = await proxied.send(
        "POST",
        "/api/v1/cameras/door/mode",
        json={"mode": "off"},
        headers={**headers, "Origin": "https://evil.example"},
    )

    assert (200, 403, [("auto", None)]) == (own, foreign, proxied.engine.modes)


async def test_forged_ingress_headers_do_not_make_a_proxy(start: Callable[..., Any]) -> None:
    running: Running = await start(policy=replace(ingress_policy(0, "172.30.32.2"), host="127.0.0.1"))
    answers = []
    for path in ("/", "/healthz", "/api/v1/cameras", "/api/v1/cameras/door/stream"):
        status, body = await running.get(
            path,
            headers={
                "X-Ingress-Path": "/api/hassio_ingress/x",
                "X-Forwarded-For": "172.30.32.2",
                "X-Real-IP": "172.30.32.2",
                "X-Remote-User-Id": "admin",
            },
        )
        answers.append((status, body["code"]))

    assert [(403, "peer_not_allowed")] * 4 == answers


def test_sessions_and_tickets_end_in_time() -> None:
    now = 1000.0
    auth = Authenticator(TOKEN, lambda: now)
    session, ticket, late = auth.open_session(), auth.issue_ticket(), auth.issue_ticket()
    used = (auth.use_ticket(ticket), auth.use_ticket(ticket))
    now += TICKET_S
    late_use = auth.use_ticket(late)
    now += SESSION_S - TICKET_S - 1
    before_end = auth.is_session(session)
    now += 1

    assert (True, False) == used
    assert (False, True, False) == (late_use, before_end, auth.is_session(session))


def test_a_flood_of_tickets_is_bounded_and_costs_the_oldest() -> None:
    auth = Authenticator(TOKEN, lambda: 0.0)
    tickets = [auth.issue_ticket() for _ in range(MAX_TICKETS + 1)]

    assert not auth.use_ticket(tickets[0])
    assert auth.use_ticket(tickets[1])
    assert auth.use_ticket(tickets[-1])


@pytest.mark.parametrize("wrong", ["", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\udcff", "é"])
def test_only_the_token_is_the_token(wrong: str) -> None:
    auth = Authenticator(TOKEN, lambda: 0.0)

    assert (True, False) == (auth.is_token(TOKEN), auth.is_token(wrong))


def test_without_a_token_no_token_is_right() -> None:
    assert not Authenticator(None, lambda: 0.0).is_token("")


def test_the_token_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    token, made = load_token(state)
    again, made_again = load_token(state)
    mode = stat.S_IMODE((state / "token").stat().st_mode)

    assert (True, False, 0o600) == (made, made_again, mode)
    assert token == again
    assert len(token) >= 43
    assert ["token"] == [entry.name for entry in state.iterdir()]


def test_a_token_that_others_could_read_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o644)
    token, _made = load_token(tmp_path)

    assert (TOKEN, 0o600) == (token, stat.S_IMODE(file.stat().st_mode))


@pytest.mark.parametrize("content", ["", "short\n"])
def test_a_weak_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(StorageError, match="fewer than 16"):
        load_token(tmp_path)


def test_a_link_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(TOKEN)
    (tmp_path / "token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="token"):
        load_token(tmp_path)


async def test_two_gateways_that_start_at_once_agree_on_the_token(tmp_path: Path) -> None:
    results = await asyncio.gather(*(asyncio.to_thread(load_token, tmp_path) for _ in range(8)))

    assert 1 == len({token for token, _made in results})
    assert 1 == sum(made for _token, made in results)
