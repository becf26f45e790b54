"""What a host holds of a budget: the part of it that must be right. All that is safe about the protocol is here and in
`mppool.cluster.ghosts`; when to send what (`mppool.cluster.host`) cannot make it wrong. tests/cluster/test_walk.py
tries all interleavings of the two.

    cap     Connections that may be open, being opened or being closed here. It is lowered before a request that keeps
            less is sent, and raised only by the answer to the last request.
    lease   An answered exchange is good for L seconds from when it was *sent*. After that the engine may count on
            another host's judgement, so this host only shrinks: ``cap`` follows what is open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mppool.cluster.contract import EPOCH, SEQ

if TYPE_CHECKING:
    from mppool.cluster.contract import Answer


class Holding:
    """One host's share of the budget. All times are of this host's own clock, which must run while it is suspended
    (CLOCK_BOOTTIME), and are passed in.

    Args:
        seq: all requests of this host come after it. A process that goes on as the same incarnation passes one that is
            above all of its predecessor's, such as milliseconds of the same clock: requests of a killed process may
            still be on their way.
        used: connections that are open here already.

    Attributes:
        cap: see above; never above the credit that the engine keeps for this host.
        used: connections open, being opened or being closed here, permits that members could use at once included.
        until: when the lease ends.
        epoch: that is known; "": none yet.
        declared: the engine has this host's row in that epoch.
        learning: that epoch is, by the last answer.
        number: of the row, by the last answer.
        sent: (seq, when) of the request whose answer counts; None: none is under way.
    """

    __slots__ = ("cap", "declared", "epoch", "learning", "number", "sent", "seq", "until", "used")

    def __init__(self, seq: int = 0, used: int = 0) -> None:
        self.seq, self.used, self.cap = seq, used, used
        self.until = 0.0
        self.epoch = ""
        self.declared = self.learning = False
        self.number = 0
        self.sent: tuple[int, float] | None = None

    def leased(self, now: float) -> bool:
        """Whether connections may be opened, as far as ``cap`` goes."""
        return now < self.until

    def report(self, used: int, now: float) -> None:
        """So many connections are open, being opened or being closed."""
        self.used = used
        self.look(now)

    def look(self, now: float) -> None:
        """Lower the cap to what is used if the lease has ended."""
        if not self.leased(now):
            self._shrink()

    def _shrink(self) -> None:
        self.cap = min(self.cap, self.used)

    def send(self, keep: int, ask: int, now: float) -> tuple[int, int, int]:
        """A request is being sent; one whose answer has not come is given up.

        Args:
            keep: the cap from now on, as far as it is between what is used and what the cap was.
            ask: permits beyond that.
            now: the lease counts from here.

        Returns:
            What to send: seq, keep and ask.
        """
        self.look(now)
        if not self.declared:
            keep, ask = self.used, 0
        self.lower(keep)
        self.seq += 1
        self.sent = self.seq, now
        return self.seq, max(self.cap, self.used), max(0, ask)

    def lower(self, keep: int) -> None:
        """Lower the cap, as far as connections are not open already."""
        self.cap = min(self.cap, max(keep, self.used))

    def answered(self, seq: int, answer: Answer, now: float) -> bool:
        """An answer has come.

        Returns:
            Whether it was the one that counts and was not refused: the lease runs on, unless the answer took longer
            than the lease.
        """
        if self.sent is None or self.sent[0] != seq:
            return False
        sent_at, self.sent = self.sent[1], None
        self.learning = answer.learning
        if answer.refused == EPOCH:
            self.epoch, self.declared = answer.epoch, False
            self._shrink()
        if answer.refused == SEQ:
            self.seq = max(self.seq, answer.seq)
        if answer.refused:
            return False
        self.declared, self.number = True, answer.number
        self._renew(sent_at + answer.lease, answer.credit, now)
        return True

    def _renew(self, end: float, credit: int, now: float) -> None:
        if now < end:
            self.until, self.cap = end, credit
        else:  # others may have judged this host since the engine sent the answer
            self.cap = min(self.cap, credit)
            self.look(now)

    def failed(self, seq: int) -> None:
        """No answer will come; the request may still be executed."""
        if self.sent is not None and self.sent[0] == seq:
            self.sent = None
