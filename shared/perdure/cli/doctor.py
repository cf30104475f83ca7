"""`perdure doctor`: examines a system and says what is wrong with it; the examination itself is the sweeper's."""

import asyncio
import importlib
import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from perdure import log as logs
from perdure.cli.session import Exit, Printer
from perdure.cli.values import instant_of
from perdure.clock import SystemClock
from perdure.config import DATA_FOLDER, SweeperSettings
from perdure.errors import Fault, Invalid
from perdure.ids import is_token, is_uuid
from perdure.local.folder import read_operator


def doctor(
    *,
    job: Annotated[str | None, Parameter(help="This job alone.")] = None,
    tenant: Annotated[str | None, Parameter(help="Whose job it is, where no row says it.")] = None,
    since: Annotated[str | None, Parameter(help="Only jobs that something happened to since then (RFC 3339).")] = None,
    repair: Annotated[
        bool, Parameter(negative="", help="Ring, arm, declare, make rows anew, quarantine. Never writes a log.")
    ] = False,
    rebuild: Annotated[bool, Parameter(negative="", help="Make the whole projection anew first.")] = False,
    json: Annotated[bool, Parameter(negative="", help="One JSON document.")] = False,
    data: Annotated[Path, Parameter(help="The data folder of `perdure up` on this machine.")] = Path(DATA_FOLDER),
    nats: Annotated[str | None, Parameter(help="Addresses of the broker, with commas [PERDURE_NATS].")] = None,
    database: Annotated[str | None, Parameter(help="SQLAlchemy URL of the database [PERDURE_DATABASE].")] = None,
) -> int:
    """Examine configuration, streams, every log, its row, its doorbells and alarms, blobs and archive.

    Reads only, at a bounded rate, on a system that goes on working. Exit 1 when something is wrong. Broker and database
    are those of flags and environment, else of the `perdure up` that runs in the data folder.
    """
    logs.configure("doctor", os.environ.get("PERDURE_LOG_LEVEL") or "warning")
    printer = Printer(json)
    settings = _settings(data, nats, database)
    examination: Any = importlib.import_module("perdure_sweeper.doctor.examination")  # Any: no service is imported
    wish = examination.Wish(
        job=_checked("--job", job, is_uuid, "a job's id"),
        tenant=_checked("--tenant", tenant, is_token, "a tenant"),
        since=instant_of("--since", since),
        repair=repair,
        rebuild=rebuild,
        data=data if data.is_dir() else None,
    )
    report = asyncio.run(examination.examination(settings, wish, SystemClock()))
    said = {"healthy": not report.findings, "findings": report.findings, "looked": report.looked}
    printer.result(said, lambda: "\n".join(map(str, report.findings)) or "nothing is wrong")
    looked = ", ".join(f"{number} {what}" for what, number in sorted(report.looked.items()))
    printer.hint(f"looked at {looked or 'nothing'}; findings: {len(report.findings)}")
    return Exit.FAILED if report.findings else Exit.DONE


def _settings(data: Path, nats: str | None, database: str | None) -> SweeperSettings:
    """Flags, else environment, else the folder of an `up`."""
    flags: dict[str, object] = {"nats": nats, "database": database}
    told = read_operator(data)
    if told is not None and nats is None and not os.environ.get("PERDURE_NATS"):
        flags |= {"nats": told.nats, "nats_user": told.nats_user, "nats_password": told.nats_password}
        if database is None and not os.environ.get("PERDURE_DATABASE"):
            flags["database"] = told.database
    return SweeperSettings.load(**flags)


def _checked(flag: str, text: str | None, fits: Any, what: str) -> str | None:  # Any: a check of `ids`
    if text is not None and not fits(text):
        raise Invalid([Fault("invalid-value", f"must be {what}", parameter=flag)])
    return text
