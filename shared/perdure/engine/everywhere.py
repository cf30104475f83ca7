"""What works everywhere: in the body of a workflow, and inside a step from any task and any thread.

Threads carry it when they carry the step's context variables, as `asyncio.to_thread` does.
"""

from typing import Any

from perdure.engine.bench import Bench
from perdure.engine.scope import branch_here, run_here
from perdure.engine.values import plain
from perdure.errors import ConcurrencyError
from perdure.ids import JobId, Principal, effect_key


class Everywhere:
    """The part of a context that starts nothing and waits for nothing."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def delta(self, text: str, channel: str = "m-1") -> None:
        """Show text as it comes (tokens). `channel` tells messages apart that one step writes side by side."""
        self._bench.live.text(self._where(), text, channel)

    def log(self, text: str, level: str = "info", **fields: Any) -> None:  # any JSON
        """Show a line to whoever follows the job."""
        self._bench.live.log(self._where(), text, level, fields)

    @property
    def idempotency_key(self) -> str:
        """Inside a step: a UUID that names its effect, the same at each try. Send it to the outside world."""
        run = run_here(self._bench.branches)
        if run is None:
            raise ConcurrencyError("idempotency_key is the key of a step: read it inside the step's function")
        return effect_key(self._bench.submitted.effect_root or self.job_id, *run.key)

    @property
    def cancelled(self) -> bool:
        """Whether the job is being cancelled; inside a step also whether nobody waits for the step any more."""
        run = run_here(self._bench.branches)
        return self._bench.branches.cancelling or (run is not None and run.call.abandoned)

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1. It differs from pass to pass: decide nothing by it."""
        return self._bench.port.job.attempt

    @property
    def job_id(self) -> JobId:
        """The job's id."""
        return self._bench.port.ref.job

    @property
    def owner(self) -> Principal:
        """Whose job it is."""
        return self._bench.submitted.owner

    @property
    def session_id(self) -> str | None:
        """The conversation that the job belongs to, as it was submitted."""
        return self._bench.submitted.session_id

    @property
    def input(self) -> Any:  # any JSON
        """The job's input as it was submitted."""
        return plain(self._bench.submitted.input)

    def _where(self) -> Any:  # Branch | Run
        return run_here(self._bench.branches) or branch_here(self._bench.branches)
