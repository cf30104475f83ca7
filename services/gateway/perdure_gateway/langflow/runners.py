"""Whether anybody executes Langflow's flow files at all: a job that nobody will ever run is refused when it is sent."""

from typing import Final

from aiohttp import web

from perdure.core.langflow.refusal import RETRY, coded
from perdure.db import served
from perdure.db.langflows import KIND
from perdure.errors import Unavailable
from perdure.ids import Queue
from perdure_gateway.keys import SQL


class Served:
    """The queues of which it is known. What was true once stays true: runners come and go."""

    def __init__(self) -> None:
        self.known: set[Queue] = set()


SERVED: Final = web.AppKey("langflow_served", Served)


async def require(request: web.Request, queue: Queue) -> None:
    """Raise Refusal (503) when no runner of `queue` ever said that it executes such flows; while the database is away
    nobody is refused.
    """
    known = request.app[SERVED].known
    if queue in known:
        return
    try:
        async with request.app[SQL].reading() as conn:
            found = await served.ever(conn, queue, KIND)
    except Unavailable:
        return
    if not found:
        text = (
            f"No runner of the queue {queue} executes flow files of Langflow: install perdure[langflow] and start a "
            "runner with --langflow (PERDURE_LANGFLOW=true)."
        )
        raise coded(503, "Queue service unavailable", "QUEUE_SERVICE_UNAVAILABLE", text, RETRY)
    known.add(queue)
