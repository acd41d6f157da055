"""A USB camera in user space; the kernel's own uvcvideo drives it, through USB/IP's virtual controller (vhci-hcd).

Run as a program, it is driven by lines on stdin, each answered by one line on stdout:

    plug PORT            attach to that port of the virtual controller -> `plugged`
    unplug               as pulling the cable -> `unplugged`
    frames KIND          from the next frame on: whole, cut, huge, other_size, marked, frozen or none -> `frames`
    state                -> JSON of the exposure controls, the negotiated format and the number of frames sent

Arguments: serial number ("" for none), vendor:product (hex). Frames of kind `huge` claim 65535 x 65535 in their header.
Source: the kernel's Documentation/usb/usbip_protocol.rst; USB Video Class 1.1.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from pathlib import Path

from frame_producer import PICTURES, picture
from uvc_descriptors import (
    CAMERA_TERMINAL,
    FORMATS,
    PAYLOAD_BYTES,
    SIZES,
    configuration_descriptor,
    device_descriptor,
    frame_bytes,
    string_descriptor,
)

ATTACH = Path("/sys/devices/platform/vhci_hcd.0/attach")
HIGH_SPEED = 3
HEADER = struct.Struct(">5I")
STALL, UNLINKED = -32, -104
SET_CUR, GET_CUR, GET_MIN, GET_MAX, GET_RES, GET_LEN, GET_INFO, GET_DEF = 0x01, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87
END_OF_FRAME, ERROR = 0x02, 0x40
EXPOSURE_MODE, EXPOSURE_PRIORITY, EXPOSURE_TIME = 2, 3, 4
# Selector: (bytes, minimum, maximum, resolution (for the mode: the modes it has), default).
CONTROLS = {EXPOSURE_MODE: (1, 1, 8, 0x09, 1), EXPOSURE_PRIORITY: (1, 0, 1, 1, 1), EXPOSURE_TIME: (4, 3, 2047, 1, 250)}


class Camera:
    """The camera's state and its answers to control requests."""

    def __init__(self, serial: str, vendor: int, product: int) -> None:
        self.serial = serial
        self.vendor, self.product = vendor, product
        self.values = {selector: control[4] for selector, control in CONTROLS.items()}
        self.format, self.size, self.interval_100ns = 1, 1, 333_333
        self.sent = 0

    def control(self, setup: bytes, data: bytes) -> bytes | None:
        """The answer to a request on endpoint 0; None stalls it."""
        kind, request, value, index, length = struct.unpack("<BBHHH", setup)
        answer: bytes | None = b""
        if kind == 0x80 and request == 6:
            answer = self._descriptor(value >> 8, value & 0xFF)
        elif kind & 0x60 == 0x20 and index & 0xFF == 1:
            answer = self._streaming(request, data)
        elif kind & 0x60 == 0x20 and index >> 8 == CAMERA_TERMINAL:
            answer = self._exposure(request, value >> 8, data)
        elif kind in {0x80, 0x81, 0x82} and request == 0:
            answer = b"\0\0"
        return None if answer is None else answer[:length]

    def _descriptor(self, kind: int, index: int) -> bytes | None:
        if kind == 1:
            return device_descriptor(self.vendor, self.product, self.serial)
        if kind == 2:
            return configuration_descriptor()
        return string_descriptor(index, self.serial) if kind == 3 and index <= 3 else None

    def _streaming(self, request: int, data: bytes) -> bytes | None:
        if request == SET_CUR:
            _, self.format, self.size, self.interval_100ns = struct.unpack_from("<HBBI", data)
            self.format, self.size = max(self.format, 1), max(self.size, 1)
            return b""
        if request in {GET_LEN, GET_INFO}:
            return struct.pack("<H", 34) if request == GET_LEN else b"\x03"
        largest = frame_bytes(*SIZES[self.size - 1])
        head = struct.pack("<HBBIHHHHH", 1, self.format, self.size, self.interval_100ns, 0, 0, 0, 0, 0)
        return head + struct.pack("<IIIBBBB", largest, PAYLOAD_BYTES, 48_000_000, 0, 0, 0, 0)

    def _exposure(self, request: int, selector: int, data: bytes) -> bytes | None:
        if selector not in CONTROLS:
            return None
        size, minimum, maximum, resolution, default = CONTROLS[selector]
        if request == SET_CUR:
            self.values[selector] = int.from_bytes(data, "little")
            return b""
        if request == GET_INFO:
            # The exposure time is disabled by automatic modes, as UVC wants (bits: get, set, disabled).
            return b"\x07" if selector == EXPOSURE_TIME and self.values[EXPOSURE_MODE] != 1 else b"\x03"
        answers = {GET_CUR: self.values[selector], GET_MIN: minimum, GET_MAX: maximum, GET_RES: resolution}
        answers |= {GET_DEF: default, GET_LEN: size}
        return answers[request].to_bytes(size, "little") if request in answers else None

    @property
    def fourcc(self) -> str:
        return FORMATS[self.format - 1]

    def state(self) -> dict[str, object]:
        mode, priority, exposure = (self.values[selector] for selector in sorted(CONTROLS))
        return {
            "exposure_mode": mode,
            "exposure_priority": priority,
            "exposure_time": exposure,
            "format": self.fourcc,
            "size": SIZES[self.size - 1],
            "interval_100ns": self.interval_100ns,
            "sent": self.sent,
        }


class Pictures:
    """Frames of each kind, made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], bytes] = {}

    def get(self, kind: str, number: int, fourcc: str, size: tuple[int, int]) -> bytes:
        width, height = size if kind != "other_size" else (size[0] // 2, size[1] // 2)
        key = (0 if kind == "frozen" else number % PICTURES, fourcc, width, height)
        if key not in self._made:
            self._made[key] = picture(*key)
        whole = self._made[key]
        if kind == "cut":
            return whole[: len(whole) // 2]
        if kind == "huge":
            start = whole.index(b"\xff\xc0") + 5  # the height and width in the JPEG's frame header
            return whole[:start] + b"\xff\xff\xff\xff" + whole[start + 4 :]
        return whole


class Link:
    """The USB/IP connection to the kernel: requests in, answers out, frames into waiting requests."""

    def __init__(self, camera: Camera, pictures: Pictures, port: int) -> None:
        self.camera, self.pictures = camera, pictures
        self.kind = "whole"
        self._waiting: list[tuple[int, int]] = []  # (sequence number, bytes wanted) on the streaming endpoint
        self._payloads: list[bytes] = []
        self._number = 0
        self._due = 0.0
        self.socket, theirs = socket.socketpair()
        ATTACH.write_text(f"{port} {theirs.fileno()} {1 << 16 | port + 1} {HIGH_SPEED}")
        theirs.close()

    def wait_s(self) -> float | None:
        """Until the next frame is due; None while nobody streams."""
        return max(0.0, self._due - time.monotonic()) if self._waiting else None

    def read(self) -> bool:
        """Serve one request; False when the kernel has let go."""
        head = self._receive(48)
        if head is None:
            return False
        command, sequence, _, direction, endpoint = HEADER.unpack_from(head)
        if command == 2:
            unlinked = int.from_bytes(head[20:24], "big")
            before = len(self._waiting)
            self._waiting = [entry for entry in self._waiting if entry[0] != unlinked]
            self._answer(4, sequence, UNLINKED if len(self._waiting) < before else 0)
            return True
        (length,) = struct.unpack_from(">i", head, 24)
        data = self._receive(length) if direction == 0 and length else b""
        if endpoint:
            if not self._waiting and not self._payloads:
                self._due = max(self._due, time.monotonic())
            self._waiting.append((sequence, length))
            self._flush()
            return True
        answer = self.camera.control(head[40:48], data or b"")
        if answer is None:
            self._answer(3, sequence, STALL)
        else:
            self._answer(3, sequence, 0, len(answer) if direction else length, answer if direction else b"")
        return True

    def tick(self) -> None:
        """Send the frame that is due, if its time has come."""
        now = time.monotonic()
        if not self._waiting or now < self._due:
            return
        self._due = max(self._due + self.camera.interval_100ns / 1e7, now - 1)
        if self._payloads or self.kind == "none":
            return
        self._number += 1
        frame = self.pictures.get(self.kind, self._number, self.camera.fourcc, SIZES[self.camera.size - 1])
        chunks = [frame[at : at + PAYLOAD_BYTES - 2] for at in range(0, len(frame), PAYLOAD_BYTES - 2)]
        flags = 0x80 | self._number & 1 | (ERROR if self.kind == "marked" else 0)
        self._payloads = [bytes((2, flags)) + chunk for chunk in chunks[:-1]]
        self._payloads.append(bytes((2, flags | END_OF_FRAME)) + chunks[-1])
        self.camera.sent += 1
        self._flush()

    def _flush(self) -> None:
        while self._payloads and self._waiting:
            sequence, length = self._waiting.pop(0)
            payload = self._payloads.pop(0)[:length]
            self._answer(3, sequence, 0, len(payload), payload)

    def _answer(self, command: int, sequence: int, status: int, length: int = 0, data: bytes = b"") -> None:
        self.socket.sendall(HEADER.pack(command, sequence, 0, 0, 0) + struct.pack(">ii20x", status, length) + data)

    def _receive(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            try:
                part = self.socket.recv(count - len(data))
            except ConnectionError:
                part = b""
            if not part:
                return None
            data += part
        return data


def main(serial: str, ids: str) -> None:
    camera = Camera(serial, *(int(part, 16) for part in ids.split(":")))
    pictures, link, commands = Pictures(), None, b""
    while True:
        sockets: list[int | socket.socket] = [0] if link is None else [0, link.socket]
        ready, _, _ = select.select(sockets, [], [], None if link is None else link.wait_s())
        if link is not None and link.socket in ready and not link.read():
            link.socket.close()
            link = None
        if link is not None:
            link.tick()
        if 0 not in ready:
            continue
        read = os.read(0, 4096)
        if not read:
            return
        *lines, commands = (commands + read).split(b"\n")
        for line in lines:
            command, _, argument = line.decode().partition(" ")
            answer = {"plug": "plugged", "unplug": "unplugged", "state": json.dumps(camera.state())}.get(
                command, command
            )
            if command == "plug":
                link = Link(camera, pictures, int(argument))
            elif command == "unplug" and link is not None:
                link.socket.close()
                link = None
            elif command == "frames" and link is not None:
                link.kind = argument
            print(answer, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
