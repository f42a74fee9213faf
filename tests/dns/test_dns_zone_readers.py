"""The same answers, wherever a zone is kept and whichever way is taken: in memory or in the replica, by the
pipeline or by its shortcuts."""

from __future__ import annotations

from pathlib import Path

from differential import NoRecords, generate, query_bytes
from dns_zones import zone_from_text

from aspen.dns.fast import FastResponder
from aspen.dns.lookup import DnsSettings, View
from aspen.dns.respond import Transport, respond
from aspen.dns.zone import MemoryZones, ZoneSettings
from aspen.dns.zone_rules import ZoneRecord
from aspen.state.commands import encode_command
from aspen.state.machine import Machine
from aspen.state.store import Store
from aspen.state.zone_commands import ZoneCreate
from aspen.state.zones import LmdbZones


def test_generated_zones_in_the_replica_answer_as_in_memory(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    machine = Machine(store)
    generated = generate(60, seed=5)
    kept = [zone_from_text(zone.apex, zone.text()) for zone in generated]
    with store.write() as txn:
        machine.begin(txn)
        for index, zone in enumerate(kept, 1):
            records = tuple(
                ZoneRecord(owner, rrtype, rrset.ttl, rdata)
                for owner, node in zone.walk()
                for rrtype, rrset in node.items()
                for rdata in rrset.rdatas
            )
            command = encode_command(ZoneCreate(zone.apex, ZoneSettings(), records))
            machine.apply(txn, index, 1_700_000_000_000, command)
        machine.end(txn)
    replica = View.build(NoRecords(), DnsSettings(), LmdbZones(store))
    memory = View.build(NoRecords(), DnsSettings(), MemoryZones(kept))
    fast = FastResponder(replica)
    seen = set()
    for zone in generated:
        for name, rrtype in zone.questions(20):
            query = query_bytes(name, rrtype, 1232, 1)
            reply = respond(query, memory, Transport.UDP)
            assert reply is not None
            assert respond(query, replica, Transport.UDP) == reply, (zone.text(), name, rrtype)
            for _ in range(2):  # the second time with a plan at hand
                assert fast.answer(query) == reply[2:], (zone.text(), name, rrtype)
            seen.add(reply[3] & 15)
    assert {0, 3} <= seen
    store.close()
