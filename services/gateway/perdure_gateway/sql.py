"""SQL within bounds: a database that takes connections and answers nothing must not hold a caller for longer."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.errors import Unavailable
from perdure_gateway.keys import DATABASE

SECONDS: Final = 5.0


@asynccontextmanager
async def reading(request: web.Request) -> AsyncGenerator[AsyncConnection]:
    """A connection for reading. Raises Unavailable, also when the block takes longer than SECONDS."""
    try:
        async with asyncio.timeout(SECONDS), request.app[DATABASE].read() as conn:
            yield conn
    except TimeoutError as exc:
        raise Unavailable("the database does not answer") from exc


@asynccontextmanager
async def writing(request: web.Request) -> AsyncGenerator[AsyncConnection]:
    """A transaction. Raises Unavailable, also when the block takes longer than SECONDS: it may have been committed."""
    try:
        async with asyncio.timeout(SECONDS), request.app[DATABASE].transaction() as conn:
            yield conn
    except TimeoutError as exc:
        raise Unavailable("the database does not answer") from exc
