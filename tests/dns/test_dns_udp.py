"""UDP on real sockets: in-process and by worker processes over a real store."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.message
import dns.rcode
import msgspec
import pytest
import structlog.testing
import uvloop

from aspen.dns.lookup import DnsSettings
from aspen.dns.sockets import bind_udp, bind_udp_and_tcp
from aspen.dns.udp import InProcessUdp, UdpWorkers
from aspen.dns.udp_answers import Counter
from aspen.dns.worker import WorkerOptions

SECONDS = 30.0  # until a test gives up

Ask = Callable[..., Any]


async def ask(address: tuple[str, int], name: str, rrtype: str = "TXT") -> dns.message.Message:
    """Ask until answered: a worker may be starting."""
    query = dns.message.make_query(name, rrtype)
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return await dns.asyncquery.udp(query, address[0], timeout=0.3, port=address[1])
        except (dns.exception.Timeout, OSError):
            assert time.monotonic() < deadline, "no answer"


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another process does in its own time."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.01)


@pytest.fixture
async def in_process(replica: Any) -> AsyncIterator[tuple[str, int]]:
    sockets = bind_udp("127.0.0.1", 0, 1)
    udp = InProcessUdp(sockets, replica.view())
    address = sockets[0].getsockname()
    await udp.start()
    yield address
    await udp.close()


@pytest.fixture
async def workers(replica: Any) -> AsyncIterator[tuple[UdpWorkers, tuple[str, int]]]:
    sockets = bind_udp("127.0.0.1", 0, 2)
    address = sockets[0].getsockname()
    forget = replica.store.forget_dead_readers
    udp = UdpWorkers(replica.data_dir, sockets, DnsSettings(), replica.page_path, on_end=forget)
    await udp.start()
    yield udp, address
    await udp.close()


async def test_in_process_answers(in_process: tuple[str, int], z32: str) -> None:
    reply = await ask(in_process, f"_iroh.{z32}.aspen.local")
    assert 'TXT "relay=https://relay.example./"' in reply.answer[0].to_text()
    assert (await ask(in_process, "nope.aspen.local")).rcode() == dns.rcode.NXDOMAIN


async def test_in_process_sees_a_new_packet_at_once(
    replica: Any, in_process: tuple[str, int], z32: str
) -> None:
    assert (await ask(in_process, f"new.{z32}.aspen.local")).rcode() == dns.rcode.NXDOMAIN
    replica.put('new 30 TXT "fresh"', timestamp_us=2)
    assert "fresh" in (await ask(in_process, f"new.{z32}.aspen.local")).answer[0].to_text()


async def test_in_process_says_servfail_when_the_replica_can_not_be_read(z32: str) -> None:
    class Broken:
        def packet_answers(self, public_key: bytes) -> bytes | None:
            raise OSError("disk on fire")

    from aspen.dns.lookup import View

    sockets = bind_udp("127.0.0.1", 0, 1)
    udp = InProcessUdp(sockets, View.build(Broken(), DnsSettings()))
    await udp.start()
    try:
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                reply = await ask(sockets[0].getsockname(), f"{z32}.aspen.local", "A")
                assert reply.rcode() == dns.rcode.SERVFAIL
        assert [entry["event"] for entry in logs] == ["replica_unreadable"]  # once a minute
        assert (await ask(sockets[0].getsockname(), "x.aspen.local")).rcode() == dns.rcode.NXDOMAIN
    finally:
        await udp.close()


async def test_in_process_survives_garbage(in_process: tuple[str, int], z32: str) -> None:
    rng = random.Random(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for size in range(0, 600, 3):
            sock.sendto(rng.randbytes(size), in_process)
        sock.sendto(bytes(5_000), in_process)  # longer than any query
    assert (await ask(in_process, f"{z32}.aspen.local", "A")).answer


async def test_every_worker_answers(workers: tuple[UdpWorkers, tuple[str, int]], z32: str) -> None:
    udp, address = workers
    assert len(udp.pids) == 2
    for _ in range(16):  # the kernel spreads clients over the sockets by their ports
        reply = await ask(address, f"_iroh.{z32}.aspen.local")
        assert "relay.example" in reply.answer[0].to_text()


async def test_a_worker_sees_a_new_packet_with_the_next_generation(
    replica: Any, workers: tuple[UdpWorkers, tuple[str, int]], z32: str
) -> None:
    _, address = workers
    name = f"n.{z32}.aspen.local"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:  # one client: one worker
        sock.settimeout(SECONDS)
        query = dns.message.make_query(name, "TXT").to_wire()
        for timestamp_us in range(2, 30):
            replica.put(f'n 30 TXT "{timestamp_us}"', timestamp_us=timestamp_us)
            for _ in range(3):  # looked up, then cached
                sock.sendto(query, address)
                assert f'"{timestamp_us}"' in dns.message.from_wire(sock.recv(2_000)).answer[0].to_text()


async def test_an_idle_worker_pins_no_pages(
    replica: Any, workers: tuple[UdpWorkers, tuple[str, int]], z32: str
) -> None:
    """It reads at one moment for a second at most; then pages that were given up since can be used again."""
    udp, address = workers
    for _ in range(8):
        assert (await ask(address, f"{z32}.aspen.local", "A")).answer

    await eventually(lambda: not reading(replica, udp.pids))


def reading(replica: Any, pids: list[int]) -> set[int]:
    """Which of the processes pin a moment of the store."""
    lines = [line.split() for line in replica.store.environment.readers().splitlines()[1:]]
    return {int(pid) for pid, _thread, txn in lines if txn != "-"} & set(pids)


async def test_a_killed_worker_pins_no_pages(
    replica: Any, workers: tuple[UdpWorkers, tuple[str, int]], z32: str
) -> None:
    udp, address = workers
    pids = udp.pids
    for pid in pids:
        while not reading(replica, [pid]):  # it has just answered
            assert (await ask(address, f"{z32}.aspen.local", "A")).answer
            replica.page.note_changes(None)  # so that it looks again
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: udp.restarts == 2)
    assert not reading(replica, pids)


async def test_a_crashed_worker_is_started_again(
    workers: tuple[UdpWorkers, tuple[str, int]], z32: str
) -> None:
    udp, address = workers
    await ask(address, f"{z32}.aspen.local", "A")
    before = udp.pids
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for _ in range(8):
        assert (await ask(address, f"{z32}.aspen.local", "A")).answer
    await eventually(lambda: udp.restarts == 2)
    assert not set(udp.pids) & set(before)


async def test_workers_count_what_they_do(
    replica: Any, workers: tuple[UdpWorkers, tuple[str, int]], z32: str
) -> None:
    _, address = workers
    counters = [replica.page.worker(index) for index in range(2)]

    def total(counter: int) -> int:
        return sum(block.get(counter) for block in counters)

    await ask(address, f"{z32}.aspen.local", "A")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        query = dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()
        for _ in range(100):
            sock.sendto(query, address)
            sock.recv(2_000)
        sock.sendto(b"junk", address)
    await eventually(lambda: total(Counter.HITS) + total(Counter.MISSES) >= 102)
    assert total(Counter.HITS) >= 90  # the cache was emptied a few times at most
    assert total(Counter.IGNORED) == 1
    assert total(Counter.FAILURES) == 0


async def test_workers_end_when_told_and_leave_the_port(replica: Any, z32: str) -> None:
    sockets = bind_udp("127.0.0.1", 0, 1)
    address = sockets[0].getsockname()
    udp = UdpWorkers(replica.data_dir, sockets, DnsSettings(), replica.page_path)
    await udp.start()
    await ask(address, f"{z32}.aspen.local", "A")
    pids = udp.pids
    await udp.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    for sock in bind_udp("127.0.0.1", address[1], 2):
        sock.close()


async def test_a_worker_opens_the_store_of_a_new_epoch(
    replica: Any, workers: tuple[UdpWorkers, tuple[str, int]], z32: str
) -> None:
    udp, address = workers
    assert (await ask(address, f"{z32}.aspen.local", "A")).answer
    before = udp.pids
    replica.page.epoch += 1
    replica.page.note_changes(None)
    for _ in range(8):
        assert (await ask(address, f"{z32}.aspen.local", "A")).answer
    assert (udp.pids, udp.restarts) == (before, 0)


async def test_10_000_bad_datagrams_leave_the_worker_as_it_was(
    replica: Any, workers: tuple[UdpWorkers, tuple[str, int]], z32: str
) -> None:
    udp, address = workers
    await ask(address, f"{z32}.aspen.local", "A")
    before = udp.pids
    rng = random.Random(5)
    good = dns.message.make_query(f"_iroh.{z32}.aspen.local", "TXT", use_edns=0).to_wire()
    memory = []
    for _ in range(4):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(2_500):
                data = bytearray(good if number % 4 else rng.randbytes(rng.randrange(200)))
                for _ in range(rng.randrange(1, 4)):
                    if data:
                        data[rng.randrange(len(data))] = rng.randrange(256)
                sock.sendto(data, address)
        assert (await ask(address, f"{z32}.aspen.local", "A")).answer  # behind all of those
        memory.append(sum(map(_resident_pages, before)))
    assert (udp.pids, udp.restarts) == (before, 0)
    # Pages; the cache of replies is bounded, and emptied by the second.
    assert memory[-1] - memory[0] < 16 * 1_048_576 // os.sysconf("SC_PAGE_SIZE")


def test_workers_run_under_uvloop(replica: Any, z32: str) -> None:
    async def run() -> None:
        sockets = bind_udp("127.0.0.1", 0, 1)
        udp = UdpWorkers(replica.data_dir, sockets, DnsSettings(), replica.page_path)
        await udp.start()
        try:
            assert (await ask(sockets[0].getsockname(), f"{z32}.aspen.local", "A")).answer
            os.kill(udp.pids[0], signal.SIGKILL)
            await eventually(lambda: udp.restarts == 1)
            assert (await ask(sockets[0].getsockname(), f"{z32}.aspen.local", "A")).answer
        finally:
            await udp.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


PARENT = """
import os, socket, subprocess, sys
import msgspec
from aspen.dns.udp_answers import Counter
from aspen.dns.worker import WorkerOptions
options = msgspec.json.decode(sys.argv[1], type=WorkerOptions)
options = msgspec.structs.replace(options, parent_pid=os.getpid())
child = subprocess.Popen(
    [sys.executable, "-m", "aspen.dns.worker", msgspec.json.encode(options).decode()],
    pass_fds=(options.descriptor,),
)
print(child.pid, flush=True)
sys.stdin.read()
"""


def _resident_pages(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])


async def test_a_worker_ends_with_its_parent(replica: Any, z32: str) -> None:
    (sock,) = bind_udp("127.0.0.1", 0, 1)
    options = WorkerOptions(
        index=0,
        descriptor=sock.fileno(),
        parent_pid=0,
        data_dir=str(replica.data_dir),
        status_page=str(replica.page_path),
        settings=DnsSettings(),
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PARENT,
        msgspec.json.encode(options).decode(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=(sock.fileno(),),
    )
    assert parent.stdout is not None
    try:
        pid = int(await parent.stdout.readline())
        await ask(sock.getsockname(), f"{z32}.aspen.local", "A")
    finally:
        parent.kill()
        await parent.communicate()
        sock.close()
    await eventually(lambda: not _is_running(pid))


def _is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("count", [1, 2])
def test_a_port_in_use_is_not_shared(count: int) -> None:
    first = bind_udp("127.0.0.1", 0, count)
    try:
        with pytest.raises(OSError, match="in use"):
            bind_udp("127.0.0.1", first[0].getsockname()[1], count)
    finally:
        for sock in first:
            sock.close()


def test_udp_and_tcp_get_the_same_port() -> None:
    udp, tcp = bind_udp_and_tcp("127.0.0.1", 0, 2)
    assert len({sock.getsockname() for sock in (*udp, tcp)}) == 1
    for sock in (*udp, tcp):
        sock.close()


@pytest.mark.parametrize("mode", ["in_process", "worker"])
@pytest.mark.parametrize(
    ("host", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.0.0.7"), ("::", "::1"), ("::", "127.0.0.7")],
)
async def test_a_reply_leaves_from_the_address_that_was_asked(
    replica: Any, z32: str, host: str, asked: str, mode: str
) -> None:
    try:
        sockets = bind_udp(host, 0, 1)
        client = socket.socket(socket.AF_INET6 if ":" in asked else socket.AF_INET, socket.SOCK_DGRAM)
        client.bind((asked, 0))
    except OSError:
        pytest.skip(f"this machine has no {asked}")
    port = sockets[0].getsockname()[1]
    udp: InProcessUdp | UdpWorkers
    if mode == "worker":
        udp = UdpWorkers(replica.data_dir, sockets, DnsSettings(), replica.page_path)
    else:
        udp = InProcessUdp(sockets, replica.view())
    await udp.start()
    try:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        query = dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()
        for _ in range(2):
            await loop.sock_sendto(client, query, (asked, port))
            reply, source = await asyncio.wait_for(loop.sock_recvfrom(client, 2_000), SECONDS)
            assert source[:2] == (asked, port)
            assert dns.message.from_wire(reply).answer
    finally:
        client.close()
        await udp.close()
