"""The descriptors of a USB camera with a bulk endpoint: MJPEG and YUYV, automatic exposure. Pure.

Source: USB 2.0, chapter 9; USB Device Class Definition for Video Devices 1.1, with its payload specifications for MJPEG
and uncompressed video.
"""

from __future__ import annotations

import struct

SIZES = ((640, 480), (1280, 720))
FORMATS = ("MJPG", "YUYV")  # in the order of their format indices, from 1
INTERVALS_100NS = {"MJPG": (333_333, 666_666, 1_000_000), "YUYV": (1_000_000, 2_000_000)}
PAYLOAD_BYTES = 16384  # one URB of the driver: 32 packets of 512 bytes
ENDPOINT = 0x81
CAMERA_TERMINAL, OUTPUT_TERMINAL = 1, 3
STRINGS = ("DETR Sentry tests", "Test Camera")

_CS_INTERFACE = 0x24
_YUY2 = bytes.fromhex("5955593200001000800000aa00389b71")


def device_descriptor(vendor: int, product: int, serial: str) -> bytes:
    return struct.pack(
        "<BBHBBBBHHHBBBB", 18, 1, 0x200, 0xEF, 2, 1, 64, vendor, product, 0x100, 1, 2, 3 if serial else 0, 1
    )


def string_descriptor(index: int, serial: str) -> bytes:
    if index == 0:
        return struct.pack("<BBH", 4, 3, 0x409)
    text = (*STRINGS, serial)[index - 1].encode("utf-16-le")
    return struct.pack("<BB", 2 + len(text), 3) + text


def configuration_descriptor() -> bytes:
    body = _association() + _control_interface() + _streaming_interface()
    return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 2, 1, 0, 0x80, 250) + body


def frame_bytes(width: int, height: int) -> int:
    """The largest frame of either format."""
    return width * height * 2


def _association() -> bytes:
    return struct.pack("<8B", 8, 0x0B, 0, 2, 0x0E, 3, 0, 2)


def _interface(number: int, endpoints: int, subclass: int) -> bytes:
    return struct.pack("<9B", 9, 4, number, 0, endpoints, 0x0E, subclass, 0, 0)


def _class_specific(subtype: int, body: bytes) -> bytes:
    return struct.pack("<BBB", 3 + len(body), _CS_INTERFACE, subtype) + body


def _control_interface() -> bytes:
    # Controls D1 exposure mode, D2 exposure priority, D3 exposure time.
    camera = _class_specific(2, struct.pack("<BHBBHHHB3s", CAMERA_TERMINAL, 0x0201, 0, 0, 0, 0, 0, 3, b"\x0e\0\0"))
    output = _class_specific(3, struct.pack("<BHBBB", OUTPUT_TERMINAL, 0x0101, 0, CAMERA_TERMINAL, 0))
    total = 13 + len(camera) + len(output)
    header = _class_specific(1, struct.pack("<HHIBB", 0x110, total, 48_000_000, 1, 1))
    return _interface(0, 0, 1) + header + camera + output


def _streaming_interface() -> bytes:
    colour = _class_specific(0x0D, bytes((1, 1, 4)))
    formats = b""
    for index, fourcc in enumerate(FORMATS, start=1):
        if fourcc == "MJPG":
            formats += _class_specific(6, bytes((index, len(SIZES), 1, 1, 0, 0, 0, 0)))
        else:
            formats += _class_specific(4, bytes((index, len(SIZES))) + _YUY2 + bytes((16, 1, 0, 0, 0, 0)))
        formats += b"".join(_frame(fourcc, number, *size) for number, size in enumerate(SIZES, start=1)) + colour
    length = 13 + len(FORMATS)
    header = _class_specific(
        1,
        struct.pack("<BHBBBBBBB", len(FORMATS), length + len(formats), ENDPOINT, 0, OUTPUT_TERMINAL, 0, 0, 0, 1)
        + bytes(len(FORMATS)),
    )
    return _interface(1, 1, 2) + header + formats + struct.pack("<BBBBHB", 7, 5, ENDPOINT, 2, 512, 0)


def _frame(fourcc: str, number: int, width: int, height: int) -> bytes:
    intervals = INTERVALS_100NS[fourcc]
    rate = frame_bytes(width, height) * 8 * 30
    fields = struct.pack(
        "<BBHHIIIIB", number, 0, width, height, rate, rate, frame_bytes(width, height), intervals[0], len(intervals)
    )
    return _class_specific(7 if fourcc == "MJPG" else 5, fields + struct.pack(f"<{len(intervals)}I", *intervals))
