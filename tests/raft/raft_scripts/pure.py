"""The scripts of pure functions: quorums and configuration changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from raft_scripts import describe
from raft_scripts.datadriven import Case, CommandError, ScriptError

from aspen.raft import membership, quorum
from aspen.raft.membership import Configuration, ConfigurationRefused, ProgressDefaults, ProgressMap
from aspen.raft.progress import NO_LIMIT
from aspen.raft.quorum import VoteResult

_VOTES = {VoteResult.WON: "VoteWon", VoteResult.LOST: "VoteLost", VoteResult.PENDING: "VotePending"}


def _number(index: int) -> str:
    return "∞" if index == quorum.INFINITE_INDEX else str(index)


class QuorumScript:
    """`committed` and `vote` over one majority or, with `cfgj`, a joint pair."""

    def handle(self, case: Case) -> str:
        voters = [int(value) for value in case.arguments.values("cfg")]
        joint = bool(case.arguments.values("cfgj"))
        joined = [int(value) for value in case.arguments.values("cfgj") if value != "zero"]
        if case.command == "committed":
            return self._committed(case, voters, joined, joint=joint)
        if case.command == "vote":
            return self._vote(case, voters, joined, joint=joint)
        raise ScriptError(f"{case}: unknown command")

    @staticmethod
    def _assign(words: tuple[str, ...], voters: list[int], joined: list[int]) -> dict[int, str]:
        """One word a voter in the order of first mention; `_` says nothing about it."""
        ids = list(dict.fromkeys([*voters, *joined]))
        if len(words) != len(ids):
            raise ScriptError(f"{len(words)} values for {len(ids)} voters")
        return {voter: word for voter, word in zip(ids, words, strict=True) if word != "_"}

    def _committed(self, case: Case, voters: list[int], joined: list[int], *, joint: bool) -> str:
        known = {k: int(v) for k, v in self._assign(case.arguments.values("idx"), voters, joined).items()}
        first, second = frozenset(voters), frozenset(joined)
        index = quorum.joint_committed_index(first, second, known)
        text = _draw(first | second, known)
        checks: dict[str, int] = {"via symmetry": quorum.joint_committed_index(second, first, known)}
        if not joint:
            checks["via zero-joint quorum"] = quorum.joint_committed_index(first, frozenset(), known)
            checks["via self-joint quorum"] = quorum.joint_committed_index(first, first, known)
            checks["via alternative computation"] = _alternative(first, known)
            for voter, at in known.items():
                if voter in first and index > at:
                    # Whoever is behind the committed index may as well be further behind.
                    for lower in (at - 1, 0):
                        checks[f"overlaying {voter}->{lower}"] = quorum.committed_index(
                            first, {**known, voter: lower}
                        )
        text += "".join(f"{_number(got)} <-- {how}\n" for how, got in checks.items() if got != index)
        return text + _number(index)

    def _vote(self, case: Case, voters: list[int], joined: list[int], *, joint: bool) -> str:
        cast = {k: v == "y" for k, v in self._assign(case.arguments.values("votes"), voters, joined).items()}
        first, second = frozenset(voters), frozenset(joined)
        result = quorum.joint_vote_result(first, second, cast)
        text = _VOTES[result]
        symmetric = quorum.joint_vote_result(second, first, cast)
        if symmetric is not result:
            text += f"\n{_VOTES[symmetric]} <-- via symmetry"
        if not joint and quorum.vote_result(first, cast) is not result:
            text += "\n <-- via zero-joint quorum"
        return text


def _alternative(voters: frozenset[int], known: Mapping[int, int]) -> int:
    """The definition itself: the largest index that a majority has reached."""
    if not voters:
        return quorum.INFINITE_INDEX
    reached = [
        index
        for index in {known.get(voter, 0) for voter in voters}
        if sum(known.get(voter, 0) >= index for voter in voters) > len(voters) // 2
    ]
    return max(reached)


def _draw(voters: frozenset[int], known: Mapping[int, int]) -> str:
    """A bar for each voter, as long as there are voters strictly behind it."""
    if not voters:
        return "<empty majority quorum>"
    width = len(voters)
    bars = {voter: sum(known.get(other, 0) < known.get(voter, 0) for other in voters) for voter in voters}
    lines = [" " * width + "    idx"]
    for voter in sorted(voters):
        bar = bars[voter]
        head = "x" * bar + ">" + " " * (width - bar) if voter in known else "?" + " " * width
        lines.append(f"{head} {known.get(voter, 0):5d}    (id={voter})")
    return "\n".join(lines) + "\n"


class ConfChangeScript:
    """`simple`, `enter-joint` and `leave-joint` on one configuration; each command adds an entry."""

    def __init__(self) -> None:
        self._configuration = Configuration()
        self._progress: ProgressMap = {}
        self._last_index = 0

    def handle(self, case: Case) -> str:
        defaults = ProgressDefaults(self._last_index, 10, NO_LIMIT)
        self._last_index += 1
        state = (self._configuration, self._progress)
        try:
            singles = describe.parse_changes(" ".join(case.input))
        except CommandError as error:
            return str(error)
        if case.command == "leave-joint" and singles:
            return "this command takes no input"
        commands: dict[str, Callable[[], tuple[Configuration, ProgressMap]]] = {
            "simple": lambda: membership.simple(*state, singles, defaults),
            "enter-joint": lambda: membership.enter_joint(
                *state, singles, defaults, auto_leave=case.arguments.flag("autoleave")
            ),
            "leave-joint": lambda: membership.leave_joint(*state, defaults),
        }
        if case.command not in commands:
            raise ScriptError(f"{case}: unknown command")
        try:
            self._configuration, self._progress = commands[case.command]()
        except ConfigurationRefused as refusal:
            return str(refusal)
        members = [f"{node_id}: {describe.progress(item.view())}" for node_id, item in self._progress.items()]
        return "\n".join([describe.configuration(self._configuration), *members])
