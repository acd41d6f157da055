from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import posix_ipc
import pytest

from detr_sentry.errors import IpcError, QueueLimitError
from detr_sentry.ipc.bells import MESSAGES, Bell


@pytest.fixture
def bells(bell_name: str) -> Iterator[tuple[Bell, Bell]]:
    """A consumer's and a producer's end of one queue."""
    consumer, producer = Bell(bell_name), Bell(bell_name)
    yield consumer, producer
    consumer.close()
    producer.close()


def test_a_ring_wakes_the_waiting_consumer(bells: tuple[Bell, Bell]) -> None:
    consumer, producer = bells
    timer = threading.Timer(0.1, producer.ring)
    timer.start()
    started = time.monotonic()

    assert consumer.wait(10)
    assert time.monotonic() - started < 5

    timer.join()


def test_a_bell_that_nobody_rings_times_out(bells: tuple[Bell, Bell]) -> None:
    consumer, _ = bells

    assert not consumer.wait(0.01)
    assert not consumer.wait(-1)
    assert 0 == consumer.drain()


def test_whoever_comes_first_makes_the_queue_and_rings_are_kept(bell_name: str) -> None:
    producer = Bell(bell_name)
    producer.ring()
    producer.close()
    consumer = Bell(bell_name)

    assert consumer.wait(5)

    consumer.close()


def test_a_full_queue_rings_already(bells: tuple[Bell, Bell]) -> None:
    consumer, producer = bells
    started = time.monotonic()
    for _ in range(10 * MESSAGES):
        producer.ring()

    assert time.monotonic() - started < 5
    assert MESSAGES == consumer.drain()
    assert 0 == consumer.drain()


def test_wait_drains(bells: tuple[Bell, Bell]) -> None:
    consumer, producer = bells
    for _ in range(3):
        producer.ring()

    assert consumer.wait(5)
    assert not consumer.wait(0)


def test_the_queue_is_small_private_and_not_inherited(bells: tuple[Bell, Bell], bell_name: str) -> None:
    consumer, _ = bells
    queue = posix_ipc.MessageQueue(bell_name)

    assert (8, 8) == (queue.max_messages, queue.max_message_size)
    assert 0o600 == stat.S_IMODE(os.fstat(consumer.fileno()).st_mode)
    assert not os.get_inheritable(consumer.fileno())

    queue.close()


async def test_an_event_loop_watches_the_descriptor(bells: tuple[Bell, Bell]) -> None:
    consumer, producer = bells
    rung = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(consumer.fileno(), rung.set)
    producer.ring()
    await asyncio.wait_for(rung.wait(), 5)
    loop.remove_reader(consumer.fileno())

    assert 1 == consumer.drain()


def test_an_unlinked_queue_is_made_anew_by_whoever_notices_first(bells: tuple[Bell, Bell], bell_name: str) -> None:
    consumer, producer = bells

    assert not consumer.refresh()
    assert Bell.unlink(bell_name)
    assert not consumer.wait(0.01)  # the time-out looks, and makes it anew

    deadline = time.monotonic() + 5
    while not consumer.wait(0.05) and time.monotonic() < deadline:
        producer.ring()

    assert time.monotonic() < deadline


def test_refresh_tells_an_event_loop_to_register_again(bells: tuple[Bell, Bell], bell_name: str) -> None:
    consumer, producer = bells
    Bell.unlink(bell_name)

    assert producer.refresh()
    assert consumer.refresh()
    assert not consumer.refresh()

    producer.ring()

    assert consumer.wait(5)


def test_unlink_says_whether_there_was_a_queue(bell_name: str) -> None:
    Bell(bell_name).close()

    assert Bell.unlink(bell_name)
    assert not Bell.unlink(bell_name)


def test_a_closed_bell_says_so(bell_name: str) -> None:
    bell = Bell(bell_name)
    bell.close()
    bell.close()
    for use in (bell.ring, bell.drain, bell.fileno, bell.refresh, lambda: bell.wait(0)):
        with pytest.raises(IpcError, match="closed"):
            use()


def test_a_dropped_bell_is_closed(bell_name: str) -> None:
    before = set(os.listdir("/proc/self/fd"))
    bell = Bell(bell_name)

    assert 1 == len(set(os.listdir("/proc/self/fd")) - before)

    del bell

    assert before == set(os.listdir("/proc/self/fd"))


RINGER = "import sys; from detr_sentry.ipc.bells import Bell; Bell(sys.argv[1]).ring()"


def test_another_process_rings(bells: tuple[Bell, Bell], bell_name: str) -> None:
    consumer, _ = bells
    with subprocess.Popen([sys.executable, "-c", RINGER, bell_name]) as process:
        assert consumer.wait(15)

    assert 0 == process.returncode


@pytest.mark.parametrize("name", ["", "ds", "/a/b", "/", "/" + "x" * 255, "/a b"])
def test_refuses_what_is_no_queue_name(name: str) -> None:
    with pytest.raises(IpcError, match="bell"):
        Bell(name)


LIMITED = """
import resource, sys
from detr_sentry.errors import QueueLimitError
from detr_sentry.ipc.bells import Bell
resource.setrlimit(getattr(resource, sys.argv[2]), (int(sys.argv[3]), int(sys.argv[3])))
try:
    Bell(sys.argv[1])
except QueueLimitError as error:
    print(error)
"""


@pytest.mark.parametrize(("limit", "value"), [("RLIMIT_MSGQUEUE", "100"), ("RLIMIT_NOFILE", "3")])
def test_the_limits_of_the_kernel_are_named(bell_name: str, limit: str, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, bell_name, limit, value], capture_output=True, text=True, check=True
    )

    assert bell_name in done.stdout
    assert "ulimit -q" in done.stdout
    assert "fs.mqueue.queues_max" in done.stdout
    assert "ulimit -n" in done.stdout


@pytest.mark.parametrize("error", [OSError("no queues left"), ValueError("Invalid parameter(s)"), MemoryError()])
def test_every_refusal_of_the_library_is_a_limit(
    bell_name: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(posix_ipc, "MessageQueue", refuse)

    with pytest.raises(QueueLimitError, match="msg_max"):
        Bell(bell_name)


FOREIGN = """
import os, sys
os.setgid(65534); os.setuid(65534)
from detr_sentry.errors import IpcError
from detr_sentry.ipc.bells import Bell
try:
    Bell(sys.argv[1])
except IpcError as error:
    print(error)
"""


def test_a_refused_permission_is_no_limit(bell_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise posix_ipc.PermissionsError

    monkeypatch.setattr(posix_ipc, "MessageQueue", refuse)

    with pytest.raises(IpcError, match="another user") as caught:
        Bell(bell_name)
    assert not isinstance(caught.value, QueueLimitError)


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: a queue of another user; only root can become another user")
def test_a_queue_of_another_user(bells: tuple[Bell, Bell], bell_name: str, repository: Path) -> None:
    code = FOREIGN.replace("import os, sys\n", "import os, sys\nimport detr_sentry.ipc.bells\n")
    done = subprocess.run([sys.executable, "-c", code, bell_name], capture_output=True, text=True, check=True)

    assert "belongs to another user" in done.stdout
