"""What operators do straight to SQL, as `migrate` does, or to the broker: which ones these are."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure import log as logs
from perdure.config import MigrateSettings, NatsSettings
from perdure.db.engine import open_database
from perdure.local.folder import read_operator

Database = Annotated[
    str | None, Parameter(help="SQLAlchemy URL of the database [PERDURE_DATABASE, else that of `perdure up`].")
]


def database_url(data: Path, database: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """The database by flag, else environment, else the `perdure up` of the data folder. Raises Invalid."""
    told = read_operator(data)
    if database is None and not environ.get("PERDURE_DATABASE") and told is not None:
        database = told.database
    return MigrateSettings.load(environ, database=database).database


def broker(data: Path, nats: str | None, environ: Mapping[str, str] = os.environ) -> NatsSettings:
    """The broker by flag, else environment, else the `perdure up` of the data folder. Raises Invalid."""
    flags: dict[str, object] = {"nats": nats}
    told = read_operator(data)
    if told is not None and nats is None and not environ.get("PERDURE_NATS"):
        flags |= {"nats": told.nats, "nats_user": told.nats_user, "nats_password": told.nats_password}
    return NatsSettings.load(environ, **flags)


@asynccontextmanager
async def transaction(data: Path, database: str | None) -> AsyncIterator[AsyncConnection]:
    """A transaction in that database. Raises Invalid, Unavailable."""
    logs.configure("operator", os.environ.get("PERDURE_LOG_LEVEL") or "warning")
    async with open_database(database_url(data, database)) as opened, opened.transaction() as conn:
        yield conn
