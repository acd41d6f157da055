"""Writes frames into a v4l2loopback node until killed.

Arguments: node, MJPG or YUYV, WxH, frames a second, n to write only half of every n-th frame (0: none).
"""

from __future__ import annotations

import fcntl
import itertools
import os
import sys
import time

import numpy as np
import simplejpeg
from linuxpy.video import raw

PICTURES = 64


def picture(number: int, fourcc: str, width: int, height: int) -> bytes:
    """A frame that differs for each number below PICTURES: a grey ramp with a bright block that wanders."""
    image = np.tile(np.linspace(0, 200, width, dtype=np.uint8), (height, 1))
    left = number * width // PICTURES
    image[: height // 4, left : left + width // PICTURES] = 255
    if fourcc == "YUYV":
        return np.stack([image, np.full_like(image, 128)], axis=-1).tobytes()
    return bytes(simplejpeg.encode_jpeg(np.repeat(image[..., None], 3, axis=2), quality=85, colorsubsampling="422"))


def main(node: str, fourcc: str, size: str, fps: float, cut_every: int) -> None:
    width, height = map(int, size.split("x"))
    fd = os.open(node, os.O_RDWR)
    format_ = raw.v4l2_format()
    format_.type = raw.BufType.VIDEO_OUTPUT
    pixels = format_.fmt.pix
    pixels.width, pixels.height, pixels.pixelformat = width, height, int.from_bytes(fourcc.encode(), "little")
    pixels.field, pixels.sizeimage = raw.Field.NONE, width * height * 2
    fcntl.ioctl(fd, raw.IOC.S_FMT, format_)
    pictures = [picture(number, fourcc, width, height) for number in range(PICTURES)]
    os.write(fd, pictures[0])
    print("writing", flush=True)
    start = time.monotonic()
    for number in itertools.count(1):
        time.sleep(max(0.0, start + number / fps - time.monotonic()))
        frame = pictures[number % PICTURES]
        os.write(fd, frame[: len(frame) // 2] if cut_every and number % cut_every == 0 else frame)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5]))
