"""Runs in the guest: the V4L2 source on real drivers. One line `RESULT name {json}` a scenario; the host judges."""

from __future__ import annotations

import sys

import usb_scenarios
import vivid_scenarios
from kernel_cameras import UsbCamera, plug_vivid, unplug_vivid
from scenario_tools import report

if __name__ == "__main__":
    failed = report(vivid_scenarios.SCENARIOS, plug_vivid())
    unplug_vivid()
    failed += report(usb_scenarios.SCENARIOS, UsbCamera("A1B2C3"))
    sys.exit(failed)
