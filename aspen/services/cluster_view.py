"""What this node says of itself and its cluster."""

from __future__ import annotations

from aspen import __version__
from aspen.config import format_address
from aspen.http.cluster import ClusterStatus, DnsStatus, MemberStatus
from aspen.identity import Identity
from aspen.net.endpoint import Endpoint
from aspen.raft.cluster import Consensus
from aspen.raft.roster import NO_CLUSTER, Member
from aspen.z32 import encode_key


class NodeView:
    """`aspen.http.cluster.ClusterView` over the running parts."""

    def __init__(self, node_id: int, identity: Identity, consensus: Consensus, endpoint: Endpoint) -> None:
        self._node_id = node_id
        self._identity = identity
        self._consensus = consensus
        self._endpoint = endpoint
        self.dns: DnsStatus | None = None

    def status(self) -> ClusterStatus:
        consensus = self._consensus
        driver, roster = consensus.driver, consensus.roster
        return ClusterStatus(
            node_id=self._node_id,
            endpoint_id=self._identity.z32,
            cluster_id="" if roster.cluster_id == NO_CLUSTER else roster.cluster_id.hex(),
            role="removed" if consensus.removed else driver.role.name.lower(),
            leader_id=driver.leader_id,
            term=driver.raw.term,
            commit_index=driver.raw.commit_index,
            applied_index=driver.applied_index,
            last_contact_ms=consensus.since_contact_ms(),
            version=__version__,
            members=tuple(self._member(member) for member in roster.members),
            dns=self.dns,
            refusals=dict(sorted(self._endpoint.refusals.items())),
        )

    def _member(self, member: Member) -> MemberStatus:
        conf_state = self._consensus.roster.conf_state
        voter = member.node_id in conf_state.voters or member.node_id in conf_state.voters_outgoing
        return MemberStatus(
            node_id=member.node_id,
            endpoint_id=encode_key(member.endpoint_id),
            role="voter" if voter else "learner",
            addresses=tuple(map(format_address, member.addresses)),
        )
