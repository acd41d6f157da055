"""FlatBuffers with a constant layout: built once by the official builder, then filled in place by one `struct` call.

A message is `prefix | block | rows`. The *prefix* (root offset, identifier, vtable, offsets) is the same in every
message of a type, because strings have a fixed room and the vector its capacity. The *block* is every scalar and
string and the vector's count, so one `pack_into` writes a message and one `unpack_from` reads it. Any FlatBuffers
reader reads the result; our own compares the prefix, which proves every offset at once, and bounds the lengths.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flatbuffers

from detr_sentry.errors import CorruptMessageError

if TYPE_CHECKING:
    from collections.abc import Sequence

ID_BYTES = 32
"""Room for a camera id or a provider name, without the terminating zero."""

TRACE_BYTES = 25
NO_TRACE = bytes(TRACE_BYTES)


@dataclass(frozen=True, slots=True)
class Vector:
    """The vector of a message: its vtable index, and what its rows are."""

    index: int
    element_bytes: int
    capacity: int
    alignment: int


class Template:
    """The constant layout of one message type.

    `scalars` are the inline fields as (vtable index, struct format; `25s` is a struct of 25 bytes), `strings` are
    (vtable index, room). `block` packs them in this order: scalars, strings (length, bytes), the vector's count.
    """

    __slots__ = ("block", "block_offset", "data_offset", "identifier", "prefix")

    def __init__(
        self,
        identifier: bytes,
        *,
        scalars: Sequence[tuple[int, str]],
        strings: Sequence[tuple[int, int]],
        vector: Vector | None = None,
    ) -> None:
        buffer = _build(identifier, scalars, strings, vector)
        root = _u32(buffer, 0)
        vtable = root - struct.unpack_from("<i", buffer, root)[0]

        def field(index: int) -> int:
            return root + int(struct.unpack_from("<H", buffer, vtable + 4 + 2 * index)[0])

        def target(index: int) -> int:
            return field(index) + _u32(buffer, field(index))

        parts = [(field(index), form) for index, form in scalars]
        for index, room in strings:
            parts += [(target(index), "I"), (target(index) + 4, f"{room}s")]
        if vector is not None:
            parts.append((target(vector.index), "I"))
        start = position = parts[0][0]
        form = "<"
        for offset, part in parts:
            form += f"{offset - position}x{part}"
            position = offset + struct.calcsize("<" + part)
        self.block = struct.Struct(form)
        self.block_offset = start
        self.prefix = buffer[:start]
        self.identifier = identifier
        self.data_offset = position
        """Where the vector's rows begin; the end of the message where it has none."""

    def prepare(self, payload: memoryview) -> None:
        """Writes the prefix into a zeroed slot, which then is a valid message of empty strings and no rows."""
        payload[: len(self.prefix)] = self.prefix

    def unpack(self, view: memoryview) -> tuple[Any, ...]:
        """The block of a message.

        Raises:
            CorruptMessageError: it is shorter than the layout or its prefix is not ours.
        """
        if view.nbytes < self.data_offset or bytes(view[: self.block_offset]) != self.prefix:
            raise CorruptMessageError(f"not a {self.identifier.decode()} message of this version")
        return self.block.unpack_from(view, self.block_offset)


def text(raw: bytes, length: int, what: str) -> str:
    """A string of the block.

    Raises:
        CorruptMessageError: it is longer than its room or not ASCII.
    """
    if length > len(raw):
        raise CorruptMessageError(f"{what} of {length} bytes in a room of {len(raw)}")
    try:
        return raw[:length].decode("ascii")
    except UnicodeDecodeError as error:
        raise CorruptMessageError(f"{what} is not ASCII") from error


def trace_or_none(raw: bytes) -> bytes | None:
    """The 25 bytes of a W3C trace context, or None where the writer had none."""
    return None if raw == NO_TRACE else raw


def _u32(buffer: bytes, offset: int) -> int:
    return int(struct.unpack_from("<I", buffer, offset)[0])


def _build(
    identifier: bytes, scalars: Sequence[tuple[int, str]], strings: Sequence[tuple[int, int]], vector: Vector | None
) -> bytes:
    """An empty message with all its room. FlatBuffers are built from the back, so everything is added in reverse."""
    builder = flatbuffers.Builder(512)
    builder.ForceDefaults(True)
    offsets: list[tuple[int, int]] = []
    if vector is not None:
        size = vector.element_bytes * vector.capacity
        builder.StartVector(vector.element_bytes, vector.capacity, vector.alignment)
        builder.head -= size
        offsets.append((vector.index, builder.EndVector()))
    offsets.extend((index, builder.CreateString("\0" * room)) for index, room in reversed(strings))
    builder.StartObject(len(scalars) + len(offsets))
    for index, form in reversed(scalars):
        if form.endswith("s"):
            size = int(form[:-1])
            builder.Prep(1, size)
            builder.Pad(size)
            builder.PrependStructSlot(index, builder.Offset(), 0)
        else:
            _PREPEND[form](builder, index, 0, 0)
    for index, offset in offsets:
        builder.PrependUOffsetTRelativeSlot(index, offset, 0)
    builder.Finish(builder.EndObject(), file_identifier=identifier)
    return bytes(builder.Output())


_PREPEND = {
    "B": flatbuffers.Builder.PrependUint8Slot,
    "I": flatbuffers.Builder.PrependUint32Slot,
    "Q": flatbuffers.Builder.PrependUint64Slot,
    "q": flatbuffers.Builder.PrependInt64Slot,
    "d": flatbuffers.Builder.PrependFloat64Slot,
}
