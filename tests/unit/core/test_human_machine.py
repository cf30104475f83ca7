"""A request under everything that people and time do to it, against a small model that knows nothing of the code.

The model is told what is done and says what must come of it: `answered`, `voted`, `expired`, `again`, or the problem.
After every step the log folds and is judged, and whatever was refused has left nothing.
"""

from typing import Any, Final

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from perdure.core import codec, verify
from perdure.core import event as ev
from perdure.core.alarm import due
from perdure.core.instant import later
from perdure.core.machine import JobState, Settled, apply, fold, stamp
from perdure.core.request import Answer, Replayed, Standing, asked_in, decided_by_time, proposal_digest, settle
from perdure.core.restate import delegate, withdraw
from perdure.errors import Conflict, Expired, Forbidden, Invalid, NotFound
from perdure.ids import Principal, RequestId
from perdure.testing.factory import Story, event_id

PEOPLE: Final = ("ann", "bob", "carol", "dan", "eve")  # ann's job
GROUPS: Final = ("red", "blue")
ACTIONS: Final = ("approve", "hold", "reject")
OFFERED: Final = tuple(ev.Action(id=i) for i in ACTIONS)
VIA: Final = ev.Via(channel="api")
FORM: Final = {"type": "object", "properties": {"n": {"type": "number"}}, "additionalProperties": False}
SPELLINGS: Final = {1: (1, 1.0), 2: (2, 2.0), None: (None,)}
CAME_OF_IT: Final[dict[type, str]] = {
    ev.AnsweredData: "answered",
    ev.VotedData: "voted",
    ev.ExpiredData: "expired",
    ev.RequestedData: "restated",
    ev.WithdrawnData: "withdrawn",
}
people = st.sampled_from(PEOPLE)
Pool = tuple[frozenset[str], frozenset[str], bool]
named: st.SearchStrategy[Pool] = st.builds(
    lambda users: (frozenset(users), frozenset(), False), st.sets(people, min_size=1, max_size=4)
)
mixed = st.builds(
    lambda users, groups, anyone: (frozenset(users), frozenset(groups), anyone),
    st.sets(people, max_size=3),
    st.sets(st.sampled_from(GROUPS), max_size=1),
    st.booleans(),
).filter(any)
pools = named | named | mixed  # where all are named it is known when they can no longer agree


def assignees(pool: Pool) -> ev.Assignees:
    users, groups, anyone = pool
    return ev.Assignees(
        users=tuple(sorted(users)), groups=tuple(sorted(groups)), anyone_with="answer" if anyone else None
    )


class Model:
    """What the contract says, as plainly as it can be said. Users and contents are compared by name and value."""

    def __init__(self, asked: Pool, of: Pool | None, n: int | None, veto: bool, forbid_self: bool) -> None:
        self.asked, self.of, self.n, self.veto, self.forbid_self = asked, of, n, veto, forbid_self
        self.chain: list[tuple[float, Pool]] = []
        self.end: float | None = None
        self.now = 0.0
        self.shown = 0
        self.revision = 1
        self.gone: set[str] = set()  # handed on
        self.hops: dict[str, int] = {}
        self.last: dict[str, tuple[str, str]] = {}
        self.ballots: dict[int, dict[str, tuple[Any, ...]]] = {0: {}}
        self.outcome: tuple[str, tuple[Any, ...] | None] | None = None  # and what was decided
        self.members: dict[str, set[str]] = {name: set() for name in GROUPS}

    def among(self, pool: Pool, who: str) -> bool:
        users, groups, anyone = pool
        if who in users:
            return True
        return who not in self.gone and (anyone or any(who in self.members[g] for g in groups))

    def voter(self, who: str) -> bool:
        return self.among(self.asked if self.of is None else self.of, who)

    def pass_time(self) -> None:
        while self.outcome is None:
            first = self.chain[0][0] if self.chain else None
            if first is not None and first <= self.now and (self.end is None or first < self.end):
                more = self.chain.pop(0)[1]
                self.asked = (self.asked[0] | more[0], self.asked[1] | more[1], self.asked[2] or more[2])
                self.revision += 1
            elif self.end is not None and self.end <= self.now:
                self.outcome = ("expired", None)
            else:
                return

    def say(self, who: str, action: str, n: int | None, stale: bool, *, watcher: bool) -> str:
        self.pass_time()
        if not (self.among(self.asked, who) or (self.of is not None and self.among(self.of, who))):
            return "not-assignee" if watcher else "404"
        if self.forbid_self and who == "ann":
            return "self-answer-forbidden"
        vetoes = self.veto and action == "reject"
        if self.n is not None and not vetoes and not self.voter(who):
            return "not-assignee"
        content = (action, n)
        votes = self.ballots[self.shown]
        if self.outcome is not None:
            what, decided = self.outcome
            if what == "answered" and decided == content:
                return "again"
            if what != "withdrawn" and votes.get(who) == content:
                return "again"
            return {"answered": "already-answered", "withdrawn": "request-withdrawn"}.get(what, "request-expired")
        if who in votes:
            return "again" if votes[who] == content else "already-voted"
        if stale:
            return "proposal-changed"
        if action not in ACTIONS:
            return "invalid-answer"
        if self.n is None:
            self.outcome = ("answered", content)
            return "answered"
        votes[who] = content
        if vetoes or list(votes.values()).count(content) >= self.n:
            self.outcome = ("answered", content)
            return "answered"
        if not self.hope():
            self.outcome = ("expired", None)
            return "expired"
        return "voted"

    def hope(self) -> bool:
        """Whether the quorum can still be filled."""
        pools = [self.of] if self.of is not None else [self.asked, *(more for _, more in self.chain)]
        if any(groups or anyone or not users for users, groups, anyone in pools):
            return True
        votes = self.ballots[self.shown]
        everybody = set().union(*(pool[0] for pool in pools)) - ({"ann"} if self.forbid_self else set())
        contents = list(votes.values())
        best = max((contents.count(c) for c in contents), default=0)
        return best + len(everybody - set(votes)) >= (self.n or 0)

    def hand_on(self, by: str, to: str, *, watcher: bool) -> str:
        self.pass_time()
        if self.outcome is None and self.last.get(by) == (by, to):
            return "again"
        if not (self.among(self.asked, by) or (self.of is not None and self.among(self.of, by))):
            return "not-assignee" if watcher else "404"
        if self.forbid_self and by == "ann":
            return "self-answer-forbidden"
        if self.outcome is not None:
            names = {"answered": "already-answered", "withdrawn": "request-withdrawn"}
            return names.get(self.outcome[0], "request-expired")
        votes = self.ballots[self.shown]
        if by in votes and self.n is not None:
            return "already-voted"
        outside = self.of is not None and self.voter(by) and not self.voter(to)
        if by == to or (self.forbid_self and to == "ann") or outside or to in votes or self.hops.get(by, 0) >= 5:
            return "invalid-body"
        before = (self.asked, self.of, set(self.gone))
        self.asked = ((self.asked[0] - {by}) | {to}, self.asked[1], self.asked[2])
        if self.of is not None:
            self.of = (self.of[0] - {by}, self.of[1], self.of[2])
        self.gone = (self.gone | {by}) - {to}
        if self.n is not None and not self.hope():
            self.asked, self.of, self.gone = before
            return "invalid-body"
        self.hops[to] = self.hops.get(by, 0) + 1
        self.last[by] = self.last[to] = (by, to)
        self.revision += 1
        return "restated"


class Life(RuleBasedStateMachine):
    """One request of one job, the code beside the model."""

    @initialize(
        asked=pools,
        of=st.none() | pools,
        n=st.none() | st.integers(1, 3),
        veto=st.booleans(),
        forbid_self=st.booleans(),
        chain=st.lists(pools, max_size=2),
        end=st.none() | st.sampled_from([25.0, 60.0]),
    )
    def ask(
        self, asked: Pool, of: Pool | None, n: int | None, veto: bool, forbid_self: bool, chain: list[Pool], end: Any
    ) -> None:
        self.model = Model(asked, of if n is not None else None, n, veto and n is not None, forbid_self)
        self.model.chain = [(20.0 * (i + 1), pool) for i, pool in enumerate(chain)]
        self.model.end = end
        self.story = Story()
        self.story.submitted(deadline_seconds=1_000_000)
        self.story.started()
        self.asked = self.story.asked()
        request = self.story.state.asked[self.asked]
        self.begin = request.asked_at
        of_ = None if self.model.of is None else assignees(self.model.of)
        first = replace(
            request,
            actions=OFFERED,
            proposal=0,
            proposal_digest=proposal_digest(request.title, None, 0),
            response_schema=FORM,
            assignees=assignees(asked),
            forbid_self=forbid_self,
            quorum=None if n is None else ev.Quorum(n=n, of=of_, veto=("reject",) if self.model.veto else ()),
            escalations=tuple(ev.Escalation(after_seconds=s, add=assignees(p)) for s, p in self.model.chain),
            expires_at=None if end is None else later(self.begin, end),
            revision=2,
        )
        self.model.revision = 2
        self.story.add(ev.RequestedData(request=first), after_seconds=0.0)

    def standing(self, who: str, *, watcher: bool = False, editor: bool = False) -> Standing:
        rights = {"answer"} | ({"read"} if watcher else set()) | ({"edit"} if editor else set())
        groups = frozenset(group for group, members in self.model.members.items() if who in members)
        return Standing(Principal(f"user:{who}"), groups, frozenset(rights))

    def let_time_decide(self) -> None:
        """As whoever acts does first."""
        now = later(self.begin, self.model.now)
        while (data := decided_by_time(self.story.state, self.asked, now)) is not None:
            self.story.add(data, after_seconds=0.0)

    def outcome(self, act: Any) -> str:
        """What came of `act`, a function that says what to append. A refusal leaves the state as it was."""
        self.let_time_decide()
        before, length = self.story.state, len(self.story.events)
        try:
            data = act(asked_in(self.story.events, self.asked))
        except NotFound:
            return "404"
        except (Forbidden, Invalid, Conflict, Expired) as exc:
            assert (self.story.state, len(self.story.events)) == (before, length)
            return exc.code
        if data is None or isinstance(data, Settled | Replayed):
            return "again"
        self.story.add(data, after_seconds=0.0)
        return CAME_OF_IT[type(data)]

    @rule(
        who=people,
        action=st.sampled_from([*ACTIONS, "nonsense"]),
        n=st.sampled_from([1, 2, None]),
        spelling=st.integers(0, 1),
        stale=st.integers(0, 5).map(lambda k: k == 0),
        watcher=st.booleans(),
    )
    def say(self, who: str, action: str, n: int | None, spelling: int, stale: bool, watcher: bool) -> None:
        payload = {} if n is None else {"n": SPELLINGS[n][spelling % len(SPELLINGS[n])]}

        def act(request: ev.Request) -> Any:
            digest = "sha256:of-another-day" if stale else request.proposal_digest
            said = Answer(action=action, payload=payload, proposal_digest=digest)
            return settle(
                self.story.state, request, self.standing(who, watcher=watcher), VIA, said, later(self.begin, 1)
            )

        assert self.outcome(act) == self.model.say(who, action, n, stale, watcher=watcher)

    @rule(by=people, to=people, watcher=st.booleans())
    def hand_on(self, by: str, to: str, watcher: bool) -> None:
        def act(request: ev.Request) -> Any:
            who = self.standing(by, watcher=watcher)
            return delegate(self.story.state, request, who, self.standing(to), None, self.story.at)

        assert self.outcome(act) == self.model.hand_on(by, to, watcher=watcher)

    @rule(order=st.permutations(PEOPLE))
    def pass_it_round(self, order: list[str]) -> None:
        for by, to in zip(order, [*order[1:], order[0]], strict=True):
            self.hand_on(by, to, watcher=True)

    @rule(who=people, editor=st.integers(0, 3).map(lambda k: k == 0))
    def withdraw(self, who: str, editor: bool) -> None:
        def act(request: ev.Request) -> Any:
            return withdraw(self.story.state, request, self.standing(who, watcher=True, editor=editor), who)

        self.model.pass_time()
        expected = "withdrawn" if self.model.outcome is None else "request-expired"
        if self.model.outcome is not None and self.model.outcome[0] == "answered":
            expected = "already-answered"
        if self.model.outcome is not None and self.model.outcome[0] == "withdrawn":
            expected = "again" if self.model.outcome[1] == (who,) else "request-withdrawn"
        if not editor:
            expected = "forbidden"
        assert self.outcome(act) == expected
        if expected == "withdrawn":
            self.model.outcome = ("withdrawn", (who,))

    @rule(seconds=st.sampled_from([5.0, 10.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.model.now += seconds

    @rule()
    def look(self) -> None:
        """As an alarm makes somebody do: all that time has decided."""
        self.model.pass_time()
        while (data := due(self.story.state, later(self.begin, self.model.now))) is not None:
            self.story.add(data, after_seconds=0.0)

    @rule(who=people, group=st.sampled_from(GROUPS), joins=st.booleans())
    def join_or_leave(self, who: str, group: str, joins: bool) -> None:
        (self.model.members[group].add if joins else self.model.members[group].discard)(who)

    @precondition(lambda self: self.model.outcome is None and self.asked in self.story.state.asked)
    @rule()
    def propose_something_else(self) -> None:
        self.let_time_decide()
        self.model.pass_time()
        if (request := self.story.state.asked.get(self.asked)) is None:
            return
        self.model.shown += 1
        self.model.ballots[self.model.shown] = {}
        self.model.revision += 1
        changed = replace(
            request,
            revision=request.revision + 1,
            proposal=self.model.shown,
            proposal_digest=proposal_digest(request.title, None, self.model.shown),
        )
        self.story.add(ev.RequestedData(request=changed), after_seconds=0.0)

    @invariant()
    def the_log_says_what_the_model_says(self) -> None:
        if not hasattr(self, "story"):
            return
        state, model = self.story.state, self.model
        if self.asked in state.asked:
            votes = {
                vote.by.removeprefix("user:"): (vote.action, vote.payload.get("n"))
                for vote in state.votes.get(self.asked, ())
                if vote.proposal_digest == state.asked[self.asked].proposal_digest
            }
            assert votes == model.ballots[model.shown]
        else:
            data = state.settled[self.asked].data
            assert model.outcome is not None
            assert CAME_OF_IT[type(data)] == model.outcome[0]
            if isinstance(data, ev.AnsweredData):
                assert (data.action, data.payload.get("n")) == model.outcome[1]

    @invariant()
    def the_log_folds_and_is_judged_good(self) -> None:
        if not hasattr(self, "story"):
            return
        read = [codec.decode(codec.encode(event)) for event in self.story.events]
        assert fold(read) == self.story.state
        assert verify.log(self.story.events) == []


Life.TestCase.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase


# What is said of one request and of another does not depend on how the two were mixed.


def _two(asked: list[int]) -> tuple[Story, list[RequestId]]:
    story = Story()
    story.submitted()
    story.started()
    requests = [story.asked("a"), story.asked("b")]
    for request, n in zip(requests, asked, strict=True):
        stated = story.state.asked[request]
        story.add(ev.RequestedData(request=replace(stated, revision=2, actions=OFFERED, quorum=ev.Quorum(n=n))))
    return story, requests


def _put(state: JobState, data: ev.AnyData) -> JobState:
    return apply(state, stamp(state, event_id(state.seq + 1), "2026-01-01T01:00:00.000Z", data))  # type: ignore[arg-type]


@given(
    asked=st.lists(st.integers(1, 3), min_size=2, max_size=2),
    acts=st.lists(st.tuples(st.integers(0, 1), people, st.sampled_from(ACTIONS)), max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_any_order_of_the_same_events_of_two_requests_folds_alike(
    asked: list[int], acts: list[tuple[int, str, str]], order: Any
) -> None:
    story, requests = _two(asked)
    state = story.state
    queues: tuple[list[ev.AnyData], list[ev.AnyData]] = ([], [])
    everybody = frozenset({"execute", "answer", "read"})
    for which, name, action in acts:
        who = Standing(Principal(f"user:{name}"), frozenset(), everybody)
        request = state.asked.get(requests[which])
        try:
            data = settle(state, request, who, VIA, Answer(action=action), story.at)
        except (NotFound, Conflict):
            continue
        if not isinstance(data, Settled | Replayed):
            queues[which].append(data)
            state = _put(state, data)
    mixed, left = story.state, [list(queue) for queue in queues]
    while any(left):
        mixed = _put(mixed, order.choice([queue for queue in left if queue]).pop(0))

    def seen(job: JobState) -> Any:
        settled = {request: (s.request, s.data) for request, s in job.settled.items()}
        return job.asked, job.votes, settled, job.status, job.seq

    assert seen(mixed) == seen(state)
