"""The shares of hosts in a budget: max-min fair, decided by a host that is short, from all rows.

Why not `core.policy`: it decides for one manager that hears of every change and remembers. It goes by how long callers
have waited, how long connections have been idle and who had a turn, and it books each move. Here each short host
decides by itself, from rows that are up to some seconds old, and books nothing: two of them must come to the same
shares from the same rows. What is the same is the rule: a taker gets what is free, then what others do not need, and
then from the one with most while that has two more than the taker.

Facts may be out of date: a plan moves a permit late or in vain, and never makes one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mppool.cluster.contract import Row, State

STEP = 2  # permits that a giver must have more than the taker: with less, the two would only swap


class Plan(NamedTuple):
    """What a short host may do.

    Args:
        share: permits that it may have.
        targets: whom to ring, and the permits to come down to.
    """

    share: int
    targets: dict[str, int]


def plan(state: State, me: str, wanted: int, is_gone: Callable[[str], bool], turn: float | None = None) -> Plan:
    """What a host may ask for, and who should give.

    Args:
        state: all rows.
        me: the host that is short.
        wanted: permits that it would like to have in all; newer than its row.
        is_gone: of a host: its credit cannot be had until it was counted.
        turn: 0 to 1, by chance, once a host has had no permit for a turn while others have one each: it takes over the
            only one of the host that this picks. Chance is a fair order for hosts that do not know of each other's
            turns.
    """
    alive = {host: row for host, row in state.rows.items() if host != me and not is_gone(host)}
    mine = state.rows[me].credit if me in state.rows else 0
    gone = sum(row.credit for host, row in state.rows.items() if host != me and host not in alive)
    spare = max(0, state.max_size - gone)
    demands = {host: max(_demand(row), 0) for host, row in alive.items()}
    demands[me] = wanted
    credits = {host: row.credit for host, row in alive.items()}
    credits[me] = mine
    share = max(mine, shares(demands, credits, spare)[me])
    missing = share - mine - max(0, spare - sum(credits.values()))
    targets = _unneeded(credits, demands, me, missing)
    missing -= sum(credits[host] - target for host, target in targets.items())
    _from_richest(credits, targets, me, mine, missing)
    if turn is not None and mine == 0 and not targets and share == 0 < wanted:
        return _turn(credits, me, turn)
    return Plan(share, targets)


def shares(demands: Mapping[str, int], credits: Mapping[str, int], spare: int) -> dict[str, int]:
    """Max-min fair shares of ``spare`` permits: nobody gets more than it wants, and what one does not want is shared
    among the others. Where whole permits do not divide, those that have more keep it: moving costs reconnects."""
    share, left = dict.fromkeys(demands, 0), spare
    hungry = sorted((host for host in demands if demands[host] > 0), key=lambda host: (demands[host], host))
    while hungry and left >= len(hungry):
        level = min(demands[hungry[0]] - share[hungry[0]], left // len(hungry))
        for host in hungry:
            share[host] += level
        left -= level * len(hungry)
        hungry = [host for host in hungry if share[host] < demands[host]]
    for host in sorted(hungry, key=lambda host: (-credits[host], host))[:left]:
        share[host] += 1
    return share


def _demand(row: Row) -> int:
    return max(row.report.in_use + row.report.waiting, row.report.wanted)


def _unneeded(credits: Mapping[str, int], demands: Mapping[str, int], me: str, most: int) -> dict[str, int]:
    """Take what hosts have and do not need, from the one with most of it first."""
    targets: dict[str, int] = {}
    for host in sorted(credits, key=lambda host: (demands[host] - credits[host], host)):
        extra = min(credits[host] - demands[host], most)
        if host != me and extra > 0:
            targets[host] = credits[host] - extra
            most -= extra
    return targets


def _from_richest(credits: Mapping[str, int], targets: dict[str, int], me: str, mine: int, most: int) -> None:
    """Take one at a time from the host that would have most, while it would have two more than the taker."""
    has = {host: targets.get(host, credit) for host, credit in credits.items() if host != me}
    taker = mine + sum(credits[host] - target for host, target in targets.items())
    while most > 0 and has:
        giver = max(has, key=lambda host: (has[host], host))
        if has[giver] < taker + STEP:
            return
        has[giver] -= 1
        targets[giver] = has[giver]
        taker, most = taker + 1, most - 1


def _turn(credits: Mapping[str, int], me: str, turn: float) -> Plan:
    single = sorted(host for host, credit in credits.items() if credit == 1 and host != me)
    if not single:
        return Plan(0, {})
    return Plan(1, {single[min(int(turn * len(single)), len(single) - 1)]: 0})
