"""Ports for nodes, which are killed and started again: no other process of a test run takes one meanwhile.

They lie below those that the kernel gives away itself, and each worker of a run has a range of its own.
"""

from __future__ import annotations

import itertools
import os
import random
import socket

HOST = "127.0.0.1"
FIRST, END = 20_000, 32_000


def _own_range() -> range:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (END - FIRST) // workers
    return range(FIRST + worker * size, FIRST + (worker + 1) * size)


_PORTS = itertools.cycle(random.Random(os.getpid()).sample(_own_range(), len(_own_range())))


def _is_free(port: int) -> bool:
    """Whether the port can be bound for both TCP and UDP."""
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.bind((HOST, port))
    except OSError:
        return False
    return True


def free_port() -> int:
    return free_ports_in_a_row(1)


def free_ports_in_a_row(count: int) -> int:
    """The first of `count` free ports that follow each other."""
    whole = range(_own_range().start, _own_range().stop - count + 1)
    return next(port for port in _PORTS if port in whole and all(_is_free(port + i) for i in range(count)))
