"""The calling side of the control socket: see `ControlClient`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Self

from detr_sentry.errors import ControlError

from . import _control_format as fmt

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path
    from types import TracebackType


class ControlClient:
    """Calls the controller. Connects by itself; every failure is a ControlError with the controller's code.

    A lost or absent controller is code `unavailable`; the next call tries again. Not for concurrent event loops.
    """

    def __init__(self, path: Path, *, timeout_s: float = 5.0) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._writer: asyncio.StreamWriter | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect now, if not connected. Raises ControlError `unavailable`."""
        async with self._connecting:
            await self._connect()

    async def _connect(self) -> None:
        if self._writer is None:
            reader, self._writer = await self._open()
            self._receiving = asyncio.create_task(self._receive(reader))

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        fmt.check_path(self._path)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.open_unix_connection(str(self._path), limit=fmt.MAX_ANSWER_BYTES)
        except (OSError, TimeoutError) as error:
            raise _unavailable(self._path) from error

    async def call(self, op: str, **arguments: Any) -> Any:
        """The result of one operation. Raises ControlError with the controller's code, or `unavailable`."""
        await self.connect()
        assert self._writer is not None
        self._number += 1
        number = self._number
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(self._timeout_s):
                self._writer.write(fmt.encode({**arguments, "id": number, "op": op}))
                await self._writer.drain()
                answer = await future
        except (OSError, TimeoutError) as error:
            raise _unavailable(self._path) from error
        finally:
            del self._waiting[number]
        return _result(answer)

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                answer = json.loads(line)
                future = self._waiting.get(answer.get("id"))
                if future is not None and not future.done():
                    future.set_result(answer)
        except (OSError, ValueError):
            pass  # the connection is no use any more; every caller is told below
        finally:
            writer, self._writer = self._writer, None
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionResetError())
            assert writer is not None
            await _end(writer)

    async def subscribe(self) -> AsyncGenerator[dict[str, Any], None]:
        """Pushes from a connection of its own: first the present state, then changes.

        Ends only by ControlError `unavailable`, when the controller goes. A consumer that is slow gets the newest state
        and the last `MAX_EVENTS` events; one that takes nothing for `SEND_TIMEOUT_S` is disconnected.
        """
        reader, writer = await self._open()
        try:
            writer.write(fmt.encode({"id": 0, "op": "subscribe"}))
            await writer.drain()
            while line := await reader.readline():
                message = json.loads(line)
                if "push" in message:
                    yield message
                else:
                    _result(message)
            raise _unavailable(self._path)
        except (OSError, ValueError) as error:
            raise _unavailable(self._path) from error
        finally:
            await _end(writer)

    async def close(self) -> None:
        """Disconnect."""
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.gather(self._receiving, return_exceptions=True)
            self._receiving = None


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _unavailable(path: Path) -> ControlError:
    return ControlError("unavailable", f"{path}: the controller does not answer")


def _result(answer: dict[str, Any]) -> Any:
    if answer.get("ok") is not True:
        raise ControlError(str(answer.get("code", "internal")), str(answer.get("error", "")))
    return answer.get("result")
