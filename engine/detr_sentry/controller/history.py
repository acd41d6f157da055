"""The alarms of the past: one SQLite row each, and a JPEG beside it. Blocking, and for one thread: see `recorder`.

Schema version 1 is in `PRAGMA user_version`. WAL, so that a reader never waits for the writer. The oldest alarms go
when there are too many, when they are too old, or when their pictures take too much room. A database that SQLite calls
malformed is put aside as `history.db.broken` and a new one is begun: a sentry that cannot remember still watches.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from detr_sentry.controller.records import Record
from detr_sentry.controller.snapshot import encode_picture
from detr_sentry.controller.storage import remove_file, write_file
from detr_sentry.errors import BadFrameError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from detr_sentry.controller.records import Change
    from detr_sentry.settings import HistorySettings

FILE_NAME = "history.db"
VERSION = 1
_DAY_NS = 86_400 * 1_000_000_000
_COLUMNS = (
    "id, camera, start_ns, seen_ns, end_ns, count, confidence, x1, y1, x2, y2, width, height,"
    " snapshot_ns, snapshot_exact, snapshot_bytes"
)
_SCHEMA = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    camera TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    seen_ns INTEGER NOT NULL,
    end_ns INTEGER,
    count INTEGER NOT NULL,
    confidence REAL,
    x1 REAL, y1 REAL, x2 REAL, y2 REAL,
    width INTEGER, height INTEGER,
    snapshot_ns INTEGER,
    snapshot_exact INTEGER NOT NULL,
    snapshot_bytes INTEGER NOT NULL
);
CREATE INDEX events_of_camera ON events (camera, seq);
"""
_INSERT = f"INSERT INTO events ({_COLUMNS}) VALUES ({', '.join('?' * 16)})"  # noqa: S608 - constants
_UPSERT = (
    f"{_INSERT} ON CONFLICT (id) DO UPDATE SET seen_ns = excluded.seen_ns, end_ns = excluded.end_ns,"
    " count = max(excluded.count, count), confidence = coalesce(excluded.confidence, confidence),"
    " x1 = coalesce(excluded.x1, x1), y1 = coalesce(excluded.y1, y1), x2 = coalesce(excluded.x2, x2),"
    " y2 = coalesce(excluded.y2, y2), width = coalesce(excluded.width, width),"
    " height = coalesce(excluded.height, height),"
    " snapshot_exact = iif(excluded.snapshot_ns IS NULL, snapshot_exact, excluded.snapshot_exact),"
    " snapshot_bytes = iif(excluded.snapshot_ns IS NULL, snapshot_bytes, excluded.snapshot_bytes),"
    " snapshot_ns = coalesce(excluded.snapshot_ns, snapshot_ns)"
)

_T = TypeVar("_T")

_log = logging.getLogger("detr_sentry.controller")


class _MalformedError(sqlite3.DatabaseError):
    """`quick_check` found damage."""

    sqlite_errorname = "SQLITE_CORRUPT"


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled it back already
            connection.execute("ROLLBACK")
        raise


def _row(record: Record) -> tuple[Any, ...]:
    return (
        record.event_id,
        record.camera,
        record.start_ns,
        record.seen_ns,
        record.end_ns,
        record.count,
        record.confidence,
        *(record.box or (None,) * 4),
        record.width,
        record.height,
        record.snapshot_ns,
        record.snapshot_exact,
        record.snapshot_bytes,
    )


def _record(row: tuple[Any, ...]) -> Record:
    return Record(
        event_id=row[0],
        camera=row[1],
        start_ns=row[2],
        seen_ns=row[3],
        end_ns=row[4],
        count=row[5],
        confidence=row[6],
        box=None if row[7] is None else (row[7], row[8], row[9], row[10]),
        width=row[11],
        height=row[12],
        snapshot_ns=row[13],
        snapshot_exact=bool(row[14]),
        snapshot_bytes=row[15],
    )


class History:
    """Open it, use it and close it in one thread. Every method raises StorageError."""

    def __init__(self, state_dir: Path, settings: HistorySettings) -> None:
        self.snapshots = state_dir / "events"
        self._file = state_dir / FILE_NAME
        self._settings = settings
        self._connection: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether `open` has succeeded."""
        return self._connection is not None

    def open(self, *, lasting: Collection[str] = ()) -> None:
        """Open or make the database; alarms that a dead controller left open, except `lasting`, end when last seen."""
        try:
            self.snapshots.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file.touch(mode=0o600)  # the files that SQLite puts beside it get the same mode
        except OSError as error:
            raise StorageError(f"{self.snapshots.parent}: cannot be used: {error.strerror}") from error
        try:
            self._connect()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                self._put_aside(error)
                self._guard(self._connect)
            else:
                raise self._error(error) from error
        self._guard(lambda: self._tidy(lasting))

    def _connect(self) -> None:
        connection = sqlite3.connect(self._file, isolation_level=None, timeout=2.0)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA journal_size_limit = 1048576")
            self._check(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _check(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise StorageError(
                f"{self._file}: is of version {version}, made by a newer engine; this one knows {VERSION}"
            )
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA};PRAGMA user_version = {VERSION};COMMIT;")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _MalformedError(verdict)

    def _put_aside(self, error: sqlite3.DatabaseError) -> None:
        aside = self._file.with_name(f"{FILE_NAME}.broken")
        _log.error("%s: %s; it is put aside as %s and a new history begins", self._file, error, aside.name)
        try:
            self._file.replace(aside)
            self._file.touch(mode=0o600)
            for suffix in ("-wal", "-shm"):
                self._file.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
        except OSError as problem:
            raise StorageError(f"{self._file}: is broken and cannot be put aside: {problem.strerror}") from problem

    def _tidy(self, lasting: Collection[str]) -> None:
        connection = self._open()
        marks = ", ".join("?" * len(lasting))
        connection.execute(
            f"UPDATE events SET end_ns = max(start_ns, seen_ns) WHERE end_ns IS NULL AND id NOT IN ({marks})",  # noqa: S608
            tuple(lasting),
        )
        known = {name for (name,) in connection.execute("SELECT id FROM events WHERE snapshot_ns IS NOT NULL")}
        for path in self.snapshots.iterdir():
            orphan = path.suffix == ".jpg" and path.stem not in known
            if orphan or path.name.endswith(".jpg.new"):  # the second is a picture that was being written
                path.unlink(missing_ok=True)

    def apply(self, changes: Iterable[Change], *, now_ns: int) -> list[Record]:
        """Store records and pictures, then let the oldest go. Returns the records that got a new picture.

        A record without a picture or box keeps the one it had; one that cannot be encoded is left out. If this raises,
        the same changes may be applied again.
        """
        stored = [self._with_picture(change) for change in changes]

        def write() -> None:
            connection = self._open()
            with _transaction(connection):
                connection.executemany(_UPSERT, [_row(record) for record in stored])

        self._guard(write)
        self.prune(now_ns=now_ns)
        return [record for record in stored if record.snapshot_ns is not None]

    def _with_picture(self, change: Change) -> Record:
        if change.picture is None:
            return change.record
        try:
            jpeg = encode_picture(change.picture)
        except BadFrameError as error:
            _log.warning("the picture of alarm %s is left out: %s", change.record.event_id, error)
            return change.record
        write_file(self.snapshots / f"{change.record.event_id}.jpg", jpeg)
        return replace(
            change.record,
            snapshot_ns=change.picture.timestamp_ns,
            snapshot_exact=change.picture.exact,
            snapshot_bytes=len(jpeg),
        )

    def prune(self, *, now_ns: int) -> int:
        """Remove what is too old, too much or too large; returns how many alarms went."""

        def write() -> list[str]:
            connection = self._open()
            budget = round(self._settings.max_snapshot_mb * 1_000_000)
            oldest_ns = now_ns - round(self._settings.max_age_days * _DAY_NS)
            gone = connection.execute(
                "SELECT id FROM (SELECT id, start_ns, row_number() OVER newest AS place,"
                " sum(snapshot_bytes) OVER newest AS room FROM events WINDOW newest AS (ORDER BY seq DESC))"
                " WHERE place > ? OR start_ns < ? OR (room > ? AND place > 1)",
                (self._settings.max_events, oldest_ns, budget),
            ).fetchall()
            with _transaction(connection):
                connection.executemany("DELETE FROM events WHERE id = ?", gone)
            return [name for (name,) in gone]

        gone = self._guard(write)
        for name in gone:
            remove_file(self.snapshots / f"{name}.jpg")
        return len(gone)

    def events(self, *, before: str | None = None, limit: int = 50, camera: str | None = None) -> list[Record] | None:
        """Alarms, newest first, older than `before`; None where there is no alarm `before`."""

        def read() -> list[Record] | None:
            connection = self._open()
            newest = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM events").fetchone()
            row = (
                newest
                if before is None
                else connection.execute("SELECT seq FROM events WHERE id = ?", (before,)).fetchone()
            )
            if row is None:
                return None
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM events WHERE seq < ? AND (? IS NULL OR camera = ?) ORDER BY seq DESC LIMIT ?",  # noqa: S608
                (row[0], camera, camera, limit),
            )
            return [_record(row) for row in rows]

        return self._guard(read)

    def event(self, event_id: str) -> Record | None:
        """One alarm."""

        def read() -> Record | None:
            query = f"SELECT {_COLUMNS} FROM events WHERE id = ?"  # noqa: S608 - constants
            row = self._open().execute(query, (event_id,)).fetchone()
            return None if row is None else _record(row)

        return self._guard(read)

    def newest(self) -> dict[str, Record]:
        """The newest alarm of each camera."""

        def read() -> dict[str, Record]:
            rows = self._open().execute(
                f"SELECT {_COLUMNS} FROM events WHERE seq IN (SELECT max(seq) FROM events GROUP BY camera)"  # noqa: S608
            )
            return {record.camera: record for record in map(_record, rows)}

        return self._guard(read)

    def close(self) -> None:
        """Close the database; the write-ahead log goes into it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageError(f"{self._file}: the history is not open")
        return self._connection

    def _guard(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> StorageError:
        return StorageError(f"{self._file}: {error}")
