"""What the kernel grants the runner: namespaces of its own for mounts and networks.

The runner moves into a mount and a network namespace before it does anything, so what it mounts and
which interfaces it makes end with it, and nothing of it shows outside. Without root it first asks for a
user namespace. Where none of this is granted, the faults that need it are left out, with the reason.

Each node gets a network namespace with one interface, a TUN device: every packet that the node sends to
another comes out of a file descriptor, and goes into another one if the switch lets it (`switch`).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

_INSIDE = "FAULT_RUNNER_INSIDE"
_CLONE_NEWNET = 0x4000_0000
_TUNSETIFF = 0x4004_54CA
_TUN_WITHOUT_HEADER = 0x1001  # IFF_TUN | IFF_NO_PI
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFFLAGS = 0x8916, 0x891C, 0x8914
_UP, _RUNNING, _LOOPBACK = 0x1, 0x40, 0x8
_INTERFACE = b"aspen"
NETMASK = "255.255.255.0"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class NotGranted:
    """Why a kind of fault can't be had here."""

    reason: str


def move_inside() -> NotGranted | None:
    """Start this program again in namespaces of its own; return if it is there, or can't get there."""
    if os.environ.get(_INSIDE):
        return None
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return NotGranted("unshare and nsenter (util-linux) are not installed")
    reason = ""
    for user in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *user, "--mount", "--net", "--propagation", "private"]
        done = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            os.environ[_INSIDE] = "1"
            os.execvp(command[0], [*command, sys.executable, *sys.argv])
        reason = done.stderr.strip()
    return NotGranted(f"no namespaces: {reason}")


# --- mounts -----------------------------------------------------------------------------------


class SmallDisk:
    """A file system in memory whose size can be set, so that it can be full."""

    ROOM_BYTES = 1 << 30

    def __init__(self, path: Path) -> None:
        """Raises `PermissionError` where mounting is not allowed."""
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={self.ROOM_BYTES}", "none")

    def _mount(self, *arguments: str) -> None:
        command = ["mount", *arguments, str(self.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(done.stderr.strip())

    def fill(self) -> None:
        """Leave no room: the size becomes what is used now."""
        for spare_pages in (0, 4, 16, 64):  # it may grow while we look
            found = os.statvfs(self.path)
            used = (found.f_blocks - found.f_bfree + spare_pages) * found.f_frsize
            try:
                self._mount("-o", f"remount,size={used}")
                return
            except PermissionError:
                continue
        raise RuntimeError(f"{self.path} can't be made full")

    def make_room(self) -> None:
        self._mount("-o", f"remount,size={self.ROOM_BYTES}")

    def give_up(self) -> None:
        """With all that is on it. A folder that something is mounted on can't be deleted."""
        subprocess.run(["umount", "--lazy", str(self.path)], capture_output=True, check=False)


# --- networks ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A network namespace and the inside of its only wire."""

    address: str
    namespace: int
    """File descriptor; the namespace lives while it is open."""
    tun: int
    """File descriptor of the packets that leave, and of those that are to arrive."""

    def enter(self) -> list[str]:
        """The beginning of a command that is to run in this network; the pid stays the same."""
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.namespace}"]


def own_network(address: str) -> Network:
    """Join the runner's own namespace to the wires. Raises `OSError`."""
    return Network(address, os.open("/proc/self/ns/net", os.O_RDONLY), _wire(address))


def new_network(address: str) -> Network:
    """A network namespace for a node. Raises `OSError`."""
    made: list[Network | OSError] = []

    def make() -> None:  # in a thread, since a namespace is entered by a thread
        try:
            if _libc.unshare(_CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            made.append(Network(address, namespace, _wire(address)))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def _wire(address: str) -> int:
    """A TUN device in the current namespace, with the address, up; loopback as well."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", _INTERFACE, _TUN_WITHOUT_HEADER))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, text in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, NETMASK)):
            packed = struct.pack("16sHH4s16x", _INTERFACE, socket.AF_INET, 0, socket.inet_aton(text))
            fcntl.ioctl(control, request, packed)
        for name, flags in ((_INTERFACE, _UP | _RUNNING), (b"lo", _UP | _RUNNING | _LOOPBACK)):
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name, flags))
    return tun
