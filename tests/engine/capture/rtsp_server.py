#!/usr/bin/python3
"""RTSP camera for tests, run by the system's Python because `gi` comes from the distribution.

Usage: rtsp_server.py PORT        prints a line when it listens
/h264 a moving ball 640x480 at 25 fps, /jpeg the same as MJPEG, /secret needs admin and s3cret-word
Needs: apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-{base,good,bad,ugly}
"""

import sys

import gi  # type: ignore[import-not-found]

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-not-found]  # noqa: E402

BALL = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=640,height=480,framerate=25/1"
H264 = f"( {BALL} ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 pt=96 )"
JPEG = f"( {BALL} ! jpegenc ! rtpjpegpay name=pay0 pt=26 )"

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])

auth = GstRtspServer.RTSPAuth()
user = GstRtspServer.RTSPToken()
user.set_string("media.factory.role", "user")
auth.add_basic(GstRtspServer.RTSPAuth.make_basic("admin", "s3cret-word"), user)
anybody = GstRtspServer.RTSPToken()
anybody.set_string("media.factory.role", "anybody")
auth.set_default_token(anybody)
server.set_auth(auth)

for path, pipeline, roles in (
    ("/h264", H264, ("anybody", "user")),
    ("/jpeg", JPEG, ("anybody", "user")),
    ("/secret", H264, ("user",)),
):
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_shared(True)
    factory.set_launch(pipeline)
    for role in ("anybody", "user"):
        access = Gst.Structure.new_empty(role)
        access.set_value("media.factory.access", True)  # without access it would say 404, not 401
        access.set_value("media.factory.construct", role in roles)
        factory.add_role_from_structure(access)
    server.get_mount_points().add_factory(path, factory)

server.attach(None)
print("listening", flush=True)
GLib.MainLoop().run()
