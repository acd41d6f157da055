"""Every error that the engine raises on purpose, in one tree.

::

    SentryError                        base; `str(error)` says what is wrong and what to do
    ├── SettingsError                  a setting is wrong: names the key and where the value came from
    ├── IpcError                       shared memory, queues, control socket
    │   ├── WriterBusyError            another process writes this stream: names its pid
    │   ├── ShmFullError               not enough shared memory: names the bytes needed
    │   ├── CorruptMessageError        a head, slot or message that no writer of ours would leave
    │   ├── LeaseError                 a lease used after its release, or taken twice
    │   └── QueueLimitError            the kernel refused a message queue: names the limit
    ├── SourceError                    the camera or file: names it, without credentials
    │   ├── SourceGoneError            unplugged, refused, unreachable
    │   │   └── SourceEndedError       a file was played to its end
    │   ├── SourceStalledError         connected, but no frames in time
    │   ├── SourceUnauthorizedError    wrong user or password
    │   └── SourceFormatError          delivers a format or size that we cannot take
    ├── BadFrameError                  one frame is broken: carries a short reason, which is also a counter's name
    ├── ModelError                     the detector
    │   ├── ModelRefusedError          not a model that we know how to run: says what was expected
    │   └── BackendError               the runtime failed on a model that it had accepted
    ├── ControlError                   the controller refused or is not there: carries a code
    └── StorageError                   state could not be stored: names the path

Policy (retry, report, stop) is keyed on these types, never on message text.
"""

from __future__ import annotations


class SentryError(Exception):
    """Base of all deliberate errors."""


class SettingsError(SentryError):
    """A setting is wrong.

    `key` is the dotted path (`cameras.door.source`), `origin` where the value came from (a file, an environment
    variable, a flag).
    """

    def __init__(self, key: str, reason: str, origin: str = "") -> None:
        self.key = key
        self.reason = reason
        self.origin = origin
        where = f" (from {origin})" if origin else ""
        super().__init__(f"{key}: {reason}{where}" if key else f"{reason}{where}")


class IpcError(SentryError):
    """Shared memory, message queues or the control socket."""


class WriterBusyError(IpcError):
    """Another process holds the writer lock of a stream."""


class ShmFullError(IpcError):
    """The shared memory file system has not enough room; the message names the bytes needed and free."""


class CorruptMessageError(IpcError):
    """A head, slot or message breaks its layout."""


class LeaseError(IpcError):
    """A lease was used after its release, or a second one was taken from the same reader."""


class QueueLimitError(IpcError):
    """The kernel refused a POSIX message queue; the message names the limit and how to raise it."""


class SourceError(SentryError):
    """A camera, stream or file failed. `link` is the link state that people see."""

    link = "gone"


class SourceGoneError(SourceError):
    """Unplugged, refused or unreachable."""


class SourceEndedError(SourceGoneError):
    """A file that does not loop was played to its end: opening it again would show it twice, so nobody does."""


class SourceStalledError(SourceError):
    """Connected, but no frame arrived in time."""

    link = "stalled"


class SourceUnauthorizedError(SourceError):
    """The source refused the user or password."""

    link = "unauthorized"


class SourceFormatError(SourceError):
    """The source delivers a format or size that the engine cannot take."""

    link = "wrong_format"


class BadFrameError(SentryError):
    """One frame is broken and is dropped. `reason` is short, stable and used as the counter's name."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}" if detail else reason)


class ModelError(SentryError):
    """The detector could not be loaded or run."""


class ModelRefusedError(ModelError):
    """The file is not a model that this engine knows how to run; the message says what was expected."""


class BackendError(ModelError):
    """The runtime failed on a model that it had accepted."""


class ControlError(SentryError):
    """A request to the controller failed. `code` is stable and goes out to API clients."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class StorageError(SentryError):
    """State or a snapshot could not be stored; the message names the path."""
