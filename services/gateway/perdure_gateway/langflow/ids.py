"""UUIDs as Langflow's clients write them: any form that Python's `UUID` takes, ours is the canonical one."""

from uuid import UUID


def canonical(text: str) -> str | None:
    """The UUID in lower case with hyphens, None for what is none."""
    try:
        return str(UUID(text)) if len(text) <= 64 else None
    except ValueError:
        return None
