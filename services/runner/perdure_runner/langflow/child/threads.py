"""Where agents keep their threads while somebody is asked. Checkpoints are not kept: the journal says more.

lfx keys a thread by the run alone, so two gated agents would overwrite each other: the component is added.
"""

from typing import Any

from lfx.graph.checkpoint.store import CheckpointStore, set_default_checkpoint_store

from perdure_runner.langflow.child.place import COMPONENT


class Threads(CheckpointStore):  # type: ignore[misc]  # lfx is not there when types are checked
    """The threads of one pass, by component and kind; `saved` begins with those that the job's log has."""

    def __init__(self, saved: dict[str, Any]) -> None:
        self._saved: dict[str, dict[str, str]] = {component: dict(kinds) for component, kinds in saved.items()}

    def of(self, component: str) -> dict[str, str] | None:
        """What the agent has saved, None where nothing is."""
        return self._saved.get(component)

    def install(self, graph: Any) -> None:
        """Have the graph pause, and everybody save here."""
        graph.checkpointing_enabled, graph.checkpoint_store = True, self
        set_default_checkpoint_store(self)  # where agents look

    async def save_blob(self, job_id: str, kind: str, blob: str) -> None:
        self._saved.setdefault(COMPONENT.get(), {})[kind] = blob

    async def load_blob(self, job_id: str, kind: str) -> str | None:
        return self._saved.get(COMPONENT.get(), {}).get(kind)

    async def save(self, checkpoint: Any) -> None:
        pass

    async def load(self, checkpoint_id: str) -> None:
        return None

    async def delete(self, checkpoint_id: str) -> None:
        pass

    async def load_by_run_id(self, run_id: str) -> None:
        return None

    async def list_by_session(self, session_id: str) -> list[Any]:
        return []
