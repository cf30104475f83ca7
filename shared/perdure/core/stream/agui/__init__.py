"""The stream of AG-UI 1.0 (docs.ag-ui.com): a job as one run of a thread, for whoever attaches, and again and again."""

from perdure.core.stream.adapter import Attach
from perdure.core.stream.agui.run import Run
from perdure.errors import Forbidden


def opened(reader: Attach) -> Run:
    """The AG-UI adapter for `reader`. Raises Forbidden for one who may see no values: there is nothing else in it."""
    if not reader.values:
        raise Forbidden("the key's scopes do not show values, and an AG-UI stream has nothing else")
    return Run(reader)
