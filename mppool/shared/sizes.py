"""Whether a process means the budget that it finds, by the number of permits that it says.

A budget can be resized while it runs. A process whose handle was made before that has the old number and cannot know
better: it takes the new one. One made afterwards with another number is told. Time is the monotonic clock's, which all
processes of a host share; it travels with a handle that is forked or pickled.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mppool.shared.ledger import Header

__all__ = ["mismatch"]


def mismatch(header: Header, size: int | None, made: int, before: int | None = None, *, reserve: int = 0) -> str | None:
    """Why a process does not belong to a budget; None: it does.

    Args:
        header: the budget's.
        size: permits that the process says the budget has; None: it takes what there is.
        made: when that was said, in ns of the monotonic clock; 0: before any resize.
        before: permits that the budget had at first, if known.
        reserve: permits of its reserve, as the process says; 0: it says nothing of one.
    """
    if reserve and reserve != header.reserve:
        return f"reserve is {header.reserve} there and {reserve} here"
    now, resized = header.max_size, header.resized
    if size is None or size == now or made < resized:
        return None
    if not resized:
        return f"max_size is {now} there and {size} here"
    was = f"from {before} " if before not in (None, now) else ""
    return (
        f"it was resized {was}to {now} while it ran, and max_size is {size} here: give max_size={now}, or "
        f"max_size=None to take the budget's"
    )
