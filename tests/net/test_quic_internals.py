"""What Aspen uses of aioquic beyond its public interface is still there and still does it.

When a test here fails after an upgrade of aioquic, `aspen/net/quic_internals.py` is where to look, and
nowhere else.
"""

from __future__ import annotations

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted, StopSendingReceived, StreamDataReceived, StreamReset
from aioquic.tls import Epoch

from aspen.identity import Identity
from aspen.limits import (
    NET_ACK_EVERY,
    NET_BARE_ACKS,
    NET_RECEIVE_WINDOW_BYTES,
    NET_STREAM_WINDOW_BYTES,
    NET_STREAMS,
    NET_UNAUTHENTICATED_BYTES,
)
from aspen.net.quic_internals import (
    QuicPipe,
    ReceiveWindow,
    ResetTokens,
    dialler_configuration,
    listener_configuration,
)

ADDRESS = ("127.0.0.1", 7300)


class Pair:
    """A dialler and a listener in memory."""

    def __init__(self, datagram_bytes=1200):
        self.identity = Identity.generate()
        self.now = 100.0
        self.tokens = ResetTokens(self.identity)
        self.dialler = QuicPipe(
            dialler_configuration("x/1", 5, datagram_bytes), reset_tokens=ResetTokens(Identity.generate())
        )
        self.listener = QuicPipe(
            listener_configuration(self.identity, ["x/1"], 5, datagram_bytes),
            reset_tokens=self.tokens,
            original_destination_connection_id=self.dialler.original_destination_connection_id,
        )
        self.dialler.connect(ADDRESS, self.now)

    def carry(self, side, other):
        datagrams = side.datagrams_to_send(self.now)
        for datagram, _ in datagrams:
            other.receive_datagram(datagram, ADDRESS, self.now)
        return len(datagrams)

    def settle(self):
        while self.carry(self.dialler, self.listener) + self.carry(self.listener, self.dialler):
            self.now += 0.0001

    def events(self, side):
        found = []
        while (event := side.next_event()) is not None:
            found.append(event)
        return found


@pytest.fixture
def pair():
    pair = Pair()
    pair.settle()
    return pair


@pytest.mark.parametrize(
    "name",
    [
        "_ack_delay",
        "_close_event",
        "_close_pending",
        "_handshake_done_pending",
        "_host_cids",
        "_local_max_data",
        "_local_max_stream_data_bidi_local",
        "_local_max_stream_data_bidi_remote",
        "_local_max_streams_bidi",
        "_loss",
        "_on_max_stream_data_delivery",
        "_peer_cid",
        "_ping_pending",
        "_probe_pending",
        "_replenish_connection_ids",
        "_retire_connection_ids",
        "_spaces",
        "_state",
        "_streams",
        "_write_stream_limits",
    ],
)
def test_the_attribute_exists(name):
    plain = QuicConnection(configuration=QuicConfiguration())
    assert hasattr(plain, name), f"aioquic's QuicConnection.{name} is gone: see quic_internals.py"


def test_the_verified_key_is_the_listeners(pair):
    assert pair.dialler.certified_key == pair.identity.endpoint_id
    completed = [e for e in pair.events(pair.dialler) if isinstance(e, HandshakeCompleted)]
    assert [e.alpn_protocol for e in completed] == ["x/1"]


def test_a_connection_has_started_once_a_valid_packet_came():
    pair = Pair()
    assert pair.listener.is_unstarted
    pair.listener.receive_datagram(b"\xc0" + bytes(1199), ADDRESS, pair.now)
    assert pair.listener.is_unstarted
    pair.carry(pair.dialler, pair.listener)
    assert not pair.listener.is_unstarted


def test_closing_shows_at_once_on_both_sides(pair):
    assert pair.dialler.closing is None
    pair.dialler.close(error_code=7, reason_phrase="enough")
    assert pair.dialler.closed_here
    pair.carry(pair.dialler, pair.listener)
    assert pair.listener.closing is not None
    assert (pair.listener.closing.error_code, pair.listener.closing.reason_phrase) == (7, "enough")
    assert not pair.listener.closed_here


def test_unacknowledged_bytes_are_those_the_peer_has_not_confirmed(pair):
    assert pair.dialler.unacknowledged_bytes(2) == 0
    pair.dialler.send_stream_data(2, bytes(5000))
    assert pair.dialler.unacknowledged_bytes(2) == 5000
    pair.now += 1
    pair.settle()
    pair.now += 1
    pair.settle()
    assert pair.dialler.unacknowledged_bytes(2) == 0


def test_who_only_receives_does_not_remember_its_acknowledgements_for_ever(pair):
    remembered = []
    for _ in range(20 * NET_BARE_ACKS):
        pair.now += 1  # so that each is acknowledged alone
        pair.dialler.send_stream_data(2, b"x")
        pair.settle()
        remembered.append(len(pair.listener._spaces[Epoch.ONE_RTT].sent_packets))
    assert NET_BARE_ACKS <= max(remembered) <= 2 * NET_BARE_ACKS
    assert remembered.count(max(remembered)) > 1  # it comes to that again and again


def test_the_receive_window_slides_and_does_not_grow():
    window = ReceiveWindow(1000)
    for _ in range(40):
        used = window.value
        window.value *= 2  # what aioquic does each time half is used
        assert window.value <= used  # nothing was handled: no more may come
        window.handled(1000)
        window.value *= 2
        assert window.value == used + 1000


def test_aioquic_announces_the_window_as_set(pair):
    assert pair.dialler._remote_max_data == NET_UNAUTHENTICATED_BYTES
    pair.listener.trust()
    pair.settle()
    assert pair.dialler._remote_max_data == NET_RECEIVE_WINDOW_BYTES


def test_a_peer_that_is_not_handled_is_stopped_by_the_window(pair):
    pair.dialler.send_stream_data(2, bytes(2 * NET_UNAUTHENTICATED_BYTES))
    for _ in range(2000):
        pair.now += 0.01
        pair.settle()
    got = sum(len(e.data) for e in pair.events(pair.listener) if isinstance(e, StreamDataReceived))
    assert got == NET_UNAUTHENTICATED_BYTES
    pair.listener.handled(got)
    pair.listener.trust()
    for _ in range(2000):
        pair.now += 0.01
        pair.settle()
    got += sum(len(e.data) for e in pair.events(pair.listener) if isinstance(e, StreamDataReceived))
    assert got == 2 * NET_UNAUTHENTICATED_BYTES


def test_a_bidirectional_stream_is_stopped_by_its_own_window_until_it_is_read(pair):
    pair.listener.trust()
    pair.dialler.send_stream_data(0, bytes(3 * NET_STREAM_WINDOW_BYTES))
    got = 0
    for read in (0, 1, NET_STREAM_WINDOW_BYTES, 2 * NET_STREAM_WINDOW_BYTES):
        # A window moves in quarters, so that not each byte read costs a frame.
        assert pair.listener.stream_read(0, read) == (read > 1)
        for _ in range(3000):
            pair.now += 0.01
            if not pair.carry(pair.dialler, pair.listener) + pair.carry(pair.listener, pair.dialler):
                break
        data = [e.data for e in pair.events(pair.listener) if isinstance(e, StreamDataReceived)]
        pair.listener.handled(sum(map(len, data)))
        got += sum(map(len, data))
        assert got == NET_STREAM_WINDOW_BYTES + (read if read > 1 else 0)


def test_the_listener_takes_few_streams_and_the_dialler_none(pair):
    assert pair.dialler._remote_max_streams_bidi == 1 + 2 * NET_STREAMS
    assert pair.listener._remote_max_streams_bidi == 0


def test_a_stream_is_finished_when_both_ends_are_and_makes_room_for_another(pair):
    for stream_id in range(0, 4 * 20 * NET_STREAMS, 4):
        pair.dialler.send_stream_data(stream_id, b"x", end_stream=True)
        pair.settle()
        assert not pair.dialler.is_stream_finished(stream_id)
        pair.listener.stop_receiving(stream_id)  # it has ended: nothing to stop
        pair.listener.send_stream_data(stream_id, b"y", end_stream=True)
        pair.now += 1
        pair.settle()
        pair.now += 1
        pair.settle()
        assert pair.dialler.is_stream_finished(stream_id)
        assert pair.listener.is_stream_finished(stream_id)
    assert all(len(side._streams) <= 1 for side in (pair.dialler, pair.listener))


def test_a_stream_cut_on_both_ways_is_not_quiet_until_the_peer_knows(pair):
    pair.dialler.send_stream_data(4, bytes(5000))
    pair.now += 1
    pair.settle()
    assert pair.listener.received_end(4) == 5000
    pair.now += 1
    pair.settle()
    for cut in (
        lambda: pair.dialler.reset_stream(4, 1),
        lambda: pair.dialler.stop_receiving(4),
    ):
        assert pair.dialler.is_quiet(pair.now)
        cut()
        assert not pair.dialler.is_quiet(pair.now)
        pair.now += 1
        pair.settle()
        pair.now += 1
        pair.settle()
    kinds = {type(e) for e in pair.events(pair.listener)}
    assert {StreamReset, StopSendingReceived} <= kinds


def test_acknowledgements_wait_for_company(pair):
    pair.listener.trust()
    for number in range(NET_ACK_EVERY):
        pair.dialler.send_stream_data(2, b"x")
        pair.now += 0.0001
        assert pair.carry(pair.dialler, pair.listener) == 1
        pair.listener.pace_acknowledgements(pair.now)
        space = pair.listener._spaces[Epoch.ONE_RTT]
        assert (space.ack_at == pair.now) == (number == NET_ACK_EVERY - 1)
    assert pair.carry(pair.listener, pair.dialler) == 1
    assert pair.dialler.unacknowledged_bytes(2) == 0


def test_the_dialler_learns_a_reset_token_that_the_listener_can_compute_again(pair):
    token = ResetTokens(pair.identity).token(pair.listener.host_cid)
    assert pair.dialler.peer_reset_token == token
    issued = pair.dialler._peer_cid_available
    assert issued
    assert all(each.stateless_reset_token == pair.tokens.token(each.cid) for each in issued)
    assert ResetTokens(Identity.generate()).token(pair.listener.host_cid) != token


def test_an_open_connection_is_quiet_until_it_has_something_to_send(pair):
    pair.listener.trust()
    assert not pair.listener.is_quiet(pair.now)  # the wider window is to be announced
    for _ in range(3):
        pair.now += 1
        pair.settle()
    assert pair.dialler.is_quiet(pair.now)
    assert pair.dialler.datagrams_to_send(pair.now) == []
    pair.dialler.send_stream_data(2, b"x")
    assert not pair.dialler.is_quiet(pair.now)
    pair.carry(pair.dialler, pair.listener)
    assert pair.dialler.is_quiet(pair.now)
    assert pair.listener.is_quiet(pair.now)  # the acknowledgement may wait
    pair.now += 1
    assert not pair.listener.is_quiet(pair.now)
