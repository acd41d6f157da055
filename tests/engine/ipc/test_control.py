from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detr_sentry.errors import ControlError, IpcError, StorageError
from detr_sentry.ipc import _control_format
from detr_sentry.ipc.control import MAX_CLIENTS, MAX_EVENTS, MAX_LINE_BYTES, ControlClient, ControlServer


@pytest.fixture(autouse=True)
def no_blocking() -> Iterator[None]:
    with blockbuster_ctx("detr_sentry"):
        yield


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ds"))
    yield folder / "control.sock"
    shutil.rmtree(folder)


async def handle(op: str, arguments: Mapping[str, Any]) -> Any:
    match op:
        case "echo":
            return dict(arguments)
        case "late":
            await asyncio.sleep(0.3)
            return "late"
        case "slow":
            await asyncio.sleep(3600)
        case "refuse":
            raise ControlError("unknown_camera", "there is no camera 'x'")
        case "full":
            raise StorageError("/state: no space")
        case "bug":
            raise KeyError("oh")
    raise ControlError("unknown_op", f"unknown operation {op!r}")


@pytest.fixture
async def server(place: Path) -> AsyncIterator[ControlServer]:
    server = ControlServer(
        place, handle, greeting=lambda: [{"push": "state", "camera": "a"}, {"push": "state", "camera": "b"}]
    )
    await server.start()
    yield server
    await server.close()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


@pytest.fixture
async def raw(place: Path) -> AsyncIterator[Connect]:
    opened: list[asyncio.StreamWriter] = []

    async def connect() -> Streams:
        reader, writer = await asyncio.open_unix_connection(str(place))
        opened.append(writer)
        return reader, writer

    yield connect
    for writer in opened:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - another task's progress has no event to wait for
            await asyncio.sleep(0.01)


async def test_a_call_gets_its_result(server: ControlServer, place: Path) -> None:
    async with ControlClient(place) as client:
        assert {"camera": "door", "list": [1]} == await client.call("echo", camera="door", list=[1])
        assert {} == await client.call("echo")


async def test_calls_of_one_client_are_answered_each_with_its_own(server: ControlServer, place: Path) -> None:
    async with ControlClient(place) as client:
        answers = await asyncio.gather(*(client.call("echo", n=n) for n in range(50)))

    assert [{"n": n} for n in range(50)] == answers


@pytest.mark.parametrize(
    ("op", "code"),
    [("refuse", "unknown_camera"), ("full", "internal"), ("bug", "internal"), ("nonsense", "unknown_op")],
)
async def test_a_refusal_has_a_code_and_the_connection_goes_on(
    server: ControlServer, place: Path, op: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "detr_sentry.control")
    async with ControlClient(place) as client:
        with pytest.raises(ControlError) as caught:
            await client.call(op)

        assert code == caught.value.code
        assert {"n": 1} == await client.call("echo", n=1)


async def test_the_socket_is_for_this_user_only_and_goes_with_the_server(place: Path) -> None:
    server = ControlServer(place, handle)
    await server.start()

    assert 0o600 == stat.S_IMODE(place.stat().st_mode)  # noqa: ASYNC240 - the test's own look
    assert [place.name] == [entry.name for entry in place.parent.iterdir()]

    await server.close()
    await server.close()

    assert [] == list(place.parent.iterdir())


async def test_a_dead_controllers_socket_is_replaced(place: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(place))
    left.close()
    server = ControlServer(place, handle)
    await server.start()
    async with ControlClient(place) as client:
        assert {} == await client.call("echo")
    await server.close()


async def test_a_server_that_was_taken_over_leaves_the_new_socket(place: Path) -> None:
    first, second = ControlServer(place, handle), ControlServer(place, handle)
    await first.start()
    await second.start()
    await first.close()

    assert place.exists()  # noqa: ASYNC240 - the test's own look

    await second.close()


async def test_a_path_that_is_too_long_or_cannot_be_made_is_an_error(place: Path) -> None:
    with pytest.raises(IpcError, match="at most 107 bytes"):
        await ControlServer(place.with_name("x" * 120), handle).start()
    with pytest.raises(IpcError, match="cannot listen"):
        await ControlServer(place.parent / "absent" / "control.sock", handle).start()
    with pytest.raises(IpcError, match="at most 107 bytes"):
        await ControlClient(place.with_name("x" * 120)).connect()


async def test_without_a_controller_everything_is_unavailable(place: Path) -> None:
    client = ControlClient(place)
    with pytest.raises(ControlError) as caught:
        await client.call("echo")

    assert caught.value.code == "unavailable"

    with pytest.raises(ControlError) as caught:
        await anext(client.subscribe())

    assert caught.value.code == "unavailable"

    await client.close()


async def test_a_client_connects_again_after_a_restart(place: Path) -> None:
    first = ControlServer(place, handle)
    await first.start()
    async with ControlClient(place) as client:
        assert {} == await client.call("echo")
        pending = asyncio.create_task(client.call("slow"))
        await asyncio.sleep(0.05)
        given_up: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        given_up.cancel()
        client._waiting[99] = given_up  # a caller that is being cancelled while the controller ends
        await first.close()
        with pytest.raises(ControlError) as caught:
            await pending

        assert caught.value.code == "unavailable"

        second = ControlServer(place, handle)
        await second.start()

        assert {} == await client.call("echo")

        await second.close()


async def test_a_call_that_takes_too_long_is_unavailable(server: ControlServer, place: Path) -> None:
    async with ControlClient(place, timeout_s=0.1) as client:
        with pytest.raises(ControlError) as caught:
            await client.call("slow")

    assert caught.value.code == "unavailable"


async def test_an_answer_that_comes_too_late_is_not_taken_for_another(server: ControlServer, place: Path) -> None:
    async with ControlClient(place, timeout_s=0.1) as client:
        await client.connect()
        await client.connect()
        with pytest.raises(ControlError):
            await client.call("late")
        await asyncio.sleep(0.5)

        assert {"n": 2} == await client.call("echo", n=2)


@pytest.mark.parametrize(
    "line", [b"\n", b"[]\n", b"{}\n", b'{"op": 1}\n', b'"op"\n', b"\xff\n", b"[" * 9000 + b"\n", b'{"op": NaN}\n']
)
async def test_a_line_that_is_no_request_is_refused(
    server: ControlServer, place: Path, raw: Connect, line: bytes
) -> None:
    reader, writer = await raw()
    writer.write(line)
    answer = json.loads(await reader.readline())

    assert (None, False, "invalid") == (answer["id"], answer["ok"], answer["code"])

    writer.write(b'{"id": 7, "op": "echo"}\n')

    assert {"id": 7, "ok": True, "result": {}} == json.loads(await reader.readline())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.binary(max_size=300).filter(lambda data: b"\n" not in data))
def test_no_line_ends_the_server(line: bytes) -> None:
    async def check() -> None:
        with tempfile.TemporaryDirectory(prefix="ds") as folder:
            place = Path(folder) / "s"
            server = ControlServer(place, handle)
            await server.start()
            reader, writer = await asyncio.open_unix_connection(str(place))
            writer.write(line + b'\n{"id": 1, "op": "echo"}\n')
            first = json.loads(await reader.readline())
            second = json.loads(await reader.readline())
            writer.close()
            await writer.wait_closed()
            await server.close()

            assert first["ok"] is False
            assert second == {"id": 1, "ok": True, "result": {}}

    asyncio.run(check())


async def test_an_id_that_is_no_number_is_not_repeated(server: ControlServer, place: Path, raw: Connect) -> None:
    reader, writer = await raw()
    writer.write(b'{"id": {}, "op": "echo"}\n')

    assert {"id": None, "ok": True, "result": {}} == json.loads(await reader.readline())


async def test_a_line_without_end_is_refused_and_cut_off(server: ControlServer, place: Path, raw: Connect) -> None:
    reader, writer = await raw()
    writer.write(b"x" * (MAX_LINE_BYTES * 2))

    assert json.loads(await reader.readline())["code"] == "too_long"

    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""

    writer.close()


async def test_half_a_line_and_goodbye(server: ControlServer, place: Path, raw: Connect) -> None:
    _, writer = await raw()
    writer.write(b'{"id": 1, "op"')
    writer.close()
    await eventually(lambda: not server._clients)


async def test_clients_are_bounded_and_told_so(server: ControlServer, place: Path, raw: Connect) -> None:
    many = [await raw() for _ in range(MAX_CLIENTS)]
    await eventually(lambda: len(server._clients) == MAX_CLIENTS)
    reader, writer = await raw()

    assert json.loads(await reader.readline())["code"] == "busy"
    assert await reader.read() == b""
    assert server.refused == 1

    for _, each in [*many, (reader, writer)]:
        each.close()
    await eventually(lambda: not server._clients)
    async with ControlClient(place) as client:
        assert {} == await client.call("echo")


async def test_a_subscriber_gets_the_present_then_changes(server: ControlServer, place: Path) -> None:
    pushes = ControlClient(place).subscribe()

    assert {"push": "state", "camera": "a"} == await anext(pushes)
    assert {"push": "state", "camera": "b"} == await anext(pushes)

    server.push("event", {"event": 1})

    assert {"push": "event", "event": 1} == await anext(pushes)

    await server.close()
    with pytest.raises(ControlError) as caught:
        await anext(pushes)

    assert caught.value.code == "unavailable"


async def test_only_subscribers_get_pushes_and_subscribing_twice_is_once(
    server: ControlServer, place: Path, raw: Connect
) -> None:
    reader, writer = await raw()
    writer.write(b'{"id": 1, "op": "echo"}\n')
    await reader.readline()
    server.push("event", {"n": 0})
    writer.write(b'{"id": 2, "op": "subscribe"}\n{"id": 3, "op": "subscribe"}\n{"id": 4, "op": "echo"}\n')
    lines = [json.loads(await reader.readline()) for _ in range(5)]

    assert [2, 3, 4] == [line["id"] for line in lines if "id" in line]
    assert ["a", "b"] == [line["camera"] for line in lines if "push" in line]

    writer.close()


async def test_a_refused_subscription_raises(server: ControlServer, place: Path, raw: Connect) -> None:
    for _ in range(MAX_CLIENTS):
        await raw()
    await eventually(lambda: len(server._clients) == MAX_CLIENTS)
    with pytest.raises(ControlError) as caught:
        await anext(ControlClient(place).subscribe())

    assert caught.value.code == "busy"


async def test_a_slow_subscriber_gets_the_newest_and_is_then_cut_off(
    server: ControlServer, place: Path, raw: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_control_format, "SEND_TIMEOUT_S", 0.5)
    reader, writer = await raw()
    writer.write(b'{"id": 1, "op": "subscribe"}\n')
    await reader.readline()
    (slow,) = server._clients
    fast = ControlClient(place).subscribe()
    await anext(fast)
    await anext(fast)
    padding = "x" * 60_000
    for number in range(500):
        server.push("event", {"n": number, "padding": padding})
        server.push("state", {"n": number, "padding": padding}, key="door")
        if number % 2:
            await asyncio.sleep(0)

    assert len(slow._pushes) <= MAX_EVENTS + 1
    assert server.dropped_pushes > 0

    newest = -1
    async with asyncio.timeout(10):
        while newest < 499:
            newest = (await anext(fast))["n"]

    await eventually(lambda: server.dropped_clients >= 1)
    await eventually(lambda: slow not in server._clients)
    async with ControlClient(place) as client:
        assert {} == await client.call("echo")
    writer.close()


async def test_an_answer_from_nowhere_and_rubbish_end_only_the_connection(place: Path) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"id": 99, "ok": true}\nrubbish\n')
        await writer.drain()
        await reader.read()
        writer.close()

    with contextlib.suppress(FileNotFoundError):
        os.unlink(place)
    server = await asyncio.start_unix_server(rude, str(place))
    client = ControlClient(place)
    with pytest.raises(ControlError) as caught:
        await client.call("echo")

    assert caught.value.code == "unavailable"

    with pytest.raises(ControlError) as caught:
        await anext(client.subscribe())

    assert caught.value.code == "unavailable"

    await client.close()
    server.close()
