"""`detr-sentry doctor`: what this machine lacks and how to mend it. Changes nothing unless asked to clean."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import socket
import sys
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from detr_sentry.errors import IpcError, SentryError
from detr_sentry.ipc.heartbeat import read_heartbeat
from detr_sentry.ipc.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from detr_sentry.settings import Settings

FRAME_SLOTS = 5  # readers of the frames ring + 2 (design section 4)
DEFAULT_FRAME_BYTES = 1920 * 1080 * 2  # what a camera of unknown size is planned with
BELL_BYTES = 8 * (8 + 48 + 8)  # 8 messages of 8 bytes, as the kernel accounts them on 64-bit
WANTED_FREE_STATE_MB = 100


class Verdict(StrEnum):
    """How a check came out. Only `FAIL` keeps the engine from running."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was seen, and what to do if it is not well."""

    check: str
    verdict: Verdict
    seen: str
    mend: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings, in the order a person would work through them."""
    checks: list[Callable[[Settings], Iterator[Finding]]] = [
        _python,
        _processor,
        _shared_memory,
        _queues,
        _files,
        _state,
        check_port,
        _model,
        _cameras,
        _engine,
    ]
    for check in checks:
        yield from check(settings)


def _python(_settings: Settings) -> Iterator[Finding]:
    seen = f"Python {platform.python_version()}, {platform.machine()}, Linux {platform.release()}"
    if sys.platform != "linux":
        yield Finding("system", Verdict.FAIL, seen, "the engine needs Linux: flock, POSIX message queues, V4L2")
    else:
        yield Finding("system", Verdict.OK, seen)


def _processor(_settings: Settings) -> Iterator[Finding]:
    flags = set(_read("/proc/cpuinfo").replace("\t", " ").split())
    cores = len(os.sched_getaffinity(0))
    wanted = {
        "x86_64": ("avx2", "avx512_vnni", "avx512_bf16", "amx_bf16"),
        "aarch64": ("asimd", "asimddp", "bf16", "i8mm"),
    }
    has = [flag for flag in wanted.get(platform.machine(), ()) if flag in flags]
    seen = f"{cores} cores, {' '.join(has) or 'no vector extension that helps'}"
    baseline = {"x86_64": "avx2", "aarch64": "asimd"}.get(platform.machine())
    if baseline and baseline not in flags:
        yield Finding("processor", Verdict.WARN, seen, f"without {baseline} detection is slow: choose a small model")
    else:
        yield Finding("processor", Verdict.OK, seen)


def shared_memory_needed(settings: Settings) -> int:
    """Bytes of shared memory that all rings of the cameras take, planned with 1080p where no size is set."""
    total = 0
    for camera in settings.cameras.values():
        frame = camera.width * camera.height * 2 if camera.width and camera.height else DEFAULT_FRAME_BYTES
        total += FRAME_SLOTS * max(frame, 1 << 20) + (1 << 18)
    return total


def _shared_memory(settings: Settings) -> Iterator[Finding]:
    root = _existing(settings.shm_root)
    free = shutil.disk_usage(root).free
    need = shared_memory_needed(settings)
    seen = f"{root}: {free / 1e6:.0f} MB free, {need / 1e6:.0f} MB needed for {len(settings.cameras)} camera(s)"
    if not os.access(root, os.W_OK):
        yield Finding(
            "shared memory", Verdict.FAIL, f"{root} is not writable", "set shm_root to a tmpfs this user owns"
        )
    elif free < need:
        mend = f"mount -o remount,size={(need + free) // 1_000_000 + 64}M /dev/shm; in a container set its shm size"
        yield Finding("shared memory", Verdict.FAIL, seen, mend)
    else:
        yield Finding("shared memory", Verdict.OK, seen)


def _queues(settings: Settings) -> Iterator[Finding]:
    queues = 3 + len(settings.cameras)
    limit = resource.getrlimit(resource.RLIMIT_MSGQUEUE)[0] if hasattr(resource, "RLIMIT_MSGQUEUE") else _queue_bytes()
    most = int(_read("/proc/sys/fs/mqueue/queues_max") or 0)
    seen = (
        f"{queues} needed; fs.mqueue.queues_max {most or 'unknown'}, ulimit -q {limit if limit >= 0 else 'unlimited'}"
    )
    if most == 0:
        yield Finding(
            "message queues", Verdict.FAIL, seen, "this kernel has no POSIX message queues (CONFIG_POSIX_MQUEUE)"
        )
    elif queues > most:
        yield Finding("message queues", Verdict.FAIL, seen, f"sysctl fs.mqueue.queues_max={2 * queues}")
    elif 0 <= limit < queues * BELL_BYTES:
        yield Finding("message queues", Verdict.FAIL, seen, f"raise the limit: ulimit -q {2 * queues * BELL_BYTES}")
    else:
        yield Finding("message queues", Verdict.OK, seen)


def _queue_bytes() -> int:
    for line in _read("/proc/self/limits").splitlines():
        if line.startswith("Max msgqueue size"):
            soft = line.split()[3]
            return -1 if soft == "unlimited" else int(soft)
    return -1


def _files(settings: Settings) -> Iterator[Finding]:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = 128 + 32 * len(settings.cameras)
    seen = f"{soft} allowed, about {need} needed"
    if soft < need:
        yield Finding("open files", Verdict.FAIL, seen, f"ulimit -n {need}")
    else:
        yield Finding("open files", Verdict.OK, seen)


def _state(settings: Settings) -> Iterator[Finding]:
    folder = _existing(settings.state_dir)
    free_mb = shutil.disk_usage(folder).free / 1e6
    seen = f"{settings.state_dir}: {free_mb:.0f} MB free"
    if not os.access(folder, os.W_OK):
        yield Finding("state", Verdict.FAIL, f"{folder} is not writable", "set state_dir to a folder this user owns")
    elif free_mb < WANTED_FREE_STATE_MB:
        yield Finding("state", Verdict.WARN, seen, "event pictures will stop when the disk is full: lower history.*")
    else:
        yield Finding("state", Verdict.OK, seen)


def check_port(settings: Settings) -> Iterator[Finding]:
    """Whether the gateway can listen where the settings say, or already does."""
    host, port = settings.gateway.host, settings.gateway.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if read_heartbeat(Layout(settings.shm_root, settings.instance).heartbeat("gateway")):
                yield Finding("port", Verdict.OK, f"{host}:{port} is this engine's own gateway")
                return
            mend = "choose another with --port or gateway.port"
            yield Finding("port", Verdict.FAIL, f"{host}:{port}: {error.strerror}", mend)
            return
    yield Finding("port", Verdict.OK, f"{host}:{port} is free")


def _model(settings: Settings) -> Iterator[Finding]:
    from detr_sentry.models.resolve import resolve_model

    try:
        model = resolve_model(settings.model, settings.state_dir)
    except SentryError as error:
        yield Finding("model", Verdict.FAIL, str(error), "detr-sentry models list; or use model.name: embedded")
        return
    seen = f"{model.name}, {model.width}x{model.height}, {model.path}"
    if model.embedded:
        mend = "name a larger one with model.name where the processor allows: detr-sentry models list"
        yield Finding("model", Verdict.OK, f"{seen} (the embedded detector)", mend)
    else:
        yield Finding("model", Verdict.OK, seen)


def _cameras(settings: Settings) -> Iterator[Finding]:
    from detr_sentry.capture.v4l2_devices import list_devices

    if not settings.cameras:
        yield Finding(
            "cameras", Verdict.WARN, "none in the settings", "detr-sentry run --source /dev/video0; or edit sentry.yaml"
        )
    devices = list_devices()
    for device in devices:
        seen = f"{device.path}: {device.card}, use it as {device.source}"
        if device.problem is None:
            yield Finding("camera device", Verdict.OK, seen)
        else:
            yield Finding("camera device", Verdict.WARN, f"{device.path}: {device.card}", device.problem)
    if not devices:
        yield Finding("camera device", Verdict.OK, "no V4L2 camera is plugged in (streams and files need none)")


def _engine(settings: Settings) -> Iterator[Finding]:
    layout = Layout(settings.shm_root, settings.instance)
    beat = read_heartbeat(layout.heartbeat("supervisor"))
    if beat and _alive(beat.pid):
        yield Finding("engine", Verdict.OK, f"instance {settings.instance!r} is running as process {beat.pid}")
    elif layout.base.exists():
        mend = "detr-sentry doctor --clean"
        yield Finding("engine", Verdict.WARN, f"{layout.base} was left behind by a killed engine", mend)
    else:
        yield Finding("engine", Verdict.OK, f"instance {settings.instance!r} is not running")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _existing(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def run(settings: Settings, *, as_json: bool, remove: bool) -> int:
    """Print all findings; with `remove`, first clean up after a killed engine. Status 1 if any check failed."""
    if remove:
        _clean(settings)
    findings = list(examine(settings))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        marks = {Verdict.OK: "ok  ", Verdict.WARN: "WARN", Verdict.FAIL: "FAIL"}
        for finding in findings:
            print(f"{marks[finding.verdict]}  {finding.check:<15} {finding.seen}")
            if finding.mend and finding.verdict is not Verdict.OK:
                print(f"      {'':<15} -> {finding.mend}")
    return int(any(finding.verdict is Verdict.FAIL for finding in findings))


def _clean(settings: Settings) -> None:
    from detr_sentry.ipc.leftovers import clean

    layout = Layout(settings.shm_root, settings.instance)
    beats = [read_heartbeat(path) for path in (layout.base / "heartbeat").glob("*")]
    running = [beat for beat in beats if beat and _alive(beat.pid)]
    if running:
        names = ", ".join(f"{beat.service} ({beat.pid})" for beat in running)
        raise IpcError(f"instance {settings.instance!r} still runs: {names}; stop it first")
    for name in clean(layout) or ["nothing"]:
        print(f"removed {name}", file=sys.stderr)
