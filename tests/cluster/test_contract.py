"""The engine's contract, on the three engines."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mppool.cluster.contract import EPOCH, FREE, SEQ, Report, Ring, Row, State, check_host
from mppool.cluster.memory import MemoryEngine
from tests.cluster.engines import LEASE, MAX, Budget, Says, ready

if TYPE_CHECKING:
    from mppool.cluster.contract import Answer, Engine

# -- epochs and learning -------------------------------------------------------------------------------------


def test_before_the_first_exchange_there_is_no_epoch(budget: Budget) -> None:
    state = budget.engine().read()
    assert (state.epoch, state.rows) == ("", {})


def test_the_first_exchange_begins_an_epoch_and_is_refused(budget: Budget) -> None:
    engine = budget.engine()
    answer = engine.exchange(Says(engine, "a").request(3, 2))
    assert answer.epoch
    assert answer._replace(epoch="") == (EPOCH, "", True, MAX, LEASE, MAX, 0, 0, 0)
    assert engine.read() == State(answer.epoch, True, MAX, LEASE, 0, {})


def test_while_learning_hosts_keep_what_they_declare_and_get_no_more(budget: Budget) -> None:
    engine = budget.engine()
    a, b = Says(engine, "a"), Says(engine, "b")
    assert a.says(3, 5)[5:] == (MAX - 3, 3, 1, 2)
    assert b.says(4, 5)[5:] == (MAX - 7, 4, 2, 2)
    assert [a.says(2, 5).credit, a.says(3, 5).credit] == [2, 2]


def test_learning_ends_once_and_books_what_was_counted(budget: Budget) -> None:
    engine = budget.engine()
    a = Says(engine, "a")
    a.says(3)
    state = engine.read()
    assert not engine.learned("other", state.number, {"x": 9})
    assert engine.learned(state.epoch, state.number, {"x": 4, "y": 0, "a": 7})
    assert not engine.learned(state.epoch, state.number, {"z": 1})
    rows = engine.read().rows
    assert rows == {"a": Row(1, 2, 3, False, Report()), "x": Row(0, 0, 4, True, Report())}
    assert a.says(3, 9).credit == MAX - 4


def test_learning_does_not_end_if_a_host_has_declared_since_the_read(budget: Budget) -> None:
    engine = budget.engine()
    Says(engine, "a").says()
    state = engine.read()
    b = Says(engine, "b")
    b.says(2)
    assert not engine.learned(state.epoch, state.number, {"b": 1})
    state = engine.read()
    b.says(1)  # no declaration
    assert engine.learned(state.epoch, state.number, {})


@pytest.mark.parametrize("how", ["lose", "restart"])
def test_when_data_are_lost_or_of_another_run_an_epoch_begins(budget: Budget, how: str) -> None:
    a, b = ready(budget, "a", "b")
    a.says(0, 4)
    b.says(0, 5)
    before = a.engine.read()
    a.engine.close()
    getattr(budget, how)()
    engine = a.engine = b.engine = budget.engine()
    assert engine.read()[0] == ""
    assert not engine.bury(before.epoch, "a", before.rows["a"].number, 0)
    assert not engine.learned(before.epoch, before.number, {})
    answer = engine.exchange(a.request(4))
    assert (answer.refused, answer.learning, answer.free) == (EPOCH, True, MAX)
    assert answer.epoch not in ("", before.epoch)
    assert engine.read().rows == {}
    assert (a.says(4, 2).credit, b.says(5, 2).credit) == (4, 5)


def test_a_request_of_another_epoch_changes_nothing(budget: Budget) -> None:
    a, b = ready(budget, "a", "b")
    a.says(0, 4)
    before = a.engine.read()
    answer = a.says(1, 0, epoch="other")
    assert (answer.refused, answer.epoch, answer.credit, answer.seq) == (EPOCH, a.epoch, 0, before.rows["a"].seq)
    assert b.says(0, 0, epoch="", resize=True, max_size=1).refused == EPOCH
    assert a.engine.read() == before


# -- exchange ------------------------------------------------------------------------------------------------


def test_what_is_free_is_given_as_far_as_it_goes(budget: Budget) -> None:
    a, b = ready(budget, "a", "b")
    assert a.says(0, 7)[5:7] == (3, 7)
    assert b.says(0, 7)[5:7] == (0, 3)
    assert b.says(3, 7)[5:7] == (0, 3)


def test_what_is_not_kept_is_free(budget: Budget) -> None:
    a, b = ready(budget, "a", "b")
    a.says(0, 7)
    assert a.says(2)[5:7] == (8, 2)
    assert b.says(0, 9)[5:7] == (0, 8)


def test_keep_and_ask_in_one(budget: Budget) -> None:
    (a,) = ready(budget, "a")
    a.says(0, 5)
    assert a.says(2, 4).credit == 6


def test_an_old_seq_changes_nothing_and_is_told_the_last_one(budget: Budget) -> None:
    (a,) = ready(budget, "a")
    a.says(0, 5, seq=7)
    before = a.engine.read()
    for seq in (7, 6, 1):
        answer = a.says(0, 2, seq=seq, resize=True, max_size=99)
        assert (answer.refused, answer.credit, answer.number, answer.seq) == (SEQ, 0, 0, 7)
    assert a.engine.read() == before
    assert a.says(5, 1, seq=8).credit == 6


def test_large_seqs_are_exact(budget: Budget) -> None:
    (a,) = ready(budget, "a")
    big = 1 << 52
    assert a.says(0, 1, seq=big).seq == big
    assert a.says(0, 1, seq=big).refused == SEQ
    assert a.says(1, 1, seq=big + 1).credit == 2
    assert a.engine.read().rows["a"].seq == big + 1


def test_a_host_without_a_row_keeps_what_is_free(budget: Budget) -> None:
    a, b = ready(budget, "a", "b")
    a.says(0, 8)
    b.engine.bury(b.epoch, "b", b.engine.read().rows["b"].number, 0)
    assert b.says(5, 5)[5:7] == (0, 2)


def test_the_report_is_kept(budget: Budget) -> None:
    (a,) = ready(budget, "a")
    a.says(0, 1, report=Report(1, 2, 3))
    assert a.engine.read().rows["a"].report == Report(1, 2, 3)


def test_a_resize_up_and_down(budget: Budget) -> None:
    a, b = ready(budget, "a", "b")
    a.says(0, 6)
    answer = b.says(0, 99, resize=True, max_size=20)
    assert (answer.max_size, answer.free, answer.credit) == (20, 0, 14)
    answer = a.says(6, 1, resize=True, max_size=5)
    assert (answer.max_size, answer.free, answer.credit) == (5, -15, 6)
    assert b.says(1, 5)[3:7] == (5, LEASE, -2, 1)
    assert a.says(4, 9)[5:7] == (0, 4)
    assert a.says(4, 9, max_size=99).max_size == 5  # only an explicit resize does it


# -- bury and leave ------------------------------------------------------------------------------------------


def test_a_row_comes_down_to_the_count_and_its_host_may_come_back(budget: Budget) -> None:
    a, b = ready(budget, "a", "b")
    a.says(0, 7)
    number = b.engine.read().rows["a"].number
    assert b.engine.bury(a.epoch, "a", number, 9)
    assert b.engine.read().rows["a"][2:4] == (7, True)
    assert b.engine.bury(a.epoch, "a", number, 4)
    assert b.engine.read().rows["a"][:4] == (number, a.seq, 4, True)
    assert b.says(0, 9).credit == 6
    assert a.says(4, 2).credit == 4
    assert not a.engine.read().rows["a"].ghost


def test_a_count_of_0_ends_the_row(budget: Budget) -> None:
    a, b = ready(budget, "a", "b")
    a.says(0, 7)
    assert b.engine.bury(a.epoch, "a", b.engine.read().rows["a"].number, 0)
    assert set(b.engine.read().rows) == {"b"}
    assert b.says(0, 99).credit == MAX


def test_nobody_is_buried_who_has_exchanged_since(budget: Budget) -> None:
    a, b = ready(budget, "a", "b")
    a.says(0, 7)
    number = b.engine.read().rows["a"].number
    a.says(7)
    before = b.engine.read()
    assert not b.engine.bury(a.epoch, "a", number, 0)
    assert not b.engine.bury("other", "a", before.rows["a"].number, 0)
    assert not b.engine.bury(a.epoch, "nobody", number, 0)
    assert b.engine.read() == before


def test_no_number_is_used_twice_even_by_a_host_that_left(budget: Budget) -> None:
    a, b = ready(budget, "a", "b")
    seen = set()
    for _ in range(3):
        for host in (a, b):
            number = host.says(0, 1).number
            assert number not in seen
            seen.add(number)
        assert a.engine.bury(a.epoch, "a", a.engine.read().rows["a"].number, 0)


def test_nobody_is_buried_while_learning(budget: Budget) -> None:
    engine = budget.engine()
    a = Says(engine, "a")
    number = a.says(3).number
    assert not engine.bury(a.epoch, "a", number, 0)


# -- rings ---------------------------------------------------------------------------------------------------


def heard(listener: object, count: int) -> list[Ring]:
    found: list[Ring] = []
    deadline = time.monotonic() + 10
    while len(found) < count and time.monotonic() < deadline:
        found += listener.heard(1.0)  # type: ignore[attr-defined]
    return found


def test_rings_come_to_whom_they_are_for_in_order(budget: Budget) -> None:
    giver, taker = budget.engine(), budget.engine()
    at_b, at_c = giver.listen("b"), giver.listen("c")
    taker.ring("a", {"b": 3, "nobody": 1})
    taker.ring("a", {"b": FREE, "c": 0})
    assert heard(at_b, 2) == [Ring("a", 3), Ring("a", FREE)]
    assert heard(at_c, 1) == [Ring("a", 0)]
    assert at_b.fileno() >= 0
    assert at_b.heard() == []
    at_b.close()
    at_c.close()


def test_rings_and_calls_over_the_same_engine(budget: Budget) -> None:
    a, b = ready(budget, "a", "b")
    listener = a.engine.listen("a")
    other = budget.engine()
    for target in range(5):
        other.ring("b", {"a": target})
        assert a.says(0, 1).credit == 1
        assert b.says(0, 0).credit == 0
    assert [ring.target for ring in heard(listener, 5)] == list(range(5))
    listener.close()


@pytest.mark.parametrize("host", ["", "a b", "a,b", 'a"', "a}", "x" * 65, "a\n"])
def test_what_is_no_hosts_name_is_refused(budget: Budget, host: str) -> None:
    engine = budget.engine()
    with pytest.raises(ValueError, match="must be 1 to 64"):
        check_host(host)
    with pytest.raises(ValueError, match="must be 1 to 64"):
        engine.exchange(Says(engine, host).request())
    with pytest.raises(ValueError, match="must be 1 to 64"):
        engine.learned("e", 0, {host: 1})
    with pytest.raises(ValueError, match="must be 1 to 64"):
        engine.ring("a", {host: 1})


# -- all together --------------------------------------------------------------------------------------------


def alike(epochs: dict[str, int], answer: Answer | State) -> object:
    """The same for the same, whatever the epochs are called."""
    return answer._replace(epoch=str(epochs.setdefault(answer.epoch, len(epochs))))


@pytest.mark.parametrize("seed", range(3))
def test_a_long_random_walk_is_answered_as_the_reference_does(budget: Budget, seed: int) -> None:
    chance = random.Random(seed)
    reference = MemoryEngine()
    engines: list[Engine] = [reference, budget.engine()]
    hosts = [[Says(engine, name) for name in "abc"] for engine in engines]
    epochs: list[dict[str, int]] = [{}, {}]
    for _ in range(150):
        what, which = (
            chance.choice(["exchange"] * 6 + ["bury", "bury", "learned", "learned", "lose"]),
            chance.randrange(3),
        )
        keep, ask, more = chance.randrange(6), chance.randrange(6), {}
        if chance.random() < 0.1:
            more = {"resize": True, "max_size": chance.randrange(4, 15)}
        if chance.random() < 0.1:
            more["seq"] = chance.randrange(9)
        count, old, ghost = chance.randrange(4), chance.random() < 0.2, chance.choice("abcd")
        if what == "lose":
            if chance.random() < 0.3:
                reference.lose()
                budget.lose()
            continue
        results: list[object] = []
        for engine, group, names in zip(engines, hosts, epochs, strict=True):
            state = engine.read()
            results.append(alike(names, state))
            row = state.rows.get("abc"[which])
            if what == "exchange":
                results.append(alike(names, group[which].says(keep, ask, report=Report(keep, ask, count), **more)))
            elif what == "bury":
                results.append(engine.bury(state.epoch, "abc"[which], row.number - old if row else 1, count))
            else:
                results.append(engine.learned(state.epoch, max(0, state.number - 2 * old), {ghost: count}))
            results.append(alike(names, engine.read()))
        half = len(results) // 2
        assert results[half:] == results[:half]


def test_many_hosts_at_once_never_have_more_than_there_is(budget: Budget) -> None:
    """Each thread writes down what it surely has, before it keeps less and after it got more."""
    names = [f"h{place}" for place in range(6)]
    ready(budget, *names)
    has, lock, worst, failures = dict.fromkeys(names, 0), threading.Lock(), [0], []

    def note(name: str, credit: int) -> None:
        with lock:
            has[name] = credit
            worst[0] = max(worst[0], sum(has.values()))

    def life(name: str) -> None:
        try:
            chance, host = random.Random(name), Says(budget.engine(), name)
            host.epoch, host.seq = host.engine.read().epoch, 10
            for _ in range(60):
                keep = chance.randrange(has[name] + 1)
                note(name, keep)
                answer = host.says(keep, chance.randrange(5))
                assert answer.refused == ""
                assert answer.credit >= keep
                note(name, answer.credit)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=life, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert MAX // 2 < worst[0] <= MAX
    state = budget.engine().read()
    assert {name: row.credit for name, row in state.rows.items()} == has
    free = Says(budget.engine(), "new").says(epoch=state.epoch).free
    assert free == MAX - sum(has.values())


def test_two_that_begin_at_once_begin_one_epoch(budget: Budget) -> None:
    engines = [budget.engine() for _ in range(5)]
    for engine in engines:
        engine.read()
    found: list[str] = []
    gate = threading.Barrier(len(engines))

    def begin(engine: Engine, host: str) -> None:
        gate.wait()
        found.append(engine.exchange(Says(engine, host).request()).epoch)

    threads = [threading.Thread(target=begin, args=(each, f"h{place}")) for place, each in enumerate(engines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(engines)
    assert set(found) == {engines[0].read().epoch}
