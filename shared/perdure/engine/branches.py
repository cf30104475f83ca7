"""Branches: the coroutines of one pass, driven so that their moves can be counted, closed and cancelled in order.

Every branch is a task of its own around a driver that counts each `send`: what else could tell that a branch hangs on
a lock? A branch is parked while it waits in a context call, and active otherwise. Branches are *still* when none is
active, or when three turns of the loop moved none. `active` never dips on the way: whoever resumes a branch counts it
at once.
"""

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from perdure.engine.driving import Driven
from perdure.engine.scope import BRANCH, RUN, branch_here
from perdure.errors import Cancelled, Closed, ConcurrencyError, Suspended

if TYPE_CHECKING:
    from perdure.engine.calls import Call
    from perdure.engine.groups import Group

STILL_TURNS: Final = 3
MOST_TURNS: Final = 1_000_000
REFUSALS: Final = 3  # a branch that ignores the end of the pass: later calls never return
CLOSED_REFUSALS: Final = 100  # a closed one goes on living, but not for ever

_ADVICE: Final = {
    Suspended: "the job sleeps: let this leave the workflow; cleanup that acts on the world is a step after the wait",
    Closed: "this branch is closed: its group has failed",
}


class Told(Enum):
    """Whether a branch has heard of the job's cancel."""

    NOT = "not"
    DUE = "due"
    YES = "yes"


class Branch:
    """One sequential line of a workflow's code. `path` is its place in every key."""

    def __init__(
        self, owner: "Branches", path: str, coroutine: Coroutine[Any, Any, Any], group: "Group | None", told: Told
    ) -> None:
        self.owner = owner
        self.path = path
        self.driven = Driven(coroutine, owner.moved)
        self.group = group
        self.told = told
        self.task: asyncio.Task[None]  # set at once by Branches.start
        self.call: Call | None = None
        self.groups: list[Group] = []
        self.used: Counter[str] = Counter()  # name -> occurrences so far
        self.heard: Counter[str] = Counter()  # signal name -> how many of them this path has read
        self.positions: Counter[str] = Counter()  # channel -> code points so far
        self.closing: type[BaseException] | None = None
        self.refused = 0
        self.done = False
        self.value: Any = None  # what the coroutine returned
        self.error: BaseException | None = None

    def occurrence(self, name: str) -> int:
        """The number of this use of `name`, from 1."""
        self.used[name] += 1
        return self.used[name]


class Branches:
    """All branches of a pass, in the order in which they started."""

    def __init__(self, on_move: Callable[[], None] = lambda: None) -> None:
        self.by_path: dict[str, Branch] = {}
        self._open: dict[str, Branch] = {}  # those that have not ended, in the same order
        self._on_move = on_move
        self.active = 0
        self.moves = 0
        self.stirred = asyncio.Event()
        self.cancelling = False

    def __iter__(self) -> "Iterator[Branch]":
        """The branches that have not ended."""
        yield from list(self._open.values())

    @property
    def all_done(self) -> bool:
        """Whether every branch has ended."""
        return not self._open

    def parked(self) -> "list[Call]":
        """The calls that branches wait in, in the order in which they were made."""
        calls = [branch.call for branch in self._open.values() if branch.call is not None]
        if len(calls) > 1:
            calls.sort(key=lambda call: call.order)
        return calls

    def hanging(self) -> list[Branch]:
        """The branches that wait for something else than a context call."""
        return [branch for branch in self._open.values() if branch.call is None]

    def start(self, path: str, coroutine: Coroutine[Any, Any, Any], group: "Group | None", told: Told) -> Branch:
        """A new branch; its code runs from the next turn of the loop on, in the context of whoever starts it."""
        if path in self.by_path:
            raise ConcurrencyError(f"there is a branch {path} already: give each branch a path of its own, once")
        branch = Branch(self, path, coroutine, group, told)
        if group is not None:
            branch.heard.update(group.parent.heard)
        self.by_path[path] = self._open[path] = branch
        self.active += 1
        branch.task = asyncio.create_task(self._live(branch), name=f"perdure branch {path or '/'}")
        return branch

    async def _live(self, branch: Branch) -> None:
        BRANCH.set(branch)
        RUN.set(None)
        try:
            branch.value = await branch.driven.run()
        except BaseException as exc:  # noqa: BLE001  # no exception of user code reaches a task: it is the branch's result
            branch.error = exc
        branch.done = True
        del self._open[branch.path]
        for group in branch.groups:
            group.close(branch.closing or Closed)  # what it started and did not wait for
        if branch.group is not None:
            branch.group.ended(branch)  # may resume the parent: before this branch stops counting
        self.active -= 1
        self.moved()

    def moved(self) -> None:
        """Code of a branch has run."""
        self.moves += 1
        self.stirred.set()
        self._on_move()

    async def still(self) -> bool:
        """Until every branch waits in a context call, or hangs while STILL_TURNS turns of the loop moved none.

        False when that does not come within MOST_TURNS: counted, not timed, for other jobs may hold the loop up.
        """
        turns = 0
        for _ in range(MOST_TURNS):
            if not self.active or turns >= STILL_TURNS:
                return True
            before = self.moves
            await asyncio.sleep(0)
            turns = turns + 1 if before == self.moves else 0
        return False

    # ------------------------------------------------------------------------------------------ context calls

    async def enter(self) -> Branch:
        """The branch that makes a context call. Raises ConcurrencyError, and what the branch is ended with."""
        branch = branch_here(self)
        if branch.closing is not None:
            branch.refused += 1
            if branch.refused <= (CLOSED_REFUSALS if branch.closing is Closed else REFUSALS):
                raise _ending(branch.closing)
            await asyncio.get_running_loop().create_future()  # never; whoever closes the branch gives it up
        if branch.told is Told.DUE:
            branch.told = Told.YES
            raise Cancelled("the job is being cancelled")
        return branch

    async def wait(self, call: "Call") -> Any:
        """Park the branch until `call` is resolved."""
        branch = call.branch
        branch.call = call
        self.active -= 1
        try:
            return await call.future
        except asyncio.CancelledError as exc:
            if branch.call is call:  # nobody resolved it
                branch.call = None
                self.active += 1
                call.abandon()
            if branch.closing is not None or isinstance(exc, Closed):
                raise
            raise ConcurrencyError(
                f"{call} was cancelled from outside: limit a step with its timeout=, "
                "not with asyncio.timeout or wait_for around the call"
            ) from exc

    def resume(self, call: "Call", value: object = None, error: BaseException | None = None) -> None:
        """End the wait in `call` with a value or an error."""
        call.branch.call = None
        self.active += 1
        if call.future.done():  # cancelled from outside in the same turn: `wait` says so
            return
        if error is not None:
            call.future.set_exception(error)
        else:
            call.future.set_result(value)

    # ------------------------------------------------------------------------------------------ endings

    def close(self, branch: Branch, kind: type[BaseException]) -> None:
        """End `branch` with `kind`, where it waits and at each further call; what it started ends first."""
        if branch.done or branch.closing is kind:
            return
        branch.closing, branch.refused = kind, 0
        for group in branch.groups:
            group.close(kind)
        call = branch.call
        if call is None:
            self._throw(branch, _ending(kind))
        elif not call.holds_on():
            call.abandon()
            self.resume(call, error=_ending(kind))

    def close_all(self, kind: type[BaseException]) -> None:
        """End every branch with `kind`."""
        for branch in self:
            self.close(branch, kind)

    def cancel(self) -> None:
        """Tell every branch once that the job is being cancelled: where it waits, or at its next call."""
        self.cancelling = True
        for branch in self:
            if branch.closing is not None:
                continue
            branch.told = Told.DUE
            call = branch.call
            if call is not None and not call.holds_on():
                branch.told = Told.YES
                call.abandon()
                self.resume(call, error=Cancelled("the job is being cancelled"))

    def _throw(self, branch: Branch, error: BaseException) -> None:
        """Raise `error` where the branch hangs; one that has not begun raises it at its first step."""
        branch.driven.thrown = error
        if inspect.getcoroutinestate(branch.driven.coroutine) != inspect.CORO_CREATED:
            branch.task.cancel()


def _ending(kind: type[BaseException]) -> BaseException:
    return kind(_ADVICE.get(kind, "the attempt is over"))
