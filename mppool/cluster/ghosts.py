"""When a host may say of another one that it is gone, and when learning may end.

A lease is measured on the clock of the host that has it. Another host does not know when it was sent, only when it saw
the row's number for the first time, on its own clock. If the number is the same L * 1.01 + 2 s later, the lease has
ended: it was sent before that, and clocks differ by less than 1 %. The 2 s are for connects that were under way when
it ended. From then on the host opens nothing, so a count at the database, made *after* that, stays an upper bound of
what it has. A row is never brought down by time alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mppool.cluster.contract import Row, State

DRIFT = 1.01  # clocks of two hosts, at most
SLACK = 2.0  # seconds that a connect under way may take to be seen or given up, after the lease has ended
AGAIN = 1.0  # seconds between two counts for the same ghost


class Suspect(NamedTuple):
    """Count this host's connections at the database now, and then `Engine.bury` it with the count.

    Args:
        epoch: for `Engine.bury`.
        host: whose connections.
        number: for `Engine.bury`.
        credit: what its row has; a higher count says nothing.
    """

    epoch: str
    host: str
    number: int
    credit: int


class Ghosts:
    """What one host saw of the others.

    Args:
        slack: seconds; see `SLACK`.
    """

    __slots__ = ("_counted", "_epoch", "_learning_since", "_seen", "slack")

    def __init__(self, slack: float = SLACK) -> None:
        self.slack = slack
        self._epoch = ""
        self._learning_since: float | None = None
        self._seen: dict[str, tuple[int, float]] = {}  # number, and since when
        self._counted: dict[str, float] = {}  # not again before

    def saw(self, state: State, now: float) -> None:
        """Rows were read; ``now`` is after the answer came."""
        self.saw_epoch(state.epoch, state.learning, now)
        seen = self._seen
        self._seen = {host: self._since(seen.get(host), row, now) for host, row in state.rows.items()}
        self._counted = {host: at for host, at in self._counted.items() if host in self._seen}

    def saw_epoch(self, epoch: str, learning: bool, now: float) -> None:
        """An answer named the epoch."""
        if epoch != self._epoch:
            self._epoch, self._learning_since = epoch, None
            self._seen, self._counted = {}, {}
        if not learning:
            self._learning_since = None
        elif self._learning_since is None:
            self._learning_since = now

    def go_on(self, epoch: str, since: float) -> None:
        """This host's last agent saw that this epoch was learning; that was ``since``, by this host's clock."""
        self._epoch, self._learning_since = epoch, since

    @property
    def learning(self) -> tuple[str, float] | None:
        """The epoch that is learning, and since when that is known here; None: it is not."""
        return None if self._learning_since is None else (self._epoch, self._learning_since)

    @staticmethod
    def _since(before: tuple[int, float] | None, row: Row, now: float) -> tuple[int, float]:
        return before if before is not None and before[0] == row.number else (row.number, now)

    def wait(self, lease: float) -> float:
        """Seconds after which a lease has surely ended that was sent before they began."""
        return lease * DRIFT + self.slack

    def suspects(self, state: State, me: str, now: float) -> list[Suspect]:
        """Hosts that may be judged now, of rows that were just read and told to `saw`.

        Args:
            state: the rows.
            me: this host, which is none of them.
            now: the count comes after this.
        """
        if not state.epoch or state.learning:
            return []
        wait = self.wait(state.lease)
        return [
            Suspect(state.epoch, host, row.number, row.credit)
            for host, row in state.rows.items()
            if host != me and self._is_overdue(host, wait, now) and now >= self._counted.get(host, now)
        ]

    def _is_overdue(self, host: str, wait: float, now: float) -> bool:
        since = self._seen.get(host)
        return since is not None and now - since[1] >= wait

    def is_gone(self, state: State, host: str, now: float) -> bool:
        """Whether a host's lease has surely ended: nobody there reads rings, and its credit is not to be had."""
        return state.rows[host].ghost or self._is_overdue(host, self.wait(state.lease), now)

    def counted(self, host: str, now: float) -> None:
        """A count for a host has begun; the next one waits."""
        self._counted[host] = now + AGAIN

    def may_end_learning(self, state: State, now: float) -> bool:
        """Whether all leases of before this epoch have surely ended: count for hosts without a row now, and then call
        `Engine.learned`."""
        since = self._learning_since
        if not state.learning or state.epoch != self._epoch or since is None:
            return False
        return now - since >= self.wait(state.lease)

    def learns_until(self, lease: float) -> float | None:
        """When learning may end here; None: the epoch is not learning."""
        return None if self._learning_since is None else self._learning_since + self.wait(lease)

    def known(self) -> Mapping[str, tuple[int, float]]:
        """By host: the number that was seen last, and since when."""
        return self._seen
