"""What the calls of one pass work with: the port, the branches, the journal, threads for synchronous steps."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.core.event import AnyData, AnyEvent, JobSubmitted, SubmittedData, UserValue
from perdure.core.journal import Journal
from perdure.core.key import Key
from perdure.core.machine import JobState, may_follow
from perdure.engine.branches import Branches
from perdure.engine.live import Live
from perdure.engine.port import Port
from perdure.engine.threads import Threads
from perdure.errors import BrokenLog
from perdure.ids import RequestId

if TYPE_CHECKING:
    from perdure.engine.askcall import AskCall
    from perdure.engine.calls import Call


class Bench:
    """Built inside the loop that runs the pass."""

    def __init__(self, port: Port, threads: Threads, on_move: Callable[[], None] = lambda: None) -> None:
        first = port.log[0] if port.log else None
        if not isinstance(first, JobSubmitted):
            raise BrokenLog(f"job {port.ref.job} has nothing to run: it was never submitted")
        self.port = port
        self.submitted: SubmittedData = first.data  # of the log, where the input is, be it a blob; the fold has the ref
        self.threads = threads
        self.journal = Journal(port.log)
        self.branches = Branches(on_move)
        self.live = Live(port, self.journal)
        self.abandoned: dict[Key, Call] = {}
        self.asks: dict[RequestId, AskCall] = {}
        self.outputs: set[str] = set()  # names of the outputs delivered so far
        self.signals: dict[str, list[UserValue]] = {}  # payloads delivered so far, by name
        self.halted = False

    async def append(self, decide: Callable[[JobState], AnyData | None], call: "Call | None" = None) -> AnyEvent | None:
        """Append what `decide` says, unless it no longer fits or the branch of `call` has stopped waiting for it.

        Raises what the port raises: Interrupted, TooLarge.
        """

        def fitting(job: JobState) -> AnyData | None:
            if call is not None and call.abandoned:
                return None
            data = decide(job)
            return data if data is not None and may_follow(job, data) else None

        return await self.port.append(fitting)
