"""What a service manager and a service say to each other, as systemd does it: sd_notify(3), sd_listen_fds(3).

In by the environment: sockets that were opened for this process (LISTEN_FDS from descriptor 3 on, with a
name each in LISTEN_FDNAMES), where to say how it goes (NOTIFY_SOCKET), and how often (WATCHDOG_USEC). Out
by datagrams of `NAME=value` lines. Both are taken out of the environment, so that no child believes that
they were meant for it. Without such an environment everything here does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Final, NamedTuple

from aspen.errors import ConfigError

FIRST_DESCRIPTOR: Final = 3
SOCKET_NAMES: Final = ("dns", "http", "admin", "https", "dot", "doq")
"""What FileDescriptorName= may say: the listener that a socket is for. `dns` is both UDP and TCP."""
_STREAMS: Final = frozenset(SOCKET_NAMES) - {"doq"}
_DATAGRAMS: Final = frozenset({"dns", "doq"})
_US: Final = 1_000


class Handed(NamedTuple):
    """A descriptor that was handed over, and its name."""

    descriptor: int
    name: str


def handed_over(environment: Mapping[str, str], pid: int) -> list[Handed]:
    """What the environment says was handed to process `pid`. Raises `ConfigError` if it makes no sense."""
    if not environment.get("LISTEN_FDS") or environment.get("LISTEN_PID") != str(pid):
        return []  # nothing, or meant for a parent of this process
    text = environment["LISTEN_FDS"]
    if not text.isdecimal():
        raise ConfigError(f"LISTEN_FDS is {text!r}, not a number")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    count = int(text)
    if len(names) != count:
        raise ConfigError(f"{count} sockets were handed over, and {len(names)} names for them")
    return [Handed(FIRST_DESCRIPTOR + at, name) for at, name in enumerate(names)]


class GivenSockets:
    """Sockets that were opened for this node, by the listener they are for. Those taken are the taker's."""

    def __init__(self, sockets: Iterable[tuple[str, socket.socket]] = ()) -> None:
        """Raises `ConfigError` for a socket that no listener could take."""
        self._streams: dict[str, socket.socket] = {}
        self._datagrams: defaultdict[str, list[socket.socket]] = defaultdict(list)
        self._taken: set[str] = set()
        for name, sock in sockets:
            stream = sock.type == socket.SOCK_STREAM
            if sock.family not in (socket.AF_INET, socket.AF_INET6) or name not in SOCKET_NAMES:
                raise ConfigError(
                    f"a socket named {name!r} was handed over; known names (FileDescriptorName=) of "
                    f"Internet sockets are {', '.join(SOCKET_NAMES)}"
                )
            if name not in (_STREAMS if stream else _DATAGRAMS):
                raise ConfigError(f"the socket for {name!r} is of the wrong kind: {_kind(stream)}")
            if stream and self._streams.setdefault(name, sock) is not sock:
                raise ConfigError(
                    f"two {_kind(stream)} sockets were handed over for {name!r}: name one address, or all"
                )
            if not stream:
                self._datagrams[name].append(sock)
        if ("dns" in self._streams) != ("dns" in self._datagrams):
            raise ConfigError("DNS was handed one of UDP and TCP; it needs both (RFC 7766 §5)")

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], pid: int) -> GivenSockets:
        """Take up what was handed over, so that no child inherits it. Raises `ConfigError`."""
        handed = handed_over(environment, pid)
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            environment.pop(name, None)
        sockets = []
        for descriptor, name in handed:
            os.set_inheritable(descriptor, False)
            try:
                sockets.append((name, socket.socket(fileno=descriptor)))
            except OSError as error:
                raise ConfigError(f"what was handed over as {name!r} is no socket: {error}") from None
        return cls(sockets)

    def stream(self, name: str) -> socket.socket | None:
        self._taken.add(name)
        return self._streams.get(name)

    def datagram(self, name: str) -> list[socket.socket]:
        """Several if the port is shared among them (ReusePort=)."""
        self._taken.add(name)
        return list(self._datagrams.get(name, ()))

    def count(self, name: str) -> int:
        """How many `datagram` gives."""
        return len(self._datagrams.get(name, ()))

    def address(self, name: str) -> tuple[str, int] | None:
        """Where a stream socket listens, which overrules the configuration."""
        sock = self._streams.get(name)
        if sock is None:
            return None
        host, port = sock.getsockname()[:2]
        return str(host), int(port)

    def check_all_taken(self) -> None:
        """Raises `ConfigError` if there is one that nobody wanted: its clients would wait for ever."""
        left = sorted({*self._streams, *self._datagrams} - self._taken)
        if left:
            raise ConfigError(
                f"a socket was handed over for {', '.join(left)}, which this node's settings don't switch on"
            )


NO_SOCKETS: Final = GivenSockets()


def _kind(stream: bool) -> str:
    return "stream (TCP)" if stream else "datagram (UDP)"


def watchdog_ms(environment: Mapping[str, str], pid: int) -> int | None:
    """Within how many milliseconds each sign of life must follow the last; None if nobody waits for them."""
    text = environment.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or not int(text) or environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return max(1, int(text) // _US)


class Manager:
    """The service manager that started this process, if there is one that wants to hear."""

    def __init__(self, address: str = "", watchdog_ms: int | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_ms = watchdog_ms
        self._status = ""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], pid: int) -> Manager:
        limit_ms = watchdog_ms(environment, pid)
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            environment.pop(name, None)
        return cls(environment.pop("NOTIFY_SOCKET", ""), limit_ms)

    @property
    def listens(self) -> bool:
        return bool(self._address)

    def ready(self) -> None:
        self._tell("READY=1")

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; told when it has changed."""
        if text != self._status:
            self._status = text
            self._tell("STATUS=" + text.replace("\n", " "))

    def reloading(self) -> None:
        """Follow it with `ready`."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1_000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def extend(self, milliseconds: int) -> None:
        """Starting or stopping takes its time: be patient for so much longer."""
        self._tell(f"EXTEND_TIMEOUT_USEC={milliseconds * _US}")

    def _tell(self, lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(lines.encode(), self._address)
            except OSError:
                pass  # a manager that doesn't hear draws its own conclusions
