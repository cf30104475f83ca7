"""Groups: branches that one branch started and waits for. `gather` is one, the nodes of a graph are another.

A group fails like a TaskGroup: the first branch that fails closes the others, and when all have ended its error is
raised in the parent. While the job is being cancelled nothing is closed: the group waits for all, then the parent is
told too.
"""

from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from perdure.core.key import branch_path
from perdure.engine.branches import Branch, Told
from perdure.engine.calls import Call
from perdure.errors import Cancelled, Closed

if TYPE_CHECKING:
    from perdure.engine.bench import Bench


class GroupCall(Call):
    """The parent's wait for its group. It resolves when branches end, never by an event of its own."""

    def __init__(self, bench: "Bench", branch: Branch, group: "Group") -> None:
        super().__init__(bench, branch, None)
        self._group = group

    def __str__(self) -> str:
        return "gather"

    def holds_on(self) -> bool:
        return self._group.running > 0


class Group:
    """Branches under one parent."""

    def __init__(self, bench: "Bench", parent: Branch) -> None:
        self._bench = bench
        self.parent = parent
        self._call: GroupCall | None = None
        self._failed: Branch | None = None
        self.branches: list[Branch] = []
        self.running = 0
        parent.groups.append(self)

    def _start(self, path: str, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.branches.append(self._bench.branches.start(path, coroutine, self, self.parent.told))
        self.running += 1

    def close(self, kind: type[BaseException]) -> None:
        """End every branch that still runs."""
        for branch in self.branches:
            self._bench.branches.close(branch, kind)

    def ended(self, branch: Branch) -> None:
        """One of the group's branches has ended."""
        self.running -= 1
        if self._fails(branch) and self._failed is None:
            self._failed = branch
            if not self._waits_for_all():
                self.close(Closed)
        call = self._call
        if call is not None and self._over():
            self._call = None
            error = self._error()
            self._bench.branches.resume(call, None if error else self._result(), error)

    async def _wait(self) -> Any:  # the branches' values
        """The group's result, or the error that its parent gets, once there is one."""
        if self._over():
            if (error := self._error()) is not None:
                raise error
            return self._result()
        self._call = GroupCall(self._bench, self.parent, self)
        try:
            return await self._bench.branches.wait(self._call)
        finally:
            self._call = None
            for branch in self.branches:
                if branch.done:
                    self.parent.heard |= branch.heard  # the highest of each name

    def _error(self) -> BaseException | None:
        parent = self.parent
        if parent.closing is not None:
            return parent.closing("the group of this branch is closed")
        if parent.told is Told.DUE:
            parent.told = Told.YES
            return Cancelled("the job is being cancelled")
        return self._failed.error if self._failed is not None else None

    def _fails(self, branch: Branch) -> bool:
        return branch.error is not None and branch.closing is None

    def _waits_for_all(self) -> bool:
        return self._bench.branches.cancelling

    def _over(self) -> bool:
        return self.running == 0

    def _result(self) -> Any:
        raise NotImplementedError


class Gather(Group):
    """`ctx.gather`: a fixed number of branches, all of which are waited for."""

    def __init__(
        self, bench: "Bench", parent: Branch, coroutines: tuple[Coroutine[Any, Any, Any], ...], return_exceptions: bool
    ) -> None:
        super().__init__(bench, parent)
        self._return_exceptions = return_exceptions
        number = len(parent.groups)
        for i, coroutine in enumerate(coroutines, 1):
            self._start(branch_path(parent.path, number, i), coroutine)

    async def results(self) -> list[Any]:
        """What the branches returned, in the order of the arguments."""
        found: list[Any] = await self._wait()
        return found

    def _fails(self, branch: Branch) -> bool:
        returned = self._return_exceptions and isinstance(branch.error, Exception)
        return super()._fails(branch) and not returned

    def _waits_for_all(self) -> bool:
        return self._return_exceptions or super()._waits_for_all()

    def _result(self) -> list[Any]:
        return [b.value if b.error is None else b.error for b in self.branches]


class Race(Group):
    """`ctx.race`: the first branch that ends decides, the others are closed."""

    def __init__(self, bench: "Bench", parent: Branch, coroutines: tuple[Coroutine[Any, Any, Any], ...]) -> None:
        super().__init__(bench, parent)
        self._first: Branch | None = None
        number = len(parent.groups)
        for i, coroutine in enumerate(coroutines, 1):
            self._start(branch_path(parent.path, number, i), coroutine)

    async def winner(self) -> tuple[int, Any]:
        """The place among the arguments (from 0) of the first that ended, and its value; its error is raised."""
        found: tuple[int, Any] = await self._wait()
        return found

    def ended(self, branch: Branch) -> None:
        if self._first is None and branch.closing is None:
            self._first = branch
            if not self._waits_for_all():
                self.close(Closed)
        super().ended(branch)

    def _fails(self, branch: Branch) -> bool:
        return super()._fails(branch) and branch is self._first

    def _waits_for_all(self) -> bool:
        return self.parent.told is Told.DUE  # a race of the cleanup itself is one like any other

    def _result(self) -> tuple[int, Any]:
        first = self._first
        assert first is not None, "a race ends when a branch has"
        return self.branches.index(first), first.value


class NodeGroup(Group):
    """Branches with paths of their own, started as others end: what a graph's scheduler works with."""

    def __init__(self, bench: "Bench", parent: Branch) -> None:
        super().__init__(bench, parent)
        self._ended: deque[Branch] = deque()

    def start(self, path: str, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Start a branch under exactly this path, which no other branch of the job may have."""
        if self.parent.closing is not None:
            coroutine.close()
            raise self.parent.closing("the group of this branch is closed")
        self._start(path, coroutine)

    async def next_ended(self) -> tuple[str, Any]:
        """Path and value of the next branch that ended, in the order of ending.

        Raises the error of the first branch that failed, when the others are closed and have ended too. Raises
        RuntimeError when nothing runs and everything that ended has been told.
        """
        if not self._ended and not self.running:
            raise RuntimeError("no branch of this group is running")
        found: tuple[str, Any] = await self._wait()
        return found

    def ended(self, branch: Branch) -> None:
        self._ended.append(branch)
        super().ended(branch)

    def _over(self) -> bool:
        failing = self._failed is not None or self.parent.told is Told.DUE or self.parent.closing is not None
        return self.running == 0 or (bool(self._ended) and not failing)

    def _result(self) -> tuple[str, Any]:
        branch = self._ended.popleft()
        return branch.path, branch.value
