"""What is found elsewhere is replicated by the rules of a PUT, if at all."""

from __future__ import annotations

from typing import Any

import pytest

from aspen.errors import HttpError, PacketError
from aspen.identity import Identity
from aspen.limits import PKARR_FUTURE_MS
from aspen.pkarr.gate import Gate, GateRules
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.records import build_message
from aspen.pkarr.relay import Relay, RelayRules
from aspen.state.packets import PacketRecord, PacketUsage

ALICE = Identity.from_seed(bytes(range(32)))
NOW_US = 1_700_000_000_000_000


def packet(at_us: int = NOW_US) -> SignedPacket:
    return SignedPacket.sign(ALICE, build_message(ALICE.endpoint_id, ["@ A 192.0.2.1"]), at_us)


class FakeProposer:
    def __init__(self) -> None:
        self.proposed: list[Any] = []

    async def propose(self, command: Any) -> None:
        self.proposed.append(command)


class FakePackets:
    def __init__(self, stored: SignedPacket | None = None) -> None:
        self.stored = stored

    def get(self, public_key: bytes) -> PacketRecord | None:
        if self.stored is None:
            return None
        return PacketRecord(public_key, self.stored.timestamp_us, 0, False, b"", self.stored.payload)

    def usage(self) -> PacketUsage:
        return PacketUsage(10, 10)


def relay(packets: FakePackets | None = None, **rules: Any) -> tuple[Relay, FakeProposer]:
    proposer = FakeProposer()
    gate = Gate(GateRules(denied=rules.pop("denied", frozenset())))
    made = Relay(
        proposer,  # type: ignore[arg-type]
        packets or FakePackets(),
        rules=RelayRules(**rules),
        gate=gate,
        wall_us=lambda: NOW_US,
    )
    return made, proposer


async def test_a_packet_under_a_new_key_is_proposed() -> None:
    made, proposer = relay()
    await made.take_found(packet())
    assert [command.payload for command in proposer.proposed] == [packet().payload]


@pytest.mark.parametrize(
    ("stored_at_us", "proposes"), [(NOW_US - 1, True), (NOW_US, False), (NOW_US + 1, False)]
)
async def test_only_a_more_recent_one_is_proposed(stored_at_us: int, proposes: bool) -> None:
    made, proposer = relay(FakePackets(packet(stored_at_us)))
    await made.take_found(packet())
    assert bool(proposer.proposed) is proposes


async def test_one_from_the_future_would_pin_its_key_and_is_refused() -> None:
    made, proposer = relay()
    with pytest.raises(PacketError) as refused:
        await made.take_found(packet(NOW_US + PKARR_FUTURE_MS * 1_000 + 1))
    assert refused.value.code == "timestamp"
    assert proposer.proposed == []


async def test_one_under_a_denied_key_is_refused() -> None:
    made, proposer = relay(denied=frozenset({ALICE.endpoint_id}))
    with pytest.raises(HttpError) as refused:
        await made.take_found(packet())
    assert refused.value.code == "denied"
    assert not made.admits(ALICE.endpoint_id)
    assert made.admits(bytes(32))
    assert proposer.proposed == []


async def test_where_there_is_no_room_nothing_is_fetched_in() -> None:
    made, proposer = relay(max_packets=10)
    with pytest.raises(HttpError) as refused:
        await made.take_found(packet())
    assert refused.value.status == 507
    assert proposer.proposed == []
