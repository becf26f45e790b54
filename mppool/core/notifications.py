"""When a member must notify its manager, and when the manager must notify a member: both sides, and nothing else.

Both sides publish in the ledger and read there. Neither polls the other, so a side that changes something that the
other waits for must notify it. Each side first writes its own cells, then reads the other's, and then decides: if both
do so at the same time, at least one sees what the other wrote. Hence the rules:

    member   It writes its facts, then reads what the manager knows (`known`), gave (`credit`) and waits for (`short`,
             `telling`).
    manager  It reads facts, writes orders, then looks once more at the facts of the members to which it wrote something
             new, and at all of them when it begins to wait for something (`short` or `telling` goes up).

A notification in vain costs a few microseconds. A missing one leaves a caller waiting for ever.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from collections import namedtuple

# -- the member, after it has written its facts --------------------------------------------------------------


def lacks(demand: int, known: int, credit: int) -> bool:
    """Callers use and wait for more connections than the manager knows of, and than it gave permits for."""
    return demand > max(known, credit)


def given_up(demand: int, known: int) -> bool:
    """The manager counts on callers that wait no more."""
    return demand < known


def spares(demand: int, held: int, known: int, credit: int) -> bool:
    """Permits lie unused which callers needed when the manager last looked, and do not need now: others came back."""
    return demand < known and max(demand, held) < credit


# While `short`, the member notifies the manager of a permit that was put back or is spared; while `telling`, of a
# connection that is the first to become idle.

# -- the manager, after it has written a member's orders -----------------------------------------------------

if TYPE_CHECKING:

    class Orders(NamedTuple):
        """What a member was told, whether it has to close something for that, and since when its oldest idle connection
        has been idle: one that is younger than the order may have been too young to be closed for it."""

        credit: int
        target: int
        limit: int
        must_close: bool
        idle_since: float

else:  # the manager does not import typing
    Orders = namedtuple("Orders", "credit target limit must_close idle_since")


def must_tell(said: Orders | None, say: Orders, waiting: bool) -> bool:
    """Whether a member must look at its orders.

    A grant needs no notification: the semaphore becomes readable. A member that waits and was told to leave permits
    alone does not watch its semaphore, so it is told when it may take permits again.

    Args:
        said: what it was told before; None: it may still go by what a predecessor had written.
        waiting: callers wait there, as read after the orders were written.
    """
    if said is None:
        return True
    if said == say:
        return False
    lifted = said.target < said.credit and say.target == say.credit
    return say.must_close or (waiting and lifted)


def overlooked(demand: int, before: int, after: int) -> bool:
    """Whether callers may have lined up without a notification, because their member read what was there before.

    Args:
        demand: as read after the orders were written.
        before, after: the greater of ``known`` and ``credit``, before and after that.
    """
    return before > after and demand > after
