"""What a command is applied with: the transaction, and the only time and order there are."""

from __future__ import annotations

from aspen.state.store import TableStore, Txn


class ApplyContext:
    """One command's application. All that it may depend on is here, in the command and in the state."""

    __slots__ = ("changed_packets", "dns_changed", "index", "store", "time_ms", "txn")

    def __init__(self, store: TableStore, txn: Txn, index: int, time_ms: int) -> None:
        self.store = store
        self.txn = txn
        self.index = index
        """Of the command's log entry."""
        self.time_ms = time_ms
        """The leader's clock when it proposed the command; never goes back."""
        self.dns_changed = False
        """Set it when anything changed that DNS answers from, but for single packets."""
        self.changed_packets: list[bytes] = []
        """Public keys whose packets DNS answers from otherwise than before."""
