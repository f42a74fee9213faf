// What this node knows of each member: by the roster, by what it counts as a leader, and by its connections.

import { aside, badge, id } from "./dom.js";
import { count, latency } from "./format.js";
import { value } from "./live.js";

/** How each state of health is marked. */
export const MARKS = {
  healthy: ["well", "Healthy"],
  degraded: ["warn", "Degraded"],
  unhealthy: ["bad", "Unhealthy"],
};
export const COLUMNS = [
  ["Node", "strong"],
  ["Role"],
  ["Lag", "number"],
  ["Match", "number"],
  ["In flight", "number"],
  ["Path"],
  ["RTT", "number"],
  ["Identity"],
];
const BEHIND = 1_000; // entries; more is worth a look

/** Each member as the map and the table show it. What only a leader knows is undefined elsewhere. */
export function membersOf(status, metrics, peers, health) {
  const known = new Map((peers?.peers ?? []).map((peer) => [peer.endpoint_id, peer]));
  return status.members.map((member) =>
    member.node_id === status.node_id
      ? ownMember(member, status, metrics, health)
      : otherMember(member, status, metrics, known.get(member.endpoint_id)),
  );
}

function common(member, status) {
  const leader = member.node_id === status.leader_id;
  const learner = member.role === "learner";
  const role = leader ? "leader" : learner ? "learner" : "follower";
  return { id: member.node_id, endpoint: member.endpoint_id, leader, learner, role };
}

function ownMember(member, status, metrics, health) {
  const leads = status.leader_id === status.node_id;
  const lag = Math.max(0, status.commit_index - status.applied_index);
  return {
    ...common(member, status),
    own: true,
    connected: true,
    lag,
    match: leads ? value(metrics, "aspen_raft_last_index") : undefined,
    path: "–",
    state: MARKS[health?.status]?.[0] ?? "well",
    notes: [lag ? `${count(lag)} to apply` : null],
  };
}

function otherMember(member, status, metrics, peer) {
  const counted = (name) => value(metrics, name, ({ peer: of }) => of === String(member.node_id));
  const lag = counted("aspen_raft_peer_lag_entries");
  const connected = peer?.path !== "none";
  const rtts = (peer?.connections ?? []).map((connection) => connection.rtt_ms).filter((ms) => ms > 0);
  const rtt = rtts.length ? Math.min(...rtts) / 1_000 : undefined;
  const way = peer?.path === "relay" ? "by relay" : null;
  return {
    ...common(member, status),
    own: false,
    connected,
    lag,
    match: counted("aspen_raft_peer_match_index"),
    inflight: counted("aspen_raft_peer_inflight_messages"),
    path: peer?.path ?? "–",
    rtt,
    state: connected ? (lag > BEHIND ? "warn" : "well") : "bad",
    notes: connected ? [way, rtt === undefined ? null : latency(rtt)] : ["no connection"],
    edge: status.leader_id === status.node_id ? edge(connected, lag) : null,
  };
}

/** What stands on the line to a follower. */
function edge(connected, lag) {
  if (!connected) return "silent";
  return lag ? `${count(lag)} behind` : "in step";
}

/** Members for `clusterMap`. */
export function mapNodes(list) {
  const title = ({ leader, learner }) => (leader ? "leader" : learner ? "learner" : null);
  return list.map((member) => ({
    ...member,
    note: [title(member), ...member.notes].filter(Boolean).join(" · "),
  }));
}

/** The cells of a member's row. */
export function memberRow(member) {
  return [
    [String(member.id), member.own ? aside("this node") : null],
    badge(member.state, member.connected ? member.role : `${member.role}, no connection`),
    count(member.lag),
    count(member.match),
    count(member.inflight),
    member.path,
    latency(member.rtt),
    id(member.endpoint, "#/peers"),
  ];
}
