"""Knot, NSD and BIND as secondaries of a zone, each a process with its own folder and port."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.tsig
from ports import free_port
from processes import end_with_parent, wait_until
from zone_primary import KEY_NAME, SECRET, ZONE

HOST = "127.0.0.1"
_SECRET = base64.b64encode(SECRET).decode()
KEYRING = dns.tsig.Key(KEY_NAME, SECRET, "hmac-sha256.")
KEY_ARGUMENT = f"hmac-sha256:{KEY_NAME}:{_SECRET}"


def serial_at(port: int) -> int | None:
    """The serial a server has; None while it has no zone."""
    query = dns.message.make_query(ZONE, "SOA")
    try:
        answer = dns.query.udp(query, HOST, port=port, timeout=1.0)
    except (dns.exception.DNSException, OSError):
        return None
    if answer.rcode() != dns.rcode.NOERROR or not answer.answer:
        return None
    return int(answer.answer[0][0].serial)


def contents_at(port: int, *, signed: bool = False, zone: str = ZONE) -> set[str]:
    """Every record of the zone as a server transfers it to dig: folded, for servers may compress a name
    into other letters."""
    signing = ("-y", KEY_ARGUMENT) if signed else ()
    command = [
        "dig",
        *signing,
        f"@{HOST}",
        "-p",
        str(port),
        zone,
        "AXFR",
        "+noall",
        "+answer",
        "+onesoa",
        "+nosplit",
    ]
    lines = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=True
    ).stdout.splitlines()
    return {" ".join(line.lower().split()) for line in lines if line and not line.startswith(";")}


class ZonePrimary:
    """A node that holds the zone, as a process (`zone_primary`)."""

    def __init__(self, folder: Path, count: int) -> None:
        self.port, self._http, self._quic = free_port(), free_port(), free_port()
        self._folder = folder
        self._log = folder.with_suffix(".log")
        self._count = count
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *notify: str, clock_shift_s: int = 0) -> None:
        script = Path(__file__).with_name("zone_primary.py")
        ports = (self.port, self._count, self._http, self._quic)
        with open(self._log, "wb") as log_file:
            self.process = subprocess.Popen(
                [sys.executable, str(script), str(self._folder), *map(str, ports), *notify],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "CLOCK_SHIFT_S": str(clock_shift_s)},
                preexec_fn=end_with_parent,
            )
        process = self.process
        wait_until(lambda: "ready\n" in self.log() or process.poll() is not None, "the primary is ready", 30)
        assert process.poll() is None, self.log()[-3_000:]

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(10)


def nsupdate(
    port: int, commands: str, *options: str, key: str | None = KEY_ARGUMENT
) -> subprocess.CompletedProcess[str]:
    """Run nsupdate with these commands, signed unless `key` is None."""
    signing = () if key is None else ("-y", key)
    text = f"server {HOST} {port}\nzone {ZONE}\nttl 300\n{commands}\nsend\nanswer\n"
    command = ["nsupdate", *signing, *options]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)


class Secondary:
    """One server. It transfers the zone at once and follows it."""

    program: ClassVar[str]
    files: ClassVar[dict[str, str]]
    arguments: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path, primary_port: int, *, key: bool = True) -> None:
        self.folder = folder
        self.port = free_port()
        self.primary_port = primary_port
        self.key = key
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def installed(cls) -> bool:
        return shutil.which(cls.program) is not None

    @property
    def target(self) -> str:
        """As a zone's NOTIFY setting names it."""
        return f"{HOST}:{self.port}" + (f"#{KEY_NAME}" if self.key else "")

    def start(self) -> None:
        values = {
            "folder": str(self.folder),
            "port": str(self.port),
            "primary": str(self.primary_port),
            "zone": ZONE,
            "key": KEY_NAME,
            "secret": _SECRET,
        }
        for name, text in self.files.items():
            for old, new in values.items():
                text = text.replace(f"@{old}@", new)
            (self.folder / name).write_text("\n".join(self._kept(text.splitlines())) + "\n")
        with open(self.folder / "log", "ab") as log_file:
            self._process = subprocess.Popen(
                [
                    self.program,
                    *(argument.replace("@folder@", str(self.folder)) for argument in self.arguments),
                ],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                preexec_fn=end_with_parent,
            )

    def _kept(self, lines: list[str]) -> list[str]:
        """Lines marked `+key` or `-key` stay with or without one."""
        kept = []
        for line in lines:
            text, _, mark = line.partition("%%")
            if not mark or mark.strip() == ("+key" if self.key else "-key"):
                kept.append(text.rstrip())
        return kept

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def serial(self) -> int | None:
        return serial_at(self.port)

    def wait_serial(self, serial: int, timeout_s: float = 30.0) -> None:
        wait_until(
            lambda: self.serial() == serial,
            f"{type(self).__name__} has serial {serial}",
            timeout_s,
            poll_s=0.05,
        )


class Knot(Secondary):
    program = "knotd"
    arguments = ("-c", "@folder@/knot.conf")
    files: ClassVar[dict[str, str]] = {
        "knot.conf": """
server:
  listen: 127.0.0.1@@port@
  rundir: "@folder@"
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
log:
  - target: stderr
    any: info
database:
  storage: "@folder@"
key:
  - id: @key@
    algorithm: hmac-sha256
    secret: @secret@
remote:
  - id: primary
    address: 127.0.0.1@@primary@
    key: @key@ %%+key
acl:
  - id: told
    address: 127.0.0.1
    action: notify
    key: @key@ %%+key
  - id: compare
    address: 127.0.0.1
    action: transfer
zone:
  - domain: @zone@
    storage: "@folder@"
    file: zone
    master: primary
    acl: [told, compare]
"""
    }


class Nsd(Secondary):
    program = "nsd"
    arguments = ("-d", "-c", "@folder@/nsd.conf")
    files: ClassVar[dict[str, str]] = {
        "nsd.conf": """
server:
  ip-address: 127.0.0.1@@port@
  username: ""
  chroot: ""
  database: ""
  zonesdir: "@folder@"
  pidfile: "@folder@/nsd.pid"
  xfrdfile: "@folder@/xfrd.state"
  xfrdir: "@folder@"
  zonelistfile: "@folder@/zone.list"
  server-count: 1
  xfrd-reload-timeout: 0
  verbosity: 2
remote-control:
  control-enable: no
key:
  name: @key@
  algorithm: hmac-sha256
  secret: "@secret@"
zone:
  name: @zone@
  zonefile: "zone"
  request-xfr: 127.0.0.1@@primary@ @key@ %%+key
  request-xfr: 127.0.0.1@@primary@ NOKEY %%-key
  allow-notify: 127.0.0.1 @key@ %%+key
  allow-notify: 127.0.0.1 NOKEY %%-key
  provide-xfr: 127.0.0.1 NOKEY
"""
    }


class Bind(Secondary):
    program = "named"
    arguments = ("-g", "-n", "1", "-c", "@folder@/named.conf")
    files: ClassVar[dict[str, str]] = {
        "named.conf": """
options {
  directory "@folder@";
  listen-on port @port@ { 127.0.0.1; };
  listen-on-v6 { none; };
  pid-file "@folder@/named.pid";
  session-keyfile "@folder@/session.key";
  recursion no;
  notify no;
  dnssec-validation no;
  allow-transfer { 127.0.0.1; };
};
controls { };
key "@key@" { algorithm hmac-sha256; secret "@secret@"; };
zone "@zone@" {
  type secondary;
  file "zone";
  masterfile-format text;
  primaries { 127.0.0.1 port @primary@ key "@key@"; }; %%+key
  primaries { 127.0.0.1 port @primary@; }; %%-key
};
"""
    }


SECONDARIES = (Knot, Nsd, Bind)


class CuttingProxy:
    """A TCP connection to the primary that can be cut in the middle of an answer."""

    def __init__(self, primary_port: int) -> None:
        self._primary_port = primary_port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._left: int | None = None
        self._on_cut: Callable[[], None] = lambda: None
        self.was_cut = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, octets: int, on_cut: Callable[[], None]) -> None:
        """Let so much more of answers pass, then do something, then end the connection."""
        self._left, self._on_cut = octets, on_cut

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((HOST, self._primary_port), timeout=10)
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(4_096):
                if answers and self._left is not None:
                    data = data[: self._left]
                    self._left -= len(data)
                sink.sendall(data)
                if answers and self._left == 0:
                    self._left = None
                    self._on_cut()
                    self.was_cut.set()
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        source.close()  # the other thread closes the sink
