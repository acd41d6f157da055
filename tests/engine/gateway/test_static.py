from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from detr_sentry.gateway.static import load_page

if TYPE_CHECKING:
    from tests.engine.gateway.conftest import Running


class Tags(HTMLParser):
    """What a page loads, and what of it is inline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loads += [value for name in ("src", "href") if (value := given.get(name))]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        self._open = tag if tag in {"script", "style"} else ""

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.inline.append(data)


async def test_the_page_and_all_that_it_loads_are_served_under_a_strict_policy(running: Running) -> None:
    async with running.http.get("/") as response:
        tags = Tags(await response.text())
        policy = response.headers["Content-Security-Policy"]
    loaded = []
    for target in tags.loads:
        if not target.startswith("#"):
            async with running.http.get(f"/{target.removeprefix('./')}") as response:
                loaded.append((target, response.status))

    assert [] == tags.inline
    assert loaded
    assert [] == [entry for entry in loaded if entry[1] != 200]
    assert "unsafe" not in policy
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= {
        part.strip() for part in policy.split(";")
    }


def test_no_file_of_the_page_names_another_host() -> None:
    found = [
        (name, host)
        for name, file in load_page().items()
        if file.content_type.startswith("text/")
        for host in re.findall(rb"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", file.body)
        if b"www.w3.org" not in host
    ]

    assert [] == found


async def test_a_browser_that_has_a_file_does_not_load_it_again(running: Running) -> None:
    async with running.http.get("/page.js") as response:
        etag, kind, cache = response.headers["ETag"], response.content_type, response.headers["Cache-Control"]
    async with running.http.get("/page.js", headers={"If-None-Match": etag}) as response:
        again = response.status
    async with running.http.get("/page.js", headers={"If-None-Match": '"other"'}) as response:
        changed = response.status

    assert ("text/javascript", "no-cache", 304, 200) == (kind, cache, again, changed)


@pytest.mark.parametrize(
    "path",
    [
        "/../service.py",
        "/..%2fservice.py",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%5cservice.py",
        "//etc/passwd",
        "/web/../service.py",
        "/page.js%00.html",
        "/.hidden",
        "/index.html/",
        "/web",
        "/api/v1/events/..%2f..%2ftoken/snapshot.jpg",
        "/api/v1/events/....//....//token/snapshot.jpg",
        "/api/v1/events/%2Fetc%2Fpasswd/snapshot.jpg",
        "/api/v1/openapi.yaml/../../../token",
    ],
)
async def test_no_path_leaves_the_page(running: Running, path: str) -> None:
    async with running.http.get(URL(running.url.rstrip("/") + path, encoded=True)) as response:
        body = await response.read()

    assert response.status in {400, 404}
    assert b"root:" not in body
    assert b"import" not in body
