"""Every bound in Aspen: sizes in bytes, times in milliseconds, counts bare.

A limit lives here even if one module alone uses it, so that an operator can read in one
sitting how large anything may grow. Relations between limits are asserted at the bottom.
"""

from __future__ import annotations

from typing import Final

# --- DNS (RFC 1035 §2.3.4, RFC 6891, RFC 7766) -------------------------------------------------
DNS_NAME_BYTES: Final = 255
DNS_LABEL_BYTES: Final = 63
DNS_STRING_BYTES: Final = 255
DNS_UDP_PLAIN_BYTES: Final = 512  # without EDNS
DNS_UDP_EDNS_BYTES: Final = 1232  # what we advertise and never exceed (DNS flag day 2020)
DNS_TCP_MESSAGE_BYTES: Final = 65_535
DNS_QUERY_BYTES: Final = 4_096  # a longer datagram is not a query
DNS_TCP_CONNECTIONS: Final = 1_024
DNS_TCP_CONNECTIONS_PER_CLIENT: Final = 64
DNS_TCP_IDLE_MS: Final = 10_000
DNS_TCP_READ_MS: Final = 5_000  # from a message's first byte to its last
DNS_TCP_WRITE_MS: Final = 5_000  # a client that takes no answers for so long is cut off
DNS_TCP_WRITE_BYTES: Final = 262_144  # of answers waiting for one client; then no more are made
DNS_TCP_PIPELINE: Final = 128  # queries of one connection answered before others have their turn
DNS_CACHEABLE_S: Final = 604_800  # of a DoH answer in HTTP caches, whatever its records' TTL
DNS_PADDING_BLOCK_BYTES: Final = 468  # encrypted answers are a multiple of it (RFC 8467 §4.1)
DNS_CACHE_ENTRIES: Final = 32_768  # ready replies a UDP worker keeps
DNS_CACHE_REPLY_BYTES: Final = 512  # a longer reply isn't kept ready
DNS_CACHE_LIFE_MS: Final = 5_000  # a ready reply is given for so long at most, though its data is as it was
DNS_TICK_MS: Final = 1_000  # between two looks of a UDP worker at its clock
DNS_CHANGES: Final = 4_096  # changed packets that workers are told one by one; beyond, all is new
DNS_PLANS: Final = 1_024  # query shapes a UDP worker keeps worked out
DNS_COOKIE_LIFE_S: Final = 3_600  # a server cookie is good for so long (RFC 9018 §4.3)
DNS_COOKIE_FUTURE_S: Final = 300  # … or if another member's clock is ahead by no more
DNS_COOKIE_RENEW_S: Final = 1_800  # an older one is answered with a fresh one
DNS_COOKIE_SECRET_MS: Final = 86_400_000  # the cluster's secret rolls (RFC 7873 §7.1: within 26 hours)
DNS_COOKIE_CHECK_MS: Final = 1_000  # between two looks at whether it is due
DNS_RRL_BUCKETS: Final = 16_384  # of limited clients and kinds of answers, for each worker
DNS_RRL_PREFIXES: Final = 4_096  # networks watched at one time, for each worker
DNS_RRL_WINDOW_S: Final = 1  # a client may save up the answers of so long
DNS_WORKERS: Final = 64
DNS_WORKER_RESTART_MIN_MS: Final = 100  # before a crashed worker is started again; doubles
DNS_WORKER_RESTART_MAX_MS: Final = 5_000
DNS_WORKER_SILENT_MS: Final = 10_000  # a worker without a sign of life for so long is stuck
DNS_WORKER_RESTART_SHOWN_MS: Final = 300_000  # a restart counts against the node's health for so long
DNS_WORKER_STOP_MS: Final = 2_000  # then a worker is killed
DNS_UDP_BUFFER_BYTES: Final = 4 * 1_048_576  # asked of the kernel for each UDP socket
DNS_UDP_BATCH: Final = 64  # datagrams answered in the node process before others have their turn
DNS_FORWARDED: Final = 1_024  # datagrams that workers passed on, being answered
DNS_FORWARDED_PER_S: Final = 5_000  # of them in the long run
DNS_FORWARD_BYTES: Final = 8_192  # of one, its client's address included
DNS_FORWARD_BUFFER_BYTES: Final = 1_048_576  # of a worker's queue to the node process
DNS_TRANSFERS: Final = 16  # zones going out at one time
DNS_TRANSFER_WAIT_MS: Final = 5_000  # for one of them to end; then SERVFAIL, and the secondary tries again
DNS_TRANSFER_MS: Final = 300_000  # for one: it keeps a moment of the store alive
DNS_TRANSFER_MESSAGE_BYTES: Final = 16_384  # aimed at; a compression pointer reaches no further
DNS_TCP_DEFERRED: Final = 16  # transfers, updates, … of one connection at one time
DNS_UPDATES_REMEMBERED: Final = 4_096  # so that a retransmission isn't carried out again
DNS_UPDATES_UNSIGNED_MS: Final = 15_000  # of one known by its sender and id alone
DNS_UPDATES_REMEMBERED_MS: Final = 600_000  # twice the fudge: as long as a signature may be believed
TSIG_KEY_NAME_CHARS: Final = 253
TSIG_SECRET_MIN_BYTES: Final = 16
TSIG_SECRET_BYTES: Final = 512
NOTIFY_DELAY_MS: Final = 200  # changes within it are told of together
NOTIFY_IN_FLIGHT: Final = 64  # waiting for an answer
NOTIFY_RETRY_MIN_MS: Final = 1_000  # before a NOTIFY is sent again; doubles (RFC 1996 §3.6)
NOTIFY_RETRY_MAX_MS: Final = 60_000
NOTIFY_TRIES: Final = 8
TSIG_FUDGE_S: Final = 300  # RFC 8945 §10
DNS_BIND_MS: Final = 500  # for the sockets of an earlier run to go away
DNS_STALENESS_POLL_MS: Final = 500  # between two looks whether this node is in touch with its cluster
DNS_MAX_STALE_MS: Final = 60_000  # out of touch for longer, answers say so
DNS_MEMBERS_TTL_S: Final = 30  # of what a node tells of its cluster's nodes; as iroh's own records
DNS_FAILURE_LOG_MS: Final = 60_000  # a failure to read the replica is logged once in this time
DNS_CNAME_CHAIN: Final = 8
DNS_NAME_POINTERS: Final = 127  # compression pointers followed in one name
DNS_ORIGIN_BYTES: Final = 101  # of an origin's wire name: leaves room for a key and labels below it
DNS_READY_BYTES: Final = 65_535  # of a packet's ready-made answers

# --- pkarr (https://pkarr.org, BEP 44) ---------------------------------------------------------
PKARR_PACKET_BYTES: Final = 1_000  # the DNS message inside
PKARR_PAYLOAD_BYTES: Final = 64 + 8 + PKARR_PACKET_BYTES  # signature, timestamp, message
PKARR_FUTURE_MS: Final = 300_000  # a timestamp further ahead is refused
PKARR_RETENTION_MS: Final = 7 * 86_400_000  # a packet lives so long after it was last seen
PKARR_RENEW_PART: Final = 10  # republished identically within a tenth of its life: no log entry
PKARR_EXPIRE_BATCH: Final = 256  # packets removed by one log entry
PKARR_EXPIRE_MIN_MS: Final = 100  # between two looks at what has expired
PKARR_EXPIRE_MAX_MS: Final = 60_000
PKARR_EVENTS: Final = 100_000  # log entries that watchers can go back, of those that changed packets
PKARR_REASON_BYTES: Final = 1_024  # why a key is on a list
PKARR_WATCHES_PER_CLIENT: Final = 32  # streams of one address, open at one time
PKARR_WATCH_BATCH: Final = 1_000  # rows of events looked at before others have their turn
RATE_LIMIT_PEERS: Final = 65_536  # buckets kept, of those not full
PKARR_CACHE_MIN_MS: Final = 300_000  # of a GET's Cache-Control, whatever its records' TTL
PKARR_CACHE_MAX_MS: Final = 86_400_000
PKARR_RELAY_MS: Final = 10_000  # for a relay of others to answer
DNS_ASK_MS: Final = 3_000  # for a DNS server of others to answer
DNS_ASK_TRIES: Final = 2
PKARR_RESOLVE_MS: Final = 12_000  # for all sources of a resolution together
PKARR_REPUBLISH_MS: Final = 600_000  # between two publications of a node's own packet
PKARR_PUBLISH_RETRY_MS: Final = 1_000  # before a failed one is tried again; doubles
PKARR_RESIGN_MS: Final = 86_400_000  # a packet is signed anew after that, changed or not

# --- the BitTorrent DHT (BEP 5, BEP 44) --------------------------------------------------------
DHT_CLOSEST: Final = 8  # nodes that keep an item; Kademlia's k
DHT_ASKED_AT_ONCE: Final = 8  # by one lookup
DHT_QUERY_MS: Final = 1_000  # for a node to answer
DHT_LOOKUP_MS: Final = 8_000  # then a lookup ends with what it has
DHT_SETTLE_MS: Final = 500  # … or so long after the first packet was found, for a more recent one
DHT_LOOKUP_QUERIES: Final = 96  # of one lookup
DHT_LOOKUP_CANDIDATES: Final = 256  # nodes remembered by one lookup
DHT_CONTACTS_PER_ANSWER: Final = 16  # taken from one answer
DHT_LOOKUPS: Final = 64  # under way at one time; more are refused
DHT_NODES: Final = 512  # that answered, remembered as beginnings of further lookups
DHT_BOOTSTRAP_MS: Final = 600_000  # the bootstrap nodes' names are looked up again after that
DHT_DATAGRAM_BYTES: Final = 4_096
DHT_CACHE_ENTRIES: Final = 4_096  # packets found, and keys not found
DHT_CACHE_MIN_MS: Final = 30_000  # a packet found is served so long, whatever its records' TTL
DHT_CACHE_MAX_MS: Final = 3_600_000
DHT_NEGATIVE_MS: Final = 30_000  # before a key that nobody had is looked for again
DHT_UNREACHABLE_MS: Final = 2_000  # before anything is looked for again when nobody answered at all
DHT_PUBLISH_WAITING: Final = 8_192  # packets that wait for their publication
DHT_PUBLISH_AT_ONCE: Final = 4
DHT_PUBLISH_PER_S: Final = 10
DHT_REPUBLISH_MS: Final = 3_600_000  # nodes forget an item after two hours (BEP 44)
DHT_REPUBLISH_TURN_MS: Final = 1_000  # between two looks of the leader at what is to be republished
DNS_ELSEWHERE_MS: Final = 2_500  # a query under an unknown key waits so long for the DHT

# --- key-value store ---------------------------------------------------------------------------
DNS_KV_TTL_S: Final = 5  # of keys shown in DNS
DNS_KV_TEXT_BYTES: Final = 4_096  # a longer value isn't shown there
KV_KEY_BYTES: Final = 500
KV_VALUE_BYTES: Final = 1_048_576
KV_BATCH_KEYS: Final = 100
KV_SCAN_DEFAULT: Final = 1_000
KV_SCAN_MAX: Final = 10_000
KV_COUNT_MAX: Final = 100_000  # keys counted by one request
KV_SCAN_BYTES: Final = 8 * 1_048_576  # of keys and values in one page of a scan
KV_SLICE_KEYS: Final = 200  # looked at before others have their turn
KV_SLICE_BYTES: Final = 262_144  # … or of keys and values (one larger value goes alone)
KV_RESERVED_PREFIX: Final = b"_system:"
KV_COMMAND_BYTES: Final = 2 * 1_048_576  # of all keys and values in one command
KV_DELETE_RANGE_KEYS: Final = 1_000  # deleted by one command; the rest by the next
KV_DELETE_RANGE_BYTES: Final = 8 * 1_048_576  # of values deleted by one command (one key always goes)
KV_HISTORY_EVENTS: Final = 200_000  # changes kept, for watches and for reads of earlier revisions
KV_HISTORY_BYTES: Final = 128 * 1_048_576  # … unless their keys and the values they replaced take more
KV_HISTORY_COLLECT: Final = 64  # dropped by one command beyond twice as many as it adds
KV_IMPORT_BYTES: Final = 1_048_576  # of keys and values that `aspen kv import` sets by one command
KV_WATCHES: Final = 4_096  # on one node
KV_WATCH_EVENTS: Final = 1_000  # changes looked at before others have their turn
KV_WATCH_BYTES: Final = 262_144  # … or told (those of one revision are never parted)
KV_WATCH_RECENT: Final = 1_024  # newest revisions kept ready for those who watch
KV_WATCH_RECENT_BYTES: Final = 8 * 1_048_576
KV_WATCH_PROGRESS_MS: Final = 5_000  # between two signs of life, if nothing changes
KV_MIN_REVISION_MS: Final = 4_000  # a read waits so long for the revision that it must not fall behind
KV_REQUEST_ID_BYTES: Final = 128  # of an idempotency key
KV_REQUEST_MS: Final = 600_000  # for which its answer is remembered
KV_REQUESTS: Final = 100_000  # remembered at one time
KV_REQUEST_RESULT_BYTES: Final = 4_096  # of an answer; of a longer one only that there was one
KV_REQUESTS_COLLECT: Final = 16  # forgotten by one command at most
LEASE_TTL_MIN_MS: Final = 1_000
LEASE_TTL_MAX_MS: Final = 365 * 86_400_000
LEASES: Final = 100_000
LEASE_BATCH: Final = 100  # renewed or ended by one command
LEASE_CHECK_MS: Final = 200  # between two looks at what has expired
LEASE_RETRY_MS: Final = 1_000  # before an expiry that did not come about is proposed again
LEASE_READ: Final = 1_000  # renewals taken in before others have their turn

# --- settings of the whole cluster -------------------------------------------------------------
SETTING_NAME_BYTES: Final = 500
SETTING_VALUE_BYTES: Final = 262_144

# --- authored zones ----------------------------------------------------------------------------
ZONES: Final = 10_000
ZONE_NAME_BYTES: Final = DNS_NAME_BYTES - 2  # of a name as text, its final dot left off
TTL_MAX_S: Final = 2**31 - 1  # RFC 2181 §8
ZONE_TTL_MIN_S: Final = 60  # of records authored one by one; imports, transfers and updates take any
ZONE_TTL_MAX_S: Final = 604_800
ZONE_TTL_DEFAULT_S: Final = 3_600
ZONE_RECORDS: Final = 5_000_000
ZONE_BATCH_RECORDS: Final = 100  # changes in one HTTP request
ZONE_UPDATE_CHANGES: Final = 10_000  # in one command; a DNS update message holds a few thousand
ZONE_UPDATE_BYTES: Final = 1_048_576
ZONE_RRSET_BYTES: Final = 64_000  # of one RRset in an answer: it must fit into one message
ZONE_NODE_BYTES: Final = 1_048_576  # of all RRsets of one name
ZONE_SETTING_ENTRIES: Final = 64  # of each list in a zone's settings
ZONE_SETTING_CHARS: Final = 255  # of each of their entries
ZONE_STAGES: Final = 16  # imports under way at one time
ZONE_STAGE_RECORDS: Final = 1_000  # in one chunk
ZONE_STAGE_BYTES: Final = 262_144  # of a chunk's records
ZONE_STAGE_MS: Final = 300_000  # an import without a chunk for so long was abandoned
ZONE_STAGE_RETRIES: Final = 20  # of a chunk whose outcome is not known, or that no leader takes
ZONE_STAGE_RETRY_MS: Final = 250
ZONE_IMPORT_BYTES: Final = 512 * 1_048_576  # of a master file over HTTP
ZONE_IMPORT_PIECE_MS: Final = 60_000  # for a client to send the next piece of it
ZONE_PAGE: Final = 1_000  # zones, or names of one, in one answer
ZONE_EXPORT_MS: Final = 120_000  # to take an export; it is read at one moment of the store
ZONE_EXPORT_NAMES: Final = 200  # written before others have their turn
ZONE_CHANGES: Final = 1_000  # differences kept of one zone, for IXFR
ZONE_CHANGES_BYTES: Final = 4 * 1_048_576  # … unless they take more
ZONE_DIFFERENCE_RECORDS: Final = 5_000  # an import of more has no difference worked out
MASTER_ENTRY_BYTES: Final = 262_144  # of one entry of a master file, parentheses and comments included
ZONE_COLLECT_NAMES: Final = 2_000  # of contents out of use, removed in one command
ZONE_COLLECT_MS: Final = 1_000  # between two looks for them
# --- DNS over QUIC (RFC 9250) --------------------------------------------------------------------
DOQ_CONNECTIONS: Final = 256
DOQ_CONNECTIONS_PER_CLIENT: Final = 32
DOQ_HANDSHAKES: Final = 64  # connections inside the handshake at one time
DOQ_RETRY_ABOVE: Final = 16  # with more of them, a new one must first prove its address
DOQ_STREAMS: Final = 64  # queries of one connection under way
DOQ_STREAM_BYTES: Final = 2 + 65_535  # a length and a message
DOQ_WINDOW_BYTES: Final = 262_144  # sent by a client and not yet taken, on one connection
DOQ_SEND_BYTES: Final = 1_048_576  # of answers not acknowledged, on one connection; then it ends
DOQ_IDLE_MS: Final = 10_000  # without a datagram
DOQ_QUIET_MS: Final = 30_000  # without a query, whatever else comes
DOQ_DATAGRAMS_PER_TURN: Final = 64  # read before anything else gets its turn

# --- TLS (RFC 8446): HTTPS, DNS over TLS, DNS over QUIC --------------------------------------------
TLS_HANDSHAKE_MS: Final = 5_000
TLS_HANDSHAKES: Final = 256  # going on at one time, on one listener
TLS_HANDSHAKES_PER_CLIENT: Final = 32
TLS_BACKLOG: Final = 512  # connections the kernel holds before they are accepted
TLS_CLOSE_MS: Final = 2_000  # for a client to take the last octets and say goodbye
TLS_REFRESH_MS: Final = 2_000  # between two looks for a new certificate
TLS_FILE_BYTES: Final = 262_144  # of a certificate or key file
TLS_CHAIN_CERTIFICATES: Final = 16
TLS_SELF_SIGNED_DAYS: Final = 397
TLS_SELF_SIGNED_RENEW_DAYS: Final = 30  # before it expires

# --- gossip (HyParView and Plumtree; rates as the discovery design gives them) -----------------
HOST_CHARS: Final = 255
RELAY_URL_CHARS: Final = 512
GOSSIP_ANNOUNCE_MS: Final = 10_000
GOSSIP_ANNOUNCE_MAX_MS: Final = 60_000  # of a node that reaches nobody
GOSSIP_FAILURES: Final = 3  # announcements to nobody, before the interval doubles
GOSSIP_TICK_MS: Final = 250
GOSSIP_PEER_A_MINUTE: Final = 12
GOSSIP_ALL_A_MINUTE: Final = 300  # or that of each peer times the peers known, if that is more
GOSSIP_INVALID_A_MINUTE: Final = 12  # of one neighbour; then it is none
GOSSIP_PAST_MS: Final = 120_000  # an older announcement is none
GOSSIP_FUTURE_MS: Final = 60_000  # clocks may differ by so much
GOSSIP_KNOWN_MS: Final = 45_000  # a node not heard for so long isn't there
GOSSIP_KNOWN_PEERS: Final = 4_096
GOSSIP_ACTIVE_PEERS: Final = 6
GOSSIP_PASSIVE_PEERS: Final = 30
GOSSIP_JOIN_HOPS: Final = 6
GOSSIP_PASSIVE_HOPS: Final = 3
GOSSIP_SHUFFLE_HOPS: Final = 4
GOSSIP_SHUFFLE_PEERS: Final = 8
GOSSIP_SHUFFLE_MS: Final = 10_000
GOSSIP_ASK_MS: Final = 1_000  # between two passive nodes asked to be neighbours
GOSSIP_SEEK_MS: Final = 15_000  # between two knocks at members that are not heard
GOSSIP_KEEPALIVE_MS: Final = 4_000  # a neighbour is told something at least so often
GOSSIP_SILENT_MS: Final = 15_000  # a neighbour that says nothing for so long is none
GOSSIP_GRAFT_MS: Final = 1_000  # a message heard of may come by itself for so long
GOSSIP_GRAFT_AGAIN_MS: Final = 500
GOSSIP_MISSING: Final = 4_096
GOSSIP_SEEN_MESSAGES: Final = 32_768
GOSSIP_CACHED_MESSAGES: Final = 4_096
GOSSIP_IDS: Final = 256  # message ids in one message
GOSSIP_OUTBOX: Final = 65_536
GOSSIP_ANNOUNCEMENT_BYTES: Final = 4_096
GOSSIP_MESSAGE_BYTES: Final = 16_384

# --- multicast DNS -----------------------------------------------------------------------------
MDNS_LOOKUPS: Final = 64  # services being looked up at a time
MDNS_LOOKUP_MS: Final = 3_000
MDNS_REFRESH_MS: Final = 5_000  # between two looks at this node's own addresses
MDNS_RETRY_MS: Final = 30_000

# --- where others are, asked of DNS, pkarr and bootstrap nodes ---------------------------------

LOOKUP_MS: Final = 30_000  # for one source to be asked everything
LOOKUP_MIN_MS: Final = 1_000  # before a source is asked again while nodes are missing; doubles
LOOKUP_MAX_MS: Final = 15_000
LOOKUP_REFRESH_MS: Final = 120_000  # between two looks while nobody is missing
LOOKUP_MISSING: Final = 16  # nodes looked up by key at a time
LOOKUP_NODES: Final = 64  # taken from one answer
LOOKUP_KNOCKS: Final = 16  # addresses asked at a time whose key they are
BOOTSTRAP_NODES: Final = 64
DNS_DISCOVERY_ORIGINS: Final = 8
REMEMBERED_BYTES: Final = 1_048_576  # of the file of addresses
REMEMBERED_ADDRESSES: Final = 4  # of one node, the newest
REMEMBER_MS: Final = 15_000  # between two looks whether there is something new for it
BEHIND_MS: Final = 2_000  # between two attempts to catch up with a newer membership

# --- tickets -----------------------------------------------------------------------------------
TICKET_NODES: Final = 16
TICKET_LIFE_S: Final = 86_400  # unless its issuer says otherwise
TICKET_LIFE_MIN_S: Final = 1
TICKET_LIFE_MAX_S: Final = 7 * 86_400
TICKET_SKEW_S: Final = 300  # machines' clocks may differ by so much
TICKET_CHARS: Final = 8_192

# --- relays ------------------------------------------------------------------------------------
RELAY_DATAGRAM_BYTES: Final = 1_452  # a QUIC datagram that fits Ethernet; Aspen's own have 1,200
RELAY_FRAME_BYTES: Final = 2_048
RELAY_NAME_BYTES: Final = 261  # host and port
RELAY_CLIENTS: Final = 1_024
RELAY_UNPROVEN: Final = 64  # connections whose client has not said yet who it is
RELAY_UNPROVEN_PER_ADDRESS: Final = 8
RELAY_HANDSHAKE_MS: Final = 5_000
RELAY_QUEUE_BYTES: Final = 1_048_576  # for a client that has not taken them yet; then the oldest are dropped
RELAY_DATAGRAMS_PER_S: Final = 4_000  # of one client
RELAY_DATAGRAMS_BURST: Final = 4_000
RELAY_BYTES_PER_S: Final = 4 * 1_048_576  # of one client
RELAY_BYTES_BURST: Final = 2 * 1_048_576
RELAY_HEARTBEAT_MS: Final = 4_000  # of silence before a ping; half of it later, without a pong, it is over
RELAY_RECONNECT_MIN_MS: Final = 100
RELAY_RECONNECT_MAX_MS: Final = 3_000  # sooner than connections over it are given up
RELAY_GONE_MS: Final = 10_000  # a relay that didn't know a peer is tried after others for so long
RELAY_GONE_PEERS: Final = 1_024
RELAY_LOOK_MS: Final = 2_000  # between two looks at which relays others announce
RELAY_PROBE_MS: Final = 20_000  # between two questions where a relay sees this node; keeps a NAT's mapping
RELAY_URLS: Final = 4  # relays that a node is connected to at one time

# --- joining a cluster -------------------------------------------------------------------------
JOIN_FRAME_BYTES: Final = 65_536  # of a question or an answer
JOIN_STRANGERS: Final = 16  # connected by a ticket, or a try at one, at one time
JOIN_ASK_MS: Final = 5_000  # from a stranger's connection to its question
JOIN_REFUSED_A_MINUTE: Final = 60  # strangers with a ticket that doesn't hold; then none is heard for a while
JOIN_LOGGED_A_MINUTE: Final = 12  # refusals; all are counted
JOIN_SERVE_MS: Final = 20_000  # for a member to let one in
JOIN_TRY_MS: Final = 30_000  # for a newcomer to find a member that does
JOIN_PAUSE_MS: Final = 500  # before a newcomer asks them all again
JOIN_REPORT_MS: Final = 1_000  # between two lines of progress

# --- nodes that found a cluster by themselves --------------------------------------------------
FOUNDING_TICK_MS: Final = 500
FOUNDING_ALIVE_MS: Final = 4_000  # a node not heard for so long isn't there
FOUNDING_SETTLE_MS: Final = 1_500  # after a newcomer was heard, for others to be heard too
FOUNDING_PATIENCE_MS: Final = 10_000  # for all to promise; then another proposal
FOUNDING_BALLOT: Final = 2**63 - 1  # the highest
FOUNDING_SEEN: Final = 64  # nodes told of in one message, and remembered
FOUNDING_FRAME_BYTES: Final = 65_536

# --- ACME (RFC 8555) ---------------------------------------------------------------------------
ACME_CHECK_MS: Final = 5_000  # between two looks whether a certificate is due
ACME_RENEW_PART: Final = 1 / 3  # of its life left
ACME_ORDER_MS: Final = 120_000  # from asking for a certificate to having it
ACME_REQUEST_MS: Final = 10_000  # for one request to the authority
ACME_POLL_MS: Final = 1_000
ACME_RETRY_MIN_MS: Final = 300_000  # after a failure; doubles. Authorities allow few failures an hour
ACME_RETRY_MAX_MS: Final = 21_600_000

# --- HTTP --------------------------------------------------------------------------------------
HTTP_BODY_BYTES: Final = 2 * 1_048_576
HTTP_HEADER_BYTES: Final = 8_190
HTTP_CONNECTIONS: Final = 4_096
HTTP_CONNECTIONS_PER_CLIENT: Final = 512  # of one address, a /64 of IPv6; loopback and proxies exempt
HTTP_HEAD_MS: Final = 10_000  # to send the request line and headers
HTTP_BODY_MS: Final = 10_000  # to send the whole body
HTTP_SEND_MS: Final = 60_000  # a client that doesn't take its answer for so long is cut off
HTTP_KEEPALIVE_MS: Final = 60_000
HTTP_IN_FLIGHT: Final = 2_048  # requests being answered, those still sending their body not counted
HTTP_HEAD_BYTES: Final = 65_536  # request line and headers together
HTTP_HEADERS: Final = 100
HTTP_READ_BUFFER_BYTES: Final = 65_536  # of a body, taken in ahead of its reader, on one connection
HTTP_DISCARD_BYTES: Final = 262_144  # of a refused body, read so that its sender hears why
HTTP_DISCARD_MS: Final = 1_000
HTTP_BACKLOG: Final = 1_024  # connections the kernel holds before they are accepted
HTTP2_STREAMS: Final = 100  # requests of one HTTP/2 connection at one time (RFC 9113 §6.5.2)
HTTP2_RESETS: Final = 200  # requests that one HTTP/2 connection may take back
HTTP2_IDLE_FRAMES: Final = 1_000  # between two requests: pings, settings, windows, empty data
HTTP_QUERY_PARAMETERS: Final = 16
HTTP_STREAMS: Final = 1_024  # of server-sent events, open at one time
HTTP_HEARTBEAT_MS: Final = 15_000  # of silence on a stream of events
HTTP_PROBE_MS: Final = 250  # the same for a client that has closed its side
HTTP_STREAM_RETRY_MS: Final = 1_000  # after which a client is asked to reconnect
HTTP_CONTROL_BYTES: Final = 65_536  # of a request that changes the cluster

# --- Raft --------------------------------------------------------------------------------------
LMDB_KEY_BYTES: Final = 511
RAFT_ENTRY_BYTES: Final = 4 * 1_048_576
RAFT_MESSAGE_BYTES: Final = 1_048_576  # entries aimed at in one MsgApp (one larger entry goes alone)
RAFT_FRAME_BYTES: Final = 8 * 1_048_576
RAFT_INFLIGHT_MESSAGES: Final = 256
RAFT_INFLIGHT_BYTES: Final = 16 * 1_048_576
RAFT_UNCOMMITTED_BYTES: Final = 64 * 1_048_576
RAFT_COMMITTED_BYTES_PER_READY: Final = 4 * 1_048_576
RAFT_PENDING_PROPOSALS: Final = 8_192  # awaiting their outcome on one node
RAFT_PENDING_READS: Final = 8_192
RAFT_BATCHES_IN_FLIGHT: Final = 64  # handed to the writer thread, not yet durable
RAFT_PROPOSE_MS: Final = 4_000  # after this, the outcome is unknown
PROPOSAL_REASON_CHARS: Final = 200  # why a leader refused a command
RAFT_READ_MS: Final = 4_000
RAFT_READ_RETRY_MS: Final = 500  # a ReadIndex round unanswered so long is asked again
RAFT_ROOM_RETRY_MS: Final = 500  # between tries to commit while the disk is full
RAFT_MAX_PROPOSALS_PER_TURN: Final = 512
RAFT_MEMBERS: Final = 16
RAFT_NODE_ID: Final = 2**53 - 1  # the highest: readers of JSON take no larger number exactly (RFC 8259 §6)
RAFT_REMOVED_MEMBERS: Final = 64  # keys of former members remembered, so that they can be told
RAFT_REMOVED_GRACE_MS: Final = 1_000  # a removed member may stay connected, to hear of it by the log
RAFT_REMOVED_VOTES_MS: Final = 10_000  # a removed member still votes so long: others may not know yet
RAFT_READY_LAG_ENTRIES: Final = 1_000  # a node further behind is not ready for traffic
CONTROL_MS: Final = 30_000  # for a change of the membership, a learner's catching up included
CONTROL_MAX_MS: Final = 3_600_000
CONTROL_PAUSE_MIN_MS: Final = 20  # before a change that was refused is tried again; doubles
CONTROL_PAUSE_MAX_MS: Final = 500
CONTROL_POLL_MS: Final = 5  # between two looks at what is waited for
RAFT_CATCH_UP_ENTRIES: Final = 1_000  # a learner further behind can't become a voter yet
RAFT_LOG_KEEP_ENTRIES: Final = 20_000  # applied entries kept for members that lag
RAFT_LOG_KEEP_BYTES: Final = 256 * 1_048_576  # … unless the log takes more on disk
RAFT_COMPACT_ENTRIES: Final = 512  # cut off at a time
RAFT_LOG_CACHE_ENTRIES: Final = 4_096  # newest entries kept in memory beside LMDB
RAFT_LOG_CACHE_BYTES: Final = 32 * 1_048_576

# --- snapshots ---------------------------------------------------------------------------------
SNAPSHOT_CHUNK_BYTES: Final = 262_144  # of pairs in one chunk; a larger pair goes alone
SNAPSHOT_FRAME_BYTES: Final = 2 * 1_048_576
SNAPSHOT_OFFERS: Final = 2  # moments held open for peers to fetch, at one time
SNAPSHOT_OFFER_MS: Final = 20_000  # … after the last chunk was asked for
SNAPSHOT_RETRY_MS: Final = 1_000  # before a cut transfer is taken up again
SNAPSHOT_TRIES: Final = 10  # without a chunk between them; then the transfer is given up
SNAPSHOT_PROGRESS_MS: Final = 2_000  # between two lines of progress

# --- logs, traces, slow operations, profiles ---------------------------------------------------
LOG_SECRET_CHARS: Final = 8  # a shorter secret may be a word, and is not searched for in what is logged
REQUEST_ID_CHARS: Final = 64  # of a request id that a client gives; a longer one is not taken
TRACES_PER_S: Final = 20  # requests whose ids go through the log, for each node
TRACES: Final = 100  # … at once, after a quiet while
TRACES_WAITING: Final = 1_024  # ids that came ahead of what they are of
SLOW_OPERATION_MS: Final = 1_000  # what takes longer is logged
SLOW_LINES_PER_S: Final = 5
SLOW_LINES: Final = 50  # … at once, after a quiet while
PROFILE_MS: Final = 60_000  # a profile lasts no longer
PROFILE_DEFAULT_MS: Final = 5_000
PROFILE_INTERVAL_MS: Final = 5  # between two looks
PROFILE_FRAMES: Final = 64  # of a stack, the innermost
PROFILE_ASK_MS: Final = 15_000  # for another member's, beyond its own time: to be reached, and to send it
PROFILE_BYTES: Final = 32 * 1_048_576  # of another member's
PROFILE_STACKS: Final = 20_000  # different ones; those after them count without their frames

# --- backups -----------------------------------------------------------------------------------
BACKUP_HEADER_BYTES: Final = 65_536  # of the frames that say what a backup is and how it ends
BACKUP_CHUNK_BYTES: Final = SNAPSHOT_FRAME_BYTES  # of a chunk, compressed or not
BACKUPS: Final = 1  # being sent by a node at one time: each keeps a moment of the store alive
BACKUP_MS: Final = 3_600_000  # for one; then it is broken off, and the pages of its moment are free again
BACKUP_PAUSE_MS: Final = 1  # between two chunks, at least: others have their turn
BACKUP_READ_BYTES: Final = 262_144  # of a file, at a time
BACKUP_COMMIT_CHUNKS: Final = 32  # of a backup restored in one transaction

# --- checkpoints (is every member's state the same?) -------------------------------------------
CLUSTER_LEVEL_CHECK_MS: Final = 5_000  # between two looks whether all members can apply newer commands
CHECKPOINT_MS: Final = 30_000  # for every member to say what it has
CHECKPOINT_UNREACHED_MS: Final = 3_000  # … one that the node asked has no connection with
CHECKPOINT_LOOK_MS: Final = 1_000  # between two reports to whoever waits for it
CHECKPOINTS_KEPT: Final = 8
CHECKPOINT_BATCH_PAIRS: Final = 512  # hashed before others have their turn
CHECKPOINT_PAUSE_MS: Final = 0.5

# --- QUIC endpoint -----------------------------------------------------------------------------
NET_HANDSHAKE_MS: Final = 5_000
NET_IDLE_MS: Final = 10_000
NET_CONNECTIONS: Final = 256
NET_UNAUTHENTICATED: Final = 64  # connections inside the handshake at one time
NET_SEND_BACKLOG_BYTES: Final = 32 * 1_048_576  # per peer; beyond it, messages are dropped
NET_RECONNECT_MIN_MS: Final = 50
NET_RECONNECT_MAX_MS: Final = 2_000
NET_HELLO_BYTES: Final = 1_024
NET_REFUSAL_LOG_MS: Final = 60_000  # a refusal of one kind is logged once in this time
NET_DIAL_MS: Final = 2_000  # from the first datagram to an authenticated connection, at one address
NET_RELAY_AFTER_MS: Final = 300  # without a direct connection, before a relay is dialled too
NET_PROBE_MIN_MS: Final = 1_000  # between two rounds of looking for a direct way; doubles
NET_PROBE_MAX_MS: Final = 25_000  # within what NATs remember (RFC 4787 §4.3 asks for more; many keep 30 s)
NET_PROBE_TICK_MS: Final = 500
NET_RETIRE_MS: Final = 30_000  # for streams to end on a connection that a better one has replaced
NET_DIAL_BACKLOG_BYTES: Final = 1_048_576  # frames that wait for a dial (one larger frame waits alone)
NET_UNREACHABLE_MS: Final = 100  # a peer is reported unreachable once in this time
NET_UNAUTHENTICATED_BYTES: Final = 262_144  # all a peer may send before it is authenticated
NET_RETRY_ABOVE: Final = 16  # with more in the handshake, a new one must first prove its address
NET_RECEIVE_WINDOW_BYTES: Final = 16 * 1_048_576  # sent by a peer and not yet handled, on one connection
NET_STREAMS: Final = 4  # of frames, open at one time on one connection, beside its Raft frames
NET_STREAM_WINDOW_BYTES: Final = 4 * 1_048_576  # received on one of them and not read yet
NET_STREAM_SEND_BYTES: Final = 1_048_576  # sent on one and not acknowledged; then the sender waits
NET_STREAM_TURN_BYTES: Final = 65_536  # handed to QUIC for all of them before others have their turn
NET_DATAGRAM_BYTES: Final = 1_200  # fits every path (RFC 9000 §14.1)
NET_LOOPBACK_DATAGRAM_BYTES: Final = 16_384  # aioquic writes lengths of stream data in 14 bits
NET_RESETS_PER_S: Final = 100  # answers to packets of connections nobody remembers
NET_KEY_PACKETS: Final = 2**22  # sent under one AES-GCM key; half of what RFC 9001 §6.6 allows
NET_SOCKET_BUFFER_BYTES: Final = 4 * 1_048_576  # asked for; the kernel may grant less
NET_DATAGRAMS_PER_TURN: Final = 64  # read before anything else gets its turn
NET_ACK_EVERY: Final = 8  # packets acknowledged by one packet of their own, if no data goes back
NET_BARE_ACKS: Final = 128  # remembered of those that the peer was not made to acknowledge
NET_ACK_DELAY_MS: Final = 5  # an acknowledgement waits this long for data to ride with
ADDRESSES_PER_PEER: Final = 16
ADDRESS_BOOK_PEERS: Final = 1_024

# --- HTTP client and `aspen dev` ---------------------------------------------------------------
CLIENT_CONNECT_MS: Final = 3_000
CLIENT_REQUEST_MS: Final = 10_000
CLIENT_SILENCE_MS: Final = 30_000  # a stream that says nothing for so long is taken for broken
CLIENT_RETRY_MIN_MS: Final = 20  # before another node is asked; doubles
CLIENT_RETRY_MAX_MS: Final = 1_000
CLIENT_IMPORT_MS: Final = 3_600_000  # for a whole zone to be brought in
CLIENT_IMPORT_BYTES: Final = 65_536  # of its file, sent at a time
CLIENT_PROGRESS_MS: Final = 200  # between two looks at how far it has come
CLIENT_RESPONSE_BYTES: Final = 64 * 1_048_576
DEV_PORTS_MS: Final = 5_000  # for an earlier run to give its ports back
DEV_READY_MS: Final = 30_000  # for all nodes together to become ready
DEV_LINE_BYTES: Final = 1_048_576  # a longer line of a node's log is cut

# --- health ------------------------------------------------------------------------------------
WRITER_STUCK_MS: Final = 60_000  # a transaction that takes longer hangs
DISK_WARN_PERCENT: Final = 80
DISK_UNHEALTHY_PERCENT: Final = 95
CERTIFICATE_WARN_S: Final = 14 * 86_400  # left of a certificate
CERTIFICATE_WARN_PART: Final = 1 / 4  # … or of its life, if that is less; ACME renews at a third
CLOCK_DIFFERENCE_MS: Final = 5_000  # from the other nodes' clocks; announcements may be seconds under way

# --- a service manager (systemd) -----------------------------------------------------------------
SERVICE_PROBE_MS: Final = 1_000  # for DNS to answer a question of the node itself
SERVICE_STATUS_MS: Final = 1_000  # between two looks at what is told of the node
SERVICE_EXTEND_MS: Final = 5_000  # between two requests for patience, of twice that
SERVICE_PATIENCE_MS: Final = 1_800_000  # asked for at most, to start or to stop

# --- store -------------------------------------------------------------------------------------
LMDB_MAP_BYTES: Final = 64 * 1024**3  # address space, not disk
LMDB_READERS: Final = 512
LMDB_READERS_BYTES: Final = (LMDB_READERS - 1) * 64 + 192  # of the file that LMDB keeps them in
LMDB_TABLES: Final = 48
STORE_ROOM_BYTES: Final = 65_536  # a disk that can't give so much has no room

SHUTDOWN_MS: Final = 5_000
SECRETS_ACCEPTED: Final = 4  # cookies, or admin tokens, beside the one in use
SECRET_FILE_BYTES: Final = 4_096
ROTATION_MS: Final = 60_000  # for a node to start again under its next key
IDENTITY_RETRY_MS: Final = 1_000  # between two tries to have a changed key adopted
RESTART_PAUSE_MS: Final = 500  # for an answer to leave, before the node that gave it ends
DOCTOR_ASK_MS: Final = 5_000  # of one service outside

# Relations that must hold whatever is tuned above.
assert DNS_UDP_PLAIN_BYTES <= DNS_UDP_EDNS_BYTES <= DNS_QUERY_BYTES <= DNS_TCP_MESSAGE_BYTES
assert DNS_UPDATES_REMEMBERED_MS >= 2_000 * TSIG_FUDGE_S
assert TSIG_KEY_NAME_CHARS + 8 < SETTING_NAME_BYTES
assert DNS_QUERY_BYTES + 1_024 < DNS_FORWARD_BYTES
assert DNS_CHANGES % 4 == 0
assert DNS_COOKIE_RENEW_S < DNS_COOKIE_LIFE_S
assert PKARR_PAYLOAD_BYTES == 1_072 < DNS_TCP_MESSAGE_BYTES
assert KV_KEY_BYTES < LMDB_KEY_BYTES
assert DOQ_STREAM_BYTES == 2 + DNS_TCP_MESSAGE_BYTES < DOQ_WINDOW_BYTES
assert DOQ_RETRY_ABOVE < DOQ_HANDSHAKES < DOQ_CONNECTIONS
assert 2 * DNS_STALENESS_POLL_MS < DNS_TICK_MS * 4 < DNS_WORKER_SILENT_MS
assert CERTIFICATE_WARN_PART < ACME_RENEW_PART
assert TLS_HANDSHAKES_PER_CLIENT < TLS_HANDSHAKES
assert SNAPSHOT_CHUNK_BYTES + KV_VALUE_BYTES + KV_KEY_BYTES < SNAPSHOT_FRAME_BYTES
assert KV_VALUE_BYTES + KV_KEY_BYTES < KV_COMMAND_BYTES < RAFT_ENTRY_BYTES
assert KV_KEY_BYTES + 8 < LMDB_KEY_BYTES  # a revision or a lease stands before the key in some tables
assert 4 * LEASE_CHECK_MS < LEASE_TTL_MIN_MS
assert KV_VALUE_BYTES < HTTP_BODY_BYTES < RAFT_ENTRY_BYTES < RAFT_FRAME_BYTES
assert HTTP_HEADER_BYTES < HTTP_HEAD_BYTES
assert max(HTTP_STREAMS, HTTP_CONNECTIONS_PER_CLIENT) < HTTP_CONNECTIONS
assert HTTP_HEARTBEAT_MS < HTTP_SEND_MS
assert ZONE_RRSET_BYTES < DNS_TCP_MESSAGE_BYTES - DNS_NAME_BYTES - 200  # header, question, SOA, OPT
assert ZONE_STAGE_BYTES < ZONE_UPDATE_BYTES < RAFT_ENTRY_BYTES
assert 8 + 2 * (DNS_NAME_BYTES - 5) + 3 <= LMDB_KEY_BYTES  # a content's id, an owner all of escapes
assert RAFT_MESSAGE_BYTES <= RAFT_INFLIGHT_BYTES <= NET_SEND_BACKLOG_BYTES
assert RAFT_FRAME_BYTES < NET_RECEIVE_WINDOW_BYTES
# A whole frame always fits, though the window moves on in quarters.
assert SNAPSHOT_FRAME_BYTES < NET_STREAM_WINDOW_BYTES * 3 // 4
assert NET_STREAMS * NET_STREAM_WINDOW_BYTES <= NET_RECEIVE_WINDOW_BYTES
assert NET_STREAM_TURN_BYTES <= NET_STREAM_SEND_BYTES
assert NET_HELLO_BYTES < NET_UNAUTHENTICATED_BYTES < NET_RECEIVE_WINDOW_BYTES
assert NET_DATAGRAM_BYTES <= NET_LOOPBACK_DATAGRAM_BYTES <= 16_384
assert NET_RELAY_AFTER_MS < NET_DIAL_MS < NET_HANDSHAKE_MS < NET_IDLE_MS
assert NET_DATAGRAM_BYTES <= RELAY_DATAGRAM_BYTES < RELAY_FRAME_BYTES < RELAY_BYTES_BURST
assert RELAY_UNPROVEN_PER_ADDRESS < RELAY_UNPROVEN  # one address can't keep newcomers out
assert RELAY_RECONNECT_MAX_MS < NET_IDLE_MS // 2
assert RELAY_CLIENTS + HTTP_CONNECTIONS_PER_CLIENT < HTTP_CONNECTIONS
assert NET_DIAL_MS < JOIN_SERVE_MS < JOIN_TRY_MS
assert JOIN_STRANGERS < NET_UNAUTHENTICATED < NET_CONNECTIONS
assert TICKET_CHARS < JOIN_FRAME_BYTES
assert 4 * RAFT_MEMBERS <= FOUNDING_SEEN  # those who answer leave room for those who may
assert 4 * FOUNDING_TICK_MS < FOUNDING_ALIVE_MS < FOUNDING_PATIENCE_MS
assert TICKET_LIFE_MIN_S <= TICKET_LIFE_S <= TICKET_LIFE_MAX_S
assert RAFT_PROPOSE_MS < CLIENT_REQUEST_MS  # the node's own answer comes first
assert RAFT_PROPOSE_MS < 5_000  # a client hears within five seconds
