"""What the kernel knows about processes: who belongs to whom, and how much memory they hold (Linux /proc)."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Run in a child before exec: whatever becomes of the test run, its nodes don't outlive it (prctl(2))."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


POLL_S = 0.01
SLOWEST_POLL_S = 0.1


def wait_until(
    condition: Callable[[], T], what: str, timeout_s: float = 30.0, poll_s: float | None = None
) -> T:
    """Poll until `condition()` is true; return what it returned. Other processes can only be polled.

    Unless told how often, it asks less and less: every question costs those who are waited for.
    """
    began = time.monotonic()
    while True:
        if value := condition():
            return value
        waited_s = time.monotonic() - began
        if waited_s > timeout_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(poll_s or min(max(POLL_S, waited_s / 20), SLOWEST_POLL_S))


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the command name: state, ppid, pgrp, session, …"""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def _living() -> dict[int, list[str]]:
    """pid → stat fields, zombies left out."""
    fields = {int(name): _stat_fields(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return {pid: stat for pid, stat in fields.items() if stat and stat[0] != "Z"}


def session_members(session_id: int) -> set[int]:
    """Every living process of a session: a node started in a session of its own, and all it started."""
    return {pid for pid, stat in _living().items() if int(stat[3]) == session_id}


def children(parent: int) -> set[int]:
    return {pid for pid, stat in _living().items() if int(stat[1]) == parent}


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def dns_workers(node_pid: int) -> set[int]:
    """The UDP worker processes of a node."""
    return {pid for pid in children(node_pid) if "aspen.dns.worker" in command_line(pid)}


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kib(pid: int) -> int:
    """VmRSS less what is merely mapped from files: LMDB's map grows with the data, and is no leak."""
    kib = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("RssAnon:", "RssShmem:")):
            kib += int(line.split()[1])
    return kib
