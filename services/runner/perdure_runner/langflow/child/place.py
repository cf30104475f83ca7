"""Which component runs: set for each, and seen by all that it calls, threads of its own included."""

import contextvars
from typing import Final

COMPONENT: Final = contextvars.ContextVar("component", default="")
