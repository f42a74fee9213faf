"""The walk to the nodes closest to a target (Kademlia §2.3), over networks made up for the purpose."""

from __future__ import annotations

import random

from aspen.limits import (
    DHT_CLOSEST,
    DHT_CONTACTS_PER_ANSWER,
    DHT_LOOKUP_CANDIDATES,
    DHT_LOOKUP_QUERIES,
)
from aspen.pkarr.dht_lookup import Lookup
from aspen.pkarr.krpc import Address, Contact

TARGET = bytes(20)
AT_ONCE = 8


def closeness(node_id: bytes) -> int:
    return int.from_bytes(node_id, "big")  # to a target of zeros


class MadeUpNetwork:
    """Nodes that know the `known` others closest to themselves, and some far ones."""

    def __init__(self, size: int, seed: int, dead: float = 0.0) -> None:
        chance = random.Random(seed)
        self.contacts = [
            Contact(chance.randbytes(20), (f"198.51.{i >> 8}.{i & 255}", 6881)) for i in range(size)
        ]
        self.ids = {each.address: each.node_id for each in self.contacts}
        self.dead = {each.address for each in self.contacts if chance.random() < dead}
        self.table = {}
        for each in self.contacts:
            near = sorted(self.contacts, key=lambda other: closeness(other.node_id) ^ closeness(each.node_id))
            self.table[each.address] = near[1:30] + chance.sample(self.contacts, min(20, size))

    def answer(self, address: Address) -> list[Contact]:
        return sorted(self.table[address], key=lambda each: closeness(each.node_id))[:DHT_CONTACTS_PER_ANSWER]

    def closest_alive(self) -> list[Address]:
        alive = [each for each in self.contacts if each.address not in self.dead]
        return [each.address for each in sorted(alive, key=lambda each: closeness(each.node_id))][
            :DHT_CLOSEST
        ]


def walk(lookup: Lookup, network: MadeUpNetwork) -> int:
    """Answer what is asked until the lookup is done; how often somebody was asked."""
    asked = 0
    while not lookup.done:
        for address in lookup.next_to_ask(AT_ONCE):
            asked += 1
            if address in network.dead:
                lookup.failed(address)
            else:
                lookup.answered(address, network.ids[address], network.answer(address), b"token")
    return asked


def test_a_walk_from_one_node_ends_at_the_closest_of_all() -> None:
    for seed in range(6):
        network = MadeUpNetwork(300, seed)
        lookup = Lookup(TARGET, [], [network.contacts[0].address])
        assert walk(lookup, network) <= DHT_LOOKUP_QUERIES
        assert [each.address for each in lookup.closest] == network.closest_alive()


def test_dead_nodes_are_walked_around() -> None:
    for seed in range(6):
        network = MadeUpNetwork(300, seed, dead=0.3)
        living = [each for each in network.contacts if each.address not in network.dead]
        lookup = Lookup(TARGET, living[:3], [])
        walk(lookup, network)
        found, closest = [each.address for each in lookup.closest], network.closest_alive()
        assert found[0] == closest[0]
        assert len(set(found) & set(closest)) >= DHT_CLOSEST - 2  # nodes here never forget the dead


def test_nobody_to_ask_is_done_at_once() -> None:
    lookup = Lookup(TARGET, [], [])
    assert lookup.done
    assert lookup.closest == []


def test_no_more_than_so_many_are_asked_at_once_and_none_twice() -> None:
    network = MadeUpNetwork(60, 1)
    lookup = Lookup(TARGET, network.contacts, [])
    first = lookup.next_to_ask(3)
    assert len(first) == 3
    assert lookup.next_to_ask(3) == []
    lookup.failed(first[0])
    second = lookup.next_to_ask(3)
    assert len(second) == 1
    assert not set(second) & set(first)


def test_an_answer_nobody_asked_for_changes_nothing() -> None:
    network = MadeUpNetwork(30, 1)
    lookup = Lookup(TARGET, network.contacts[:2], [])
    stranger = network.contacts[9]
    lookup.answered(stranger.address, stranger.node_id, network.contacts, b"t")
    lookup.answered(network.contacts[0].address, network.contacts[0].node_id, network.contacts, b"t")
    assert lookup.answers == 0
    assert len(lookup.next_to_ask(99)) == 2


def test_a_node_that_is_not_who_it_was_said_to_be_leads_nowhere() -> None:
    network = MadeUpNetwork(30, 1)
    told = network.contacts[0]
    lookup = Lookup(TARGET, [told], [])
    assert lookup.next_to_ask(8) == [told.address]
    lookup.answered(told.address, bytes(20), network.contacts, b"token")  # it claims to be the target itself
    assert lookup.done
    assert lookup.closest == []


def test_an_endless_supply_of_ever_closer_nodes_ends() -> None:
    """Somebody who answers for as many nodes as they like can't keep a lookup going."""
    lookup = Lookup(TARGET, [Contact(b"\xff" * 20, ("198.51.100.1", 1))], [])
    made, asked = 0, 0
    while not lookup.done:
        for address in lookup.next_to_ask(AT_ONCE):
            asked += 1
            contacts = []
            for _ in range(1_000):
                made += 1
                closer = (2**152 - made).to_bytes(20, "big")
                contacts.append(
                    Contact(closer, (f"203.0.{made >> 8 & 255}.{made & 255}", 1 + made // 65_536))
                )
            ids = {each.address: each.node_id for each in contacts}
            lookup.answered(address, lookup._candidates[address].node_id or b"", contacts, b"t")
            assert len(ids) == 1_000
    assert asked <= DHT_LOOKUP_QUERIES
    assert len(lookup._candidates) <= DHT_LOOKUP_CANDIDATES
    assert asked * DHT_CONTACTS_PER_ANSWER >= len(lookup._candidates)


def led_to(teller: str, named: str) -> bool:
    lookup = Lookup(TARGET, [Contact(b"\xff" * 20, (teller, 6881))], [])
    (asked,) = lookup.next_to_ask(1)
    lookup.answered(asked, b"\xff" * 20, [Contact(b"\x01" * 20, (named, 80))], None)
    return bool(lookup.next_to_ask(1))


def test_a_node_at_a_public_address_can_not_send_us_into_private_networks() -> None:
    assert led_to("8.8.8.8", "9.9.9.9")
    for private in ("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"):
        assert not led_to("8.8.8.8", private)
    assert led_to("127.0.0.1", "127.0.0.1")  # a DHT of one's own
    assert led_to("10.0.0.1", "9.9.9.9")
    assert not led_to("10.0.0.1", "224.0.0.1")
