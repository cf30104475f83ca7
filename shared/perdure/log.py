"""Log lines: structlog, one line an event, JSON unless a terminal reads them, secrets out by the name of their key."""

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

SECRET: Final = re.compile(r"(password|passwd|secret|token|credential|authorization|cookie|api_?key|^key$|_key$)", re.I)
HIDDEN: Final = "[hidden]"
_DEPTH: Final = 6


def get(name: str) -> FilteringBoundLogger:
    """The logger of a module: `log = get(__name__)`. Fields go apart: `log.info("lease lost", job_id=…)`."""
    logger: FilteringBoundLogger = structlog.get_logger(_module=name)
    return logger


def redact(value: Any, depth: int = 0) -> Any:  # Any: fields of log lines are whatever their caller has
    """`value` with everything hidden whose key sounds like a secret."""
    if depth > _DEPTH:
        return HIDDEN
    if isinstance(value, dict):
        return {k: HIDDEN if _secret(str(k)) else redact(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(v, depth + 1) for v in value]
    return value


def _secret(name: str) -> bool:
    return SECRET.search(name) is not None


def _redact(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in line.items():
        line[name] = HIDDEN if _secret(name) else redact(value)
    return line


def configure(service: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Set up this process's log lines on `stream` (stderr). Lines of libraries (from WARNING on) go the same way."""
    stream = sys.stderr if stream is None else stream
    number = logging.getLevelNamesMapping()[level.upper()]

    def named(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if module := line.pop("_module", None):
            line["logger"] = module
        line.setdefault("service", service)
        line.setdefault("pid", os.getpid())
        return line

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        named,
        _redact,
    ]
    terminal = stream.isatty()
    last: list[Processor] = (
        # not rich's tracebacks, which show what every variable held: keys and values of users too
        [structlog.dev.ConsoleRenderer(timestamp_key="ts", exception_formatter=structlog.dev.plain_traceback)]
        if terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[*shared, structlog.processors.StackInfoRenderer(), *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))
