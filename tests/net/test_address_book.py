"""Where peers may be found, best guess first, and no more of it than fits."""

from __future__ import annotations

import itertools

from aspen.limits import ADDRESS_BOOK_PEERS, ADDRESSES_PER_PEER
from aspen.net.address_book import AddressBook

PEER = b"P" * 32


def ticking():
    return AddressBook(itertools.count().__next__)


def test_trusted_sources_come_first_and_within_one_the_newest():
    book = ticking()
    book.add(PEER, ("gossip.old", 1), "gossip")
    book.add(PEER, ("manual", 1), "manual")
    book.add(PEER, ("gossip.new", 1), "gossip")
    book.add(PEER, ("rumour", 1), "a source nobody knows")
    assert [host for host, _ in book.addresses(PEER)] == ["manual", "gossip.new", "gossip.old", "rumour"]


def test_an_address_heard_again_is_young_again_and_keeps_its_better_source():
    book = ticking()
    book.add(PEER, ("a", 1), "manual")
    book.add(PEER, ("b", 1), "manual")
    book.add(PEER, ("a", 1), "gossip")
    assert [(k.address, k.source) for k in book.known(PEER)] == [(("a", 1), "manual"), (("b", 1), "manual")]


def test_an_address_names_all_who_told_of_it_and_stays_while_one_of_them_does():
    book = ticking()
    for source in ("dns", "connected", "gossip", "dns"):
        book.add(PEER, ("a", 1), source)
    assert book.known(PEER)[0].sources == ("connected", "gossip", "dns")
    book.remove(PEER, "connected")
    assert book.known(PEER)[0].sources == ("gossip", "dns")


def test_what_a_source_says_now_is_all_that_it_says():
    book = ticking()
    book.add(PEER, ("old", 1), "gossip")
    book.add(PEER, ("both", 1), "manual")
    book.add(PEER, ("both", 1), "gossip")
    book.replace(PEER, [("new", 1)], "gossip")
    assert [(k.address, k.sources) for k in book.known(PEER)] == [
        (("both", 1), ("manual",)),
        (("new", 1), ("gossip",)),
    ]
    book.remove(PEER, "manual")
    book.replace(PEER, [], "gossip")  # a node that nobody can call
    assert book.peers() == []


def test_an_unknown_peer_has_no_addresses():
    assert ticking().addresses(PEER) == []


def test_a_source_can_be_forgotten():
    book = ticking()
    book.add(PEER, ("a", 1), "manual")
    book.add(PEER, ("b", 1), "gossip")
    book.remove(PEER, "gossip")
    assert book.addresses(PEER) == [("a", 1)]
    book.remove(PEER)
    assert book.peers() == []


def test_addresses_of_a_peer_are_bounded_and_the_trusted_stay():
    book = ticking()
    book.add(PEER, ("manual", 1), "manual")
    for port in range(100):
        book.add(PEER, ("flood", port), "gossip")
    assert len(book.addresses(PEER)) == ADDRESSES_PER_PEER
    assert book.addresses(PEER)[0] == ("manual", 1)
    assert book.addresses(PEER)[1] == ("flood", 99)


def test_peers_are_bounded_and_a_flood_of_rumours_pushes_out_no_member():
    book = ticking()
    book.add(PEER, ("manual", 1), "manual")
    for number in range(ADDRESS_BOOK_PEERS + 50):
        book.add(number.to_bytes(32, "big"), ("rumour", 1), "gossip")
    assert len(book.peers()) == ADDRESS_BOOK_PEERS
    assert book.addresses(PEER) == [("manual", 1)]
    newest = (ADDRESS_BOOK_PEERS + 49).to_bytes(32, "big")
    assert book.addresses(newest) == [("rumour", 1)]


def test_a_rumour_finds_no_room_among_members_only():
    book = ticking()
    for number in range(ADDRESS_BOOK_PEERS):
        book.add(number.to_bytes(32, "big"), ("member", 1), "manual")
    book.add(PEER, ("rumour", 1), "gossip")
    assert book.addresses(PEER) == []
    book.add(PEER, ("member", 1), "manual")
    assert book.addresses(PEER) == [("member", 1)]
