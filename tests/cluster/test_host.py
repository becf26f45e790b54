"""The host machine: what it sends and when, by hand; and a few of them together in any order, walked."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mppool.cluster.contract import FREE, SEQ, Answer, Report, Request, Ring
from mppool.cluster.ghosts import DRIFT, SLACK
from mppool.cluster.holding import Holding
from mppool.cluster.host import HELD, LEASE, LOOK, Host, Judgement, Read, Rings
from mppool.cluster.memory import Store

MAX = 6
WAIT = LEASE * DRIFT + SLACK


class Fleet:
    """Hosts, the store and one clock. A host's steps are done at once unless a test does them itself."""

    def __init__(self, max_size: int = MAX) -> None:
        self.now, self.max_size, self.store = 1000.0, max_size, Store()
        self.epochs = 0
        self.hosts: dict[str, Host] = {}

    def add(self, name: str, max_size: int | None = None, **more: int) -> Host:
        host = self.hosts[name] = Host(name, max_size or self.max_size, lambda: 0.5, **more)
        return host

    def exchange(self, request: Request) -> Answer:
        self.epochs += 1
        return self.store.exchange(request, "", f"e{self.epochs}")

    def run(self, *hosts: Host) -> list[Judgement]:
        """Do all that is to be done now; the judgements that were asked for."""
        found = []
        for _ in range(60):
            idle = True
            for host in hosts or tuple(self.hosts.values()):
                step = host.next(self.now)
                idle = idle and step is None
                if isinstance(step, Request):
                    host.answered(step.seq, self.exchange(step), self.now)
                elif isinstance(step, Read):
                    judgement = host.saw(self.store.read(""), self.now)
                    found += [judgement] if judgement else []
                elif isinstance(step, Rings):
                    for name, target in step.targets.items():
                        if name in self.hosts:
                            self.hosts[name].rung(Ring(host.name, target), self.now)
            if idle:
                return found
        raise AssertionError("the hosts do not come to rest")

    def learn(self) -> None:
        self.run()
        self.store.learned(self.store.epoch, self.store.number, {}, "")
        self.pass_(LEASE / 3 * 1.1)

    def hold(self, host: Host, used: int) -> None:
        """A host gets so many and opens them."""
        use(host, host.holding.used, used - host.holding.used, self.now)
        self.run()
        assert host.holding.cap == used
        use(host, used, 0, self.now)

    def pass_(self, seconds: float) -> list[Judgement]:
        """Time passes; all do what is due."""
        end, found = self.now + seconds, []
        while self.now < end:
            self.now = min(end, self.now + 0.05)
            found += self.run()
        return found


def use(host: Host, used: int, waiting: int, now: float) -> None:
    host.report(used, Report(used, waiting, used + waiting), now)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


# -- the lease -----------------------------------------------------------------------------------------------


def test_a_new_host_learns_the_epoch_and_then_declares(fleet: Fleet) -> None:
    host = fleet.add("a", used=2)
    first = host.next(fleet.now)
    assert isinstance(first, Request)
    assert (first.epoch, first.keep, first.ask) == ("", 2, 0)
    assert host.next(fleet.now) is None  # one at a time
    host.answered(first.seq, fleet.exchange(first), fleet.now)
    second = host.next(fleet.now)
    assert isinstance(second, Request)
    assert (second.epoch, second.keep) == ("e1", 2)
    assert not host.holding.leased(fleet.now)
    host.answered(second.seq, fleet.exchange(second), fleet.now + 1)
    assert host.holding.until == fleet.now + LEASE  # from when it was sent
    assert (host.holding.cap, host.holding.learning) == (2, True)


def test_an_answer_that_comes_after_the_lease_does_not_renew(fleet: Fleet) -> None:
    host = fleet.add("a")
    fleet.learn()
    use(host, 0, 3, fleet.now)
    request = host.next(fleet.now)
    assert isinstance(request, Request)
    assert request.ask == 3
    late = fleet.now + LEASE
    host.answered(request.seq, fleet.exchange(request), late)
    assert (host.holding.leased(late), host.holding.cap) == (False, 0)
    assert fleet.store.rows["a"].credit == 3  # until the next exchange says that it keeps less


def test_an_answer_to_a_request_that_was_given_up_is_ignored(fleet: Fleet) -> None:
    host = fleet.add("a")
    fleet.learn()
    use(host, 0, 3, fleet.now)
    request = host.next(fleet.now)
    assert isinstance(request, Request)
    host.failed(request.seq, fleet.now)
    until = host.holding.until
    host.answered(request.seq, fleet.exchange(request), fleet.now)
    assert (host.holding.cap, host.holding.until) == (0, until)


def test_an_answer_to_another_request_than_the_last_is_ignored() -> None:
    holding, store = Holding(), Store()
    seqs = [holding.send(0, 1, 5.0)[0] for _ in range(2)]
    answer = store.exchange(Request("a", "", seqs[0], 0, 1, Report(), MAX, LEASE), "", "e")
    assert not holding.answered(seqs[0], answer, 5.0)
    assert (holding.epoch, holding.sent) == ("", (seqs[1], 5.0))


def test_the_cap_is_lowered_before_less_is_kept(fleet: Fleet) -> None:
    host = fleet.add("a")
    fleet.learn()
    fleet.hold(host, 4)
    use(host, 1, 1, fleet.now)
    host.rung(Ring("b", 2), fleet.now)
    request = host.next(fleet.now)
    assert isinstance(request, Request)
    assert (request.keep, host.holding.cap) == (2, 2)
    use(host, 2, 3, fleet.now)
    assert host.holding.cap == 2


def test_a_lapsed_host_only_shrinks(fleet: Fleet) -> None:
    host = fleet.add("a")
    fleet.learn()
    fleet.hold(host, 4)
    use(host, 4, 2, fleet.now)
    fleet.run()
    assert host.holding.cap == 6
    end = host.holding.until
    assert host.wake_at(fleet.now) <= end
    use(host, 4, 2, end - 0.01)
    assert host.holding.cap == 6
    for used, cap in ((4, 4), (2, 2), (3, 2), (0, 0), (5, 0)):
        use(host, used, 1, end)
        assert host.holding.cap == cap


def test_a_stale_seq_is_overtaken(fleet: Fleet) -> None:
    host = fleet.add("a")
    fleet.learn()
    fleet.store.rows["a"] = fleet.store.rows["a"]._replace(seq=500)
    host.resize(MAX)
    request = host.next(fleet.now)
    assert isinstance(request, Request)
    answer = fleet.exchange(request)
    assert answer.refused == SEQ
    host.answered(request.seq, answer, fleet.now)
    fleet.run()
    assert fleet.store.rows["a"].seq == 501


# -- moments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_it_renews_every_third_of_a_lease_with_jitter(fleet: Fleet, chance: float) -> None:
    host = fleet.add("a")
    fleet.learn()
    host._chance = lambda: chance
    host.resize(MAX)
    sent = fleet.now
    fleet.run()
    pause = LEASE / 3 * (0.9 + 0.2 * chance)
    fleet.now = sent + pause - 0.001
    assert not isinstance(host.next(fleet.now), Request)
    assert isinstance(host.next(sent + pause), Request)


def test_failures_back_off_to_ten_seconds(fleet: Fleet) -> None:
    host = fleet.add("a")
    pauses = []
    for _ in range(9):
        request = host.next(fleet.now)
        assert isinstance(request, Request)
        host.failed(request.seq, fleet.now)
        pauses.append(host.wake_at(fleet.now) - fleet.now)
        assert host.next(fleet.now + pauses[-1] - 0.001) is None
        fleet.now += pauses[-1]
    assert pauses[0] == pytest.approx(0.3)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(7.5)


def test_what_was_not_needed_since_the_last_renewal_is_given_back(fleet: Fleet) -> None:
    host = fleet.add("a")
    fleet.learn()
    fleet.hold(host, 5)
    use(host, 1, 0, fleet.now)
    fleet.run()
    assert fleet.store.rows["a"].credit == 5
    fleet.pass_(LEASE)
    assert fleet.store.rows["a"].credit == 1


# -- demand --------------------------------------------------------------------------------------------------


def test_what_is_free_comes_at_once(fleet: Fleet) -> None:
    host = fleet.add("a")
    fleet.learn()
    use(host, 0, 4, fleet.now)
    fleet.run()
    assert host.holding.cap == 4


def test_a_permit_moves_by_rings_alone(fleet: Fleet) -> None:
    """No time passes: who is short reads, plans and rings; the giver gives back and rings; the taker has it."""
    a, b = fleet.add("a"), fleet.add("b")
    fleet.learn()
    fleet.hold(a, 6)
    use(b, 0, 6, fleet.now)
    fleet.run()
    assert (a.holding.cap, a.target(fleet.now), b.holding.cap) == (6, 3, 0)
    for used in (5, 4, 3):
        use(a, used, 0, fleet.now)
        fleet.run()
        assert (a.holding.cap, b.holding.cap) == (used, 6 - used)
    use(a, 2, 0, fleet.now)
    fleet.run()
    fleet.pass_(LOOK)  # b reads, and wishes
    fleet.pass_(LOOK)  # what a does not need has come free, and b reads that its share has grown
    assert (a.holding.cap, b.holding.cap) == (2, 4)  # it is remembered that b waits: what a does not need goes on


def test_an_asker_gets_what_it_wishes_and_idle_connections_beyond_that_stay(fleet: Fleet) -> None:
    a, b = fleet.add("a"), fleet.add("b")
    fleet.learn()
    fleet.hold(a, 6)
    a.report(6, Report(0, 0, 0), fleet.now)  # all of them lie idle, which its row does not say yet
    use(b, 0, 1, fleet.now)
    fleet.run()
    assert a.target(fleet.now) == 5
    a.rung(Ring("c", FREE - 2), fleet.now)
    assert a.target(fleet.now) == 4
    a.report(6, Report(5, 0, 0), fleet.now)
    a.rung(Ring("d", FREE - 3), fleet.now)
    fleet.now += HELD
    assert a.target(fleet.now) == 5, "a wish takes nothing that is in use"


def test_a_host_that_was_content_asks_at_once(fleet: Fleet) -> None:
    """Although it had asked in vain a moment ago, and was to wait then."""
    a, b = fleet.add("a"), fleet.add("b")
    fleet.learn()
    fleet.hold(a, 6)
    use(b, 0, 1, fleet.now)
    fleet.pass_(1.0)
    use(b, 0, 0, fleet.now)
    fleet.run()
    a.report(3, Report(3, 0, 0), fleet.now)
    fleet.pass_(0.05)
    use(b, 0, 2, fleet.now)
    fleet.run()
    assert b.holding.cap == 2


def test_a_target_ends_and_a_short_host_does_not_ask_back_at_once(fleet: Fleet) -> None:
    a = fleet.add("a")
    fleet.learn()
    fleet.hold(a, 6)
    use(a, 3, 3, fleet.now)
    a.rung(Ring("b", 3), fleet.now)
    fleet.run()
    assert (a.holding.cap, fleet.store.free) == (3, 3)
    fleet.pass_(HELD + 0.1)
    assert a.holding.cap == 6


def test_a_lost_ring_is_made_up_for_by_asking_now_and_then(fleet: Fleet) -> None:
    a, b = fleet.add("a"), fleet.add("b")
    fleet.learn()
    fleet.hold(a, 6)
    use(b, 0, 1, fleet.now)
    fleet.run()
    del fleet.hosts["b"]  # a's rings are lost
    use(a, 5, 0, fleet.now)
    fleet.run(a)
    fleet.hosts["b"] = b
    assert b.holding.cap == 0
    fleet.pass_(1.1)
    assert b.holding.cap == 1


def test_a_ring_for_nobody_short_does_nothing(fleet: Fleet) -> None:
    a = fleet.add("a")
    fleet.learn()
    before = fleet.store.number
    a.rung(Ring("b", FREE), fleet.now)
    fleet.run()
    assert fleet.store.number == before


def test_more_hungry_hosts_than_permits_all_get_their_turn() -> None:
    fleet = Fleet(max_size=2)
    hosts = [fleet.add(name) for name in "abcd"]
    chance = random.Random(7)
    for host in hosts:
        host._chance = chance.random
    fleet.learn()
    had: set[str] = set()
    for _ in range(400):
        for host in hosts:
            used = min(1, host.target(fleet.now))
            use(host, min(used, host.holding.cap), 1, fleet.now)
            had |= {host.name} if used else set()
        fleet.pass_(0.05)
        assert sum(host.holding.cap for host in hosts) <= 2
    assert had == set("abcd")


# -- size ----------------------------------------------------------------------------------------------------


def test_another_size_than_the_budgets_is_a_mismatch_until_it_is_resized(fleet: Fleet) -> None:
    fleet.add("a")
    fleet.learn()
    b = fleet.add("b", max_size=9)
    fleet.run()
    use(b, 0, 5, fleet.now)
    fleet.run()
    assert (b.mismatch, b.holding.cap, fleet.store.max_size) == (MAX, 0, MAX)
    b.resize(9)
    fleet.run()
    assert (b.mismatch, b.holding.cap, fleet.store.max_size) == (None, 5, 9)
    fleet.pass_(LEASE)
    assert fleet.hosts["a"].max_size == 9


def test_a_resize_goes_on_until_it_is_answered(fleet: Fleet) -> None:
    a = fleet.add("a")
    fleet.learn()
    a.resize(3)
    request = a.next(fleet.now)
    assert isinstance(request, Request)
    assert (request.resize, request.max_size) == (True, 3)
    a.failed(request.seq, fleet.now)
    fleet.pass_(1)
    assert fleet.store.max_size == 3
    before = fleet.store.number
    fleet.run()
    assert fleet.store.number == before


# -- ghosts --------------------------------------------------------------------------------------------------


def test_a_gone_host_is_judged_after_its_lease_as_seen_here(fleet: Fleet) -> None:
    a, b = fleet.add("a"), fleet.add("b")
    fleet.learn()
    fleet.hold(b, 4)
    fleet.pass_(LEASE / 2)  # a has read b's row
    assert "b" in a.ghosts.known()
    del fleet.hosts["b"]
    gone = fleet.now
    assert fleet.pass_(WAIT - LEASE / 2) == []
    (judgement, *_) = fleet.pass_(LEASE)
    assert fleet.now - gone <= 2 * LEASE + SLACK
    (suspect,) = judgement.suspects
    assert (suspect.host, suspect.credit) == ("b", 4)
    assert fleet.store.bury(suspect.epoch, "b", suspect.number, 1, "")
    use(a, 0, 6, fleet.now)
    a.judged(judgement.state, True, fleet.now)
    (again, *_) = fleet.run()  # until it is 0
    assert a.holding.cap == 5
    assert again.suspects[0].credit == 1


def test_one_that_is_gone_is_judged_as_soon_among_many() -> None:
    """The first by name look at each renewal, however many there are."""
    fleet = Fleet(100)
    names = [f"host-{number:02}" for number in range(60)]
    for name in names:
        fleet.add(name)
    fleet.learn()
    fleet.hold(fleet.hosts[names[30]], 4)
    fleet.pass_(LEASE)
    del fleet.hosts[names[30]]
    gone = fleet.now
    while not (found := fleet.pass_(LEASE / 3)):
        assert fleet.now - gone <= 2 * LEASE + SLACK
    assert found[0].suspects[0].host == names[30]


def test_one_judgement_at_a_time_and_none_without_a_lease(fleet: Fleet) -> None:
    a = fleet.add("a")
    fleet.add("b")
    fleet.learn()
    fleet.pass_(LEASE)
    del fleet.hosts["b"]
    assert len(fleet.pass_(3 * LEASE)) == 1
    a.judged(fleet.store.read(""), False, fleet.now)
    state = fleet.store.read("")
    assert a.saw(state, a.holding.until) is None
    assert a.saw(state, fleet.now) is not None


def test_learning_ends_after_all_leases_of_before(fleet: Fleet) -> None:
    a = fleet.add("a", used=1)
    assert fleet.pass_(WAIT - 0.1) == []
    use(a, 1, 3, fleet.now)
    (judgement,) = fleet.pass_(LEASE / 2)
    assert judgement.learning
    assert judgement.suspects == []
    assert a.holding.cap == 1
    assert fleet.store.learned(judgement.state.epoch, judgement.state.number, {"x": 3}, "")
    a.judged(judgement.state, True, fleet.now)
    fleet.run()
    assert a.holding.cap == 3


def test_learning_is_not_put_off_by_another_agent_of_the_same_host(fleet: Fleet) -> None:
    a = fleet.add("a")
    fleet.run()
    assert a.ghosts.learning is not None
    epoch, since = a.ghosts.learning
    fleet.pass_(WAIT - 1.0)
    again = fleet.hosts["a"] = Host("a", MAX, lambda: 0.5, seq=a.holding.seq + 1)
    again.ghosts.go_on(epoch, since)
    assert any(judgement.learning for judgement in fleet.pass_(LEASE / 3))
    assert again.ghosts.learning == (epoch, since)


def test_after_lost_data_a_host_keeps_what_is_open_and_gets_no_more(fleet: Fleet) -> None:
    a = fleet.add("a")
    fleet.learn()
    fleet.hold(a, 3)
    use(a, 3, 2, fleet.now)
    fleet.run()
    assert a.holding.cap == 5
    fleet.store = Store()
    fleet.pass_(LEASE / 2)
    assert (a.holding.cap, a.holding.learning, fleet.store.rows["a"].credit) == (3, True, 3)


# -- all together --------------------------------------------------------------------------------------------


class Walk(RuleBasedStateMachine):
    """Hosts with demand that comes and goes, requests and answers that are late or lost, clocks that differ by up to
    1 %, rings lost, data lost, hosts killed; the judge counts what is open."""

    NAMES = ("a", "b", "c")

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now, self.store, self.epochs = 100.0, Store(), 0
        self.hosts: dict[str, Host] = {}
        self.used: dict[str, int] = {}
        self.wanted: dict[str, int] = {}
        self.late: list[Request] = []
        self.verdicts: list[tuple[str, Judgement, dict[str, int]]] = []
        for name in self.NAMES:
            self.add(name)

    def clock(self, name: str) -> float:
        return self.now * {"a": 1.0, "b": 1.004, "c": 0.996}[name[0]]

    def add(self, name: str) -> None:
        self.hosts[name] = Host(name, MAX, self.chance.random)
        self.used[name] = self.wanted[name] = 0

    def report(self, name: str) -> None:
        used, wanted = self.used[name], self.wanted[name]
        use(self.hosts[name], used, max(0, wanted - used), self.clock(name))

    def step(self, name: str, luck: float) -> bool:
        host, now = self.hosts[name], self.clock(name)
        step = host.next(now)
        if isinstance(step, Request):
            if luck < 0.1:
                self.late.append(step)
                host.failed(step.seq, now)
            else:
                self.epochs += 1
                answer = self.store.exchange(step, "", f"e{self.epochs}")
                if luck < 0.2:
                    host.failed(step.seq, now)
                else:
                    host.answered(step.seq, answer, now)
        elif isinstance(step, Read):
            judgement = host.saw(self.store.read(""), now)
            if judgement:
                self.verdicts.append((name, judgement, dict(self.used)))
        elif isinstance(step, Rings):
            for other, target in step.targets.items():
                if other in self.hosts and luck > 0.3:
                    self.hosts[other].rung(Ring(name, target), self.clock(other))
        return step is not None

    @rule(name=st.sampled_from(NAMES), wanted=st.integers(0, MAX))
    def want(self, name: str, wanted: int) -> None:
        if name in self.hosts:
            self.wanted[name] = wanted
            self.report(name)

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.05, 0.5, 2.0, 3.5, 11.0]), luck=st.lists(st.floats(0, 1), max_size=12))
    def go_on(self, seconds: float, luck: list[float]) -> None:
        self.now += seconds
        for name in list(self.hosts):
            self.report(name)
            for each in [*luck, 1.0]:
                if not self.step(name, each):
                    break
            self.open_and_close(name)

    def open_and_close(self, name: str) -> None:
        """As the local books do: up to the cap while there is a lease; down to the target."""
        host, now = self.hosts[name], self.clock(name)
        goal = min(self.wanted[name], host.target(now))
        if host.holding.leased(now) and self.used[name] < goal:
            assert goal <= host.holding.cap
            self.used[name] = goal
        elif self.used[name] > goal:
            self.used[name] -= 1
        self.report(name)

    @precondition(lambda self: self.late)
    @rule()
    def a_late_request_is_executed(self) -> None:
        self.epochs += 1
        self.store.exchange(self.late.pop(0), "", f"e{self.epochs}")

    @precondition(lambda self: self.verdicts)
    @rule()
    def judge(self) -> None:
        name, judgement, counted = self.verdicts.pop(0)
        state, freed = judgement.state, False
        if judgement.learning:
            ghosts = {host: count for host, count in counted.items() if host not in state.rows}
            freed = self.store.learned(state.epoch, state.number, ghosts, "")
        for each in judgement.suspects:
            freed |= self.store.bury(each.epoch, each.host, each.number, counted.get(each.host, 0), "")
        if name in self.hosts:
            self.hosts[name].judged(state, freed, self.clock(name))

    @rule(name=st.sampled_from(NAMES))
    def kill(self, name: str) -> None:
        """Its connections close later; an incarnation of another name takes its place."""
        if name in self.hosts:
            del self.hosts[name]
            self.late.append(Request(name, self.store.epoch, 10**6, 2, 1, Report(), MAX, LEASE))
            self.add(f"{name}{len(self.used)}")

    @rule()
    def connections_of_the_dead_close(self) -> None:
        for name in self.used:
            if name not in self.hosts:
                self.used[name] = max(0, self.used[name] - 1)

    @rule()
    def lose(self) -> None:
        self.store = Store()

    @invariant()
    def never_more_is_open_than_there_is(self) -> None:
        if hasattr(self, "used"):
            assert sum(self.used.values()) <= MAX

    @invariant()
    def a_cap_without_a_lease_is_what_is_open(self) -> None:
        for name, host in getattr(self, "hosts", {}).items():
            host.holding.look(self.clock(name))
            if not host.holding.leased(self.clock(name)):
                assert host.holding.cap <= host.holding.used

    def teardown(self) -> None:
        """All come back: the dead's connections close, and after some leases the living have all that they want."""
        if not hasattr(self, "used"):
            return
        self.late = []
        first = next(iter(self.hosts))
        for name in self.used:
            if name not in self.hosts:
                self.used[name] = 0
        for name in self.hosts:
            self.wanted[name] = MAX if name == first else 0
        for _ in range(200):
            self.go_on(0.5, [1.0] * 12)
            while self.verdicts:
                self.judge()
            self.never_more_is_open_than_there_is()
        assert self.used[first] == MAX, (self.used, self.store.rows)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
