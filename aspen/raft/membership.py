"""Who the members are, and the safe ways from one configuration to another.

A *simple* change alters the voters by one, so that any majority of the old set meets any of the
new one. Anything more goes through a *joint* configuration, in which both sets must agree:
`voters` is the incoming set, `voters_outgoing` the one being left. A voter demoted in that step
stays a voter of the outgoing set and waits in `learners_next`.

A change is tried out on copies: it either returns a configuration with its progress map that
hold every invariant, or raises `ConfigurationRefused` and nothing has happened.

Raft paper §6; thesis §4.1 (single-server changes), §4.2.1 (learners), §4.3 (joint consensus).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from aspen.errors import AspenError, invariant
from aspen.raft.messages import ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState
from aspen.raft.progress import Inflights, Progress


class ConfigurationRefused(AspenError):
    """A configuration change that can't be made from this configuration."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The members and their roles."""

    voters: frozenset[int] = frozenset()
    voters_outgoing: frozenset[int] = frozenset()
    learners: frozenset[int] = frozenset()
    learners_next: frozenset[int] = frozenset()
    auto_leave: bool = False

    @property
    def joint(self) -> bool:
        return bool(self.voters_outgoing)

    @property
    def all_voters(self) -> frozenset[int]:
        return self.voters | self.voters_outgoing

    def conf_state(self) -> ConfState:
        return ConfState(
            voters=tuple(sorted(self.voters)),
            learners=tuple(sorted(self.learners)),
            voters_outgoing=tuple(sorted(self.voters_outgoing)),
            learners_next=tuple(sorted(self.learners_next)),
            auto_leave=self.auto_leave,
        )


ProgressMap = dict[int, Progress]
"""By node id, in ascending order: iteration is part of the core's determinism."""


@dataclass(frozen=True, slots=True)
class ProgressDefaults:
    """What a new member's progress starts with."""

    last_index: int
    max_inflight_messages: int
    max_inflight_bytes: int

    def new(self, *, is_learner: bool) -> Progress:
        inflights = Inflights(self.max_inflight_messages, self.max_inflight_bytes)
        # Probing from the leader's last entry: a member that lacks it says what it has.
        progress = Progress(max(self.last_index, 1), inflights, is_learner=is_learner)
        # Counts as alive until the next CheckQuorum, or adding it could depose the leader at once.
        progress.recent_active = True
        return progress


class _Draft:
    """A configuration under change: mutable copies of everything."""

    def __init__(
        self, configuration: Configuration, progress: Mapping[int, Progress], defaults: ProgressDefaults
    ) -> None:
        self.voters = set(configuration.voters)
        self.voters_outgoing = set(configuration.voters_outgoing)
        self.learners = set(configuration.learners)
        self.learners_next = set(configuration.learners_next)
        self.progress = {node_id: member.clone() for node_id, member in progress.items()}
        self._defaults = defaults

    def apply(self, changes: Iterable[ConfChangeSingle]) -> None:
        for change in changes:
            if not change.node_id:  # a change that was called off after it was proposed
                continue
            if change.type is ConfChangeType.ADD_NODE:
                self._make_voter(change.node_id)
            elif change.type is ConfChangeType.ADD_LEARNER_NODE:
                self._make_learner(change.node_id)
            elif change.type is ConfChangeType.REMOVE_NODE:
                self._remove(change.node_id)
        if not self.voters:
            raise ConfigurationRefused("removed all voters")

    def _make_voter(self, node_id: int) -> None:
        if (member := self.progress.get(node_id)) is None:
            self.progress[node_id] = self._defaults.new(is_learner=False)
        else:
            member.is_learner = False
        self.learners.discard(node_id)
        self.learners_next.discard(node_id)
        self.voters.add(node_id)

    def _make_learner(self, node_id: int) -> None:
        if (member := self.progress.get(node_id)) is None:
            self.progress[node_id] = self._defaults.new(is_learner=True)
            self.learners.add(node_id)
            return
        if member.is_learner:
            return
        self._remove(node_id)
        self.progress[node_id] = member  # what is known of its log stays true
        if node_id in self.voters_outgoing:
            self.learners_next.add(node_id)
        else:
            member.is_learner = True
            self.learners.add(node_id)

    def _remove(self, node_id: int) -> None:
        if node_id not in self.progress:
            return
        self.voters.discard(node_id)
        self.learners.discard(node_id)
        self.learners_next.discard(node_id)
        if node_id not in self.voters_outgoing:
            del self.progress[node_id]

    def finish(self, *, auto_leave: bool) -> tuple[Configuration, ProgressMap]:
        configuration = Configuration(
            frozenset(self.voters),
            frozenset(self.voters_outgoing),
            frozenset(self.learners),
            frozenset(self.learners_next),
            auto_leave,
        )
        progress = dict(sorted(self.progress.items()))
        check(configuration, progress)
        return configuration, progress


def check(configuration: Configuration, progress: Mapping[int, Progress]) -> None:
    """What holds of every configuration and its progress map."""
    members = configuration.all_voters | configuration.learners | configuration.learners_next
    invariant(members == progress.keys(), "members and progress map differ")
    for node_id in configuration.learners_next:
        invariant(node_id in configuration.voters_outgoing, "a demoted voter is not in the outgoing set")
        invariant(not progress[node_id].is_learner, "a voter of the outgoing set is already a learner")
    for node_id in configuration.learners:
        invariant(node_id not in configuration.all_voters, "a learner is also a voter")
        invariant(progress[node_id].is_learner, "a learner's progress is a voter's")
    if not configuration.joint:
        invariant(not configuration.learners_next, "voters wait to be demoted outside a joint configuration")
        invariant(not configuration.auto_leave, "auto-leave outside a joint configuration")


def simple(
    configuration: Configuration,
    progress: Mapping[int, Progress],
    changes: Iterable[ConfChangeSingle],
    defaults: ProgressDefaults,
) -> tuple[Configuration, ProgressMap]:
    """A change of at most one voter, and of any number of learners."""
    if configuration.joint:
        raise ConfigurationRefused("can't apply simple config change in joint config")
    draft = _Draft(configuration, progress, defaults)
    draft.apply(changes)
    if len(configuration.voters ^ draft.voters) > 1:
        raise ConfigurationRefused("more than one voter changed without entering joint config")
    return draft.finish(auto_leave=configuration.auto_leave)


def enter_joint(
    configuration: Configuration,
    progress: Mapping[int, Progress],
    changes: Iterable[ConfChangeSingle],
    defaults: ProgressDefaults,
    *,
    auto_leave: bool,
) -> tuple[Configuration, ProgressMap]:
    """Any change of voters: the old set becomes the outgoing one."""
    if configuration.joint:
        raise ConfigurationRefused("config is already joint")
    if not configuration.voters:
        raise ConfigurationRefused("can't make a zero-voter config joint")
    draft = _Draft(replace(configuration, voters_outgoing=configuration.voters), progress, defaults)
    draft.apply(changes)
    return draft.finish(auto_leave=auto_leave)


def leave_joint(
    configuration: Configuration, progress: Mapping[int, Progress], defaults: ProgressDefaults
) -> tuple[Configuration, ProgressMap]:
    """Drop the outgoing set; whoever is in no other set is a member no longer."""
    if not configuration.joint:
        raise ConfigurationRefused("can't leave a non-joint config")
    draft = _Draft(configuration, progress, defaults)
    for node_id in draft.learners_next:
        draft.learners.add(node_id)
        draft.progress[node_id].is_learner = True
    draft.learners_next.clear()
    for node_id in draft.voters_outgoing - draft.voters - draft.learners:
        del draft.progress[node_id]
    draft.voters_outgoing.clear()
    return draft.finish(auto_leave=False)


def change(
    configuration: Configuration,
    progress: Mapping[int, Progress],
    conf_change: ConfChangeV2,
    defaults: ProgressDefaults,
) -> tuple[Configuration, ProgressMap]:
    """Whichever of the three `conf_change` asks for. Raises `ConfigurationRefused`."""
    if conf_change.leaves_joint:
        return leave_joint(configuration, progress, defaults)
    if conf_change.enters_joint:
        auto_leave = conf_change.auto_leave
        return enter_joint(configuration, progress, conf_change.changes, defaults, auto_leave=auto_leave)
    return simple(configuration, progress, conf_change.changes, defaults)


def restore(conf_state: ConfState, defaults: ProgressDefaults) -> tuple[Configuration, ProgressMap]:
    """The configuration that `conf_state` describes, with every member's progress anew."""
    outgoing = frozenset(conf_state.voters_outgoing)
    configuration = Configuration(
        voters=frozenset(conf_state.voters),
        voters_outgoing=outgoing,
        learners=frozenset(conf_state.learners),
        learners_next=frozenset(conf_state.learners_next),
        auto_leave=conf_state.auto_leave,
    )
    members = configuration.all_voters | configuration.learners | configuration.learners_next
    progress = {
        node_id: defaults.new(is_learner=node_id in configuration.learners) for node_id in sorted(members)
    }
    check(configuration, progress)
    return configuration, progress
