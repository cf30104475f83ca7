"""Whether what flows of Langflow need is installed: it is an extra."""

import importlib.metadata
import importlib.util
from typing import Final

NEEDED: Final = ("lfx", "langchain_openai")


def missing() -> str | None:
    """What has to be installed before flows of Langflow can run here; None when nothing has."""
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        return "flows of Langflow need the extra: pip install 'perdure[langflow]'"
    found = importlib.metadata.version("lfx")
    if not found.startswith("1.13."):
        return f"flows of Langflow need lfx 1.13, this is {found}: pip install 'perdure[langflow]'"
    return None
