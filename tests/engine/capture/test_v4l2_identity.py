from __future__ import annotations

from pathlib import Path

import pytest

from detr_sentry.capture.v4l2_identity import Identity, Tree, find_node
from detr_sentry.errors import SettingsError, SourceGoneError

# Links to these stand in for device files: they are real character devices with known numbers, and need no privilege.
CHARACTER_DEVICES = {"1:3": "/dev/null", "1:5": "/dev/zero", "1:7": "/dev/full", "1:8": "/dev/random"}


class Machine:
    """A made-up /sys and /dev."""

    def __init__(self, root: Path) -> None:
        self.tree = Tree(sys=root / "sys", dev=root / "dev")
        for folder in (self.tree.sys / "class/video4linux", self.tree.sys / "dev/char", self.tree.dev):
            folder.mkdir(parents=True)

    def path(self, name: str) -> str:
        return str(self.tree.dev / name)

    def usb(self, name: str, number: str, *, port: str, serial: str | None = None, **place: object) -> None:
        device = self.tree.sys / "devices/pci0000:00/usb1" / port
        interface = device / f"{port}:1.{place.get('interface', '0')}"
        interface.mkdir(parents=True, exist_ok=True)
        (device / "idVendor").write_text("046D\n")
        (device / "idProduct").write_text(f"{place.get('product', '0825')}\n")
        if serial is not None:
            (device / "serial").write_text(f"{serial}\n")
        (interface / "bInterfaceNumber").write_text(f"0{place.get('interface', '0')}\n")
        self._node(name, number, interface, card=str(place.get("card", "C270")), index=str(place.get("index", "0")))

    def platform(self, name: str, number: str, bus: str, card: str = "vivid") -> None:
        device = self.tree.sys / "devices" / bus
        device.mkdir(parents=True, exist_ok=True)
        self._node(name, number, device, card=card)

    def virtual(self, name: str, number: str, card: str) -> None:
        self._node(name, number, None, card=card)

    def unplug(self, name: str) -> None:
        entry = self.tree.sys / "class/video4linux" / name
        (self.tree.sys / "dev/char" / (entry / "dev").read_text()).unlink()
        entry.unlink()
        (self.tree.dev / name).unlink()

    def _node(self, name: str, number: str, device: Path | None, *, card: str, index: str = "0") -> None:
        parent = device or self.tree.sys / "devices/virtual"
        entry = parent / "video4linux" / name
        entry.mkdir(parents=True, exist_ok=True)
        for attribute, text in (("dev", number), ("name", card), ("index", index)):
            (entry / attribute).write_text(text)
        if device is not None and not (entry / "device").exists():
            (entry / "device").symlink_to(device)
        (self.tree.sys / "class/video4linux" / name).symlink_to(entry)
        (self.tree.sys / "dev/char" / number).symlink_to(entry)
        (self.tree.dev / name).symlink_to(CHARACTER_DEVICES[number])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_usb_camera_is_known_by_vendor_product_and_serial(machine: Machine) -> None:
    machine.usb("video0", "1:3", port="1-4.2", serial="A1B2")

    node = find_node(machine.path("video0"), tree=machine.tree)

    assert str(node.identity) == "usb=046d:0825:A1B2"
    assert node.identity == Identity(
        card="C270", vendor="046d", product="0825", serial="A1B2", port="1-4.2", interface="00"
    )
    assert str(node) == f"{machine.path('video0')} (C270)"


def test_usb_camera_without_serial_is_known_by_its_port(machine: Machine) -> None:
    machine.usb("video0", "1:3", port="1-4.2")

    assert str(find_node(machine.path("video0"), tree=machine.tree).identity) == "usb=046d:0825@1-4.2"


def test_cameras_elsewhere_are_known_by_bus_or_name(machine: Machine) -> None:
    machine.platform("video0", "1:3", "platform/vivid.0")
    machine.virtual("video1", "1:5", "OBS")

    assert [str(node.identity) for node in machine.tree.nodes()] == ["bus=platform/vivid.0", "bus=virtual/OBS"]


def test_nodes_of_one_camera_have_different_identities(machine: Machine) -> None:
    machine.usb("video0", "1:3", port="1-4", serial="A")
    machine.usb("video1", "1:5", port="1-4", serial="A", index=1)
    machine.usb("video2", "1:7", port="1-4", serial="A", interface="2")

    identities = [str(node.identity) for node in machine.tree.nodes()]

    assert identities == ["usb=046d:0825:A", "usb=046d:0825:A#1", "usb=046d:0825:A#2"]
    for path, identity in zip(("video0", "video1", "video2"), identities, strict=True):
        assert find_node(identity, tree=machine.tree).path == Path(machine.path(path))


def test_nodes_come_in_the_order_of_their_numbers(machine: Machine) -> None:
    machine.virtual("video10", "1:3", "ten")
    machine.virtual("video9", "1:5", "nine")

    assert [node.identity.card for node in machine.tree.nodes()] == ["nine", "ten"]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("usb=046d:0825:A", "video1"),
        ("usb=046D:0825:A", "video1"),
        ("usb=046d:0825@1-2", "video2"),
        ("usb=046d:0826", "video3"),
        ("usb=046d:0825:A@1-1", "video1"),
    ],
)
def test_finds_usb_camera(machine: Machine, location: str, expected: str) -> None:
    machine.usb("video1", "1:3", port="1-1", serial="A")
    machine.usb("video2", "1:5", port="1-2", serial="B")
    machine.usb("video3", "1:7", port="1-3", serial="C", product="0826")
    machine.usb("video4", "1:8", port="1-3", serial="C", product="0826", index=1)

    assert find_node(location, tree=machine.tree).path == Path(machine.path(expected))


def test_refuses_to_guess_between_two_cameras(machine: Machine) -> None:
    machine.usb("video0", "1:3", port="1-1", serial="A")
    machine.usb("video1", "1:5", port="1-2", serial="B")

    with pytest.raises(SourceGoneError, match=r"2 cameras match: .*usb=046d:0825:A at 1-1.*usb=046d:0825:B at 1-2"):
        find_node("usb=046d:0825", tree=machine.tree)


def test_absent_camera_says_what_is_there(machine: Machine) -> None:
    machine.platform("video0", "1:3", "platform/vivid.0")

    with pytest.raises(SourceGoneError, match=r"no camera is usb=046d:0825; found: .*vivid.*bus=platform/vivid.0"):
        find_node("usb=046d:0825", tree=machine.tree)
    with pytest.raises(SourceGoneError, match=r"video7 is not there; found: "):
        find_node(machine.path("video7"), tree=machine.tree)


def test_machine_without_cameras_says_so(machine: Machine) -> None:
    with pytest.raises(SourceGoneError, match="no camera found at all"):
        find_node(machine.path("video0"), tree=machine.tree)


@pytest.mark.parametrize("location", ["usb=046d", "video0", "usb=xyz1:0825", "usb=046d:0825@", "serial=7"])
def test_unreadable_location_is_a_settings_error(machine: Machine, location: str) -> None:
    with pytest.raises(SettingsError, match=r"names no camera; use /dev/v4l/by-id"):
        find_node(location, tree=machine.tree)


def test_renumbered_camera_is_found_again(machine: Machine) -> None:
    machine.usb("video0", "1:3", port="1-1", serial="A")
    known = find_node(machine.path("video0"), tree=machine.tree).identity
    machine.unplug("video0")
    machine.usb("video2", "1:5", port="1-3", serial="A")

    found = find_node(machine.path("video0"), known, machine.tree)

    assert found.path == Path(machine.path("video2"))


def test_another_camera_at_the_path_is_never_taken(machine: Machine) -> None:
    machine.usb("video0", "1:3", port="1-1", serial="A")
    known = find_node(machine.path("video0"), tree=machine.tree).identity
    machine.unplug("video0")
    machine.usb("video0", "1:5", port="1-2", serial="B")

    with pytest.raises(
        SourceGoneError, match=r"camera usb=046d:0825:A \(C270\) is gone; .*another camera, usb=046d:0825:B"
    ):
        find_node(machine.path("video0"), known, machine.tree)


def test_swapped_cameras_keep_their_names(machine: Machine) -> None:
    machine.usb("video0", "1:3", port="1-1", serial="A")
    machine.usb("video1", "1:5", port="1-2", serial="B")
    known = {name: find_node(machine.path(name), tree=machine.tree).identity for name in ("video0", "video1")}
    machine.unplug("video0")
    machine.unplug("video1")
    machine.usb("video0", "1:5", port="1-2", serial="B")
    machine.usb("video1", "1:3", port="1-1", serial="A")

    found = {name: find_node(machine.path(name), identity, machine.tree).path.name for name, identity in known.items()}

    assert found == {"video0": "video1", "video1": "video0"}


def test_camera_without_serial_at_another_port_is_another_camera(machine: Machine) -> None:
    machine.usb("video0", "1:3", port="1-1")
    known = find_node("usb=046d:0825", tree=machine.tree).identity
    machine.unplug("video0")
    machine.usb("video0", "1:5", port="1-2")

    with pytest.raises(SourceGoneError, match=r"usb=046d:0825@1-1 .* is gone"):
        find_node("usb=046d:0825", known, machine.tree)


def test_one_serial_on_two_cameras_is_told_apart_by_port(machine: Machine) -> None:
    machine.usb("video0", "1:3", port="1-1", serial="SN0001")
    known = find_node(machine.path("video0"), tree=machine.tree).identity
    machine.unplug("video0")
    machine.usb("video0", "1:5", port="1-2", serial="SN0001")
    machine.usb("video1", "1:3", port="1-1", serial="SN0001")

    assert find_node(machine.path("video0"), known, machine.tree).path.name == "video1"

    machine.unplug("video1")
    machine.usb("video1", "1:7", port="1-9", serial="SN0001")
    with pytest.raises(SourceGoneError, match="2 cameras match"):
        find_node(machine.path("video0"), known, machine.tree)


def test_mapped_name_is_followed_by_its_number(machine: Machine) -> None:
    machine.usb("video2", "1:3", port="1-1", serial="A")
    (machine.tree.dev / "video2").rename(machine.tree.dev / "video0")  # docker run --device /dev/video2:/dev/video0

    assert str(find_node(machine.path("video0"), tree=machine.tree).identity) == "usb=046d:0825:A"
    assert find_node("usb=046d:0825", tree=machine.tree).path == Path(machine.path("video0"))


def test_node_that_is_not_passed_in_is_not_offered(machine: Machine) -> None:
    machine.usb("video0", "1:3", port="1-1", serial="A")
    (machine.tree.dev / "video0").unlink()

    assert machine.tree.nodes() == []


def test_device_unknown_to_sysfs_is_known_by_its_path(machine: Machine) -> None:
    (machine.tree.dev / "video0").symlink_to("/dev/null")

    node = find_node(machine.path("video0"), tree=machine.tree)

    assert str(node.identity) == machine.path("video0")
    assert find_node(machine.path("video0"), node.identity, machine.tree) == node


def test_file_is_not_a_camera(machine: Machine) -> None:
    (machine.tree.dev / "video0").write_text("")

    with pytest.raises(SourceGoneError, match="is not there"):
        find_node(machine.path("video0"), tree=machine.tree)


def test_file_that_outlives_its_camera_is_not_called_another_one(machine: Machine) -> None:
    machine.usb("video0", "1:3", port="1-1", serial="A")
    known = find_node(machine.path("video0"), tree=machine.tree).identity
    machine.unplug("video0")
    (machine.tree.dev / "video0").symlink_to("/dev/null")

    with pytest.raises(SourceGoneError) as caught:
        find_node(machine.path("video0"), known, machine.tree)

    assert str(caught.value) == "the camera usb=046d:0825:A (C270) is gone; no camera found at all"
