"""The adapters of the application, by name: `app.py` makes them, handlers take them from the request's application."""

from typing import Final

from aiohttp import web

from perdure.bus.connection import Bus
from perdure.bus.fanout import Fanout
from perdure.clock import SystemChance
from perdure.jobs.desk import Desk
from perdure.seal import MasterKeys
from perdure.service import Service
from perdure_gateway.audits import Trail
from perdure_gateway.auth import Keys
from perdure_gateway.cors import Cors
from perdure_gateway.cursors import Cursors
from perdure_gateway.deleted import DeletedJobs
from perdure_gateway.flowheads import FlowHeads
from perdure_gateway.fullness import Fullness
from perdure_gateway.langflow.manner import Manner
from perdure_gateway.limits import Limits
from perdure_gateway.memberships import Memberships
from perdure_gateway.metrics import Metrics
from perdure_gateway.rates import Rates
from perdure_gateway.refusals import Refusals
from perdure_gateway.revoke import Revocations
from perdure_gateway.secrets import Secrets
from perdure_gateway.sql import Sql
from perdure_gateway.threads import Threads

BUS: Final = web.AppKey("bus", Bus)
DESK: Final = web.AppKey("desk", Desk)
FANOUT: Final = web.AppKey("fanout", Fanout)
SQL: Final = web.AppKey("sql", Sql)
KEYS: Final = web.AppKey("keys", Keys)
FLOWS: Final = web.AppKey("flows", FlowHeads)
DELETED: Final = web.AppKey("deleted", DeletedJobs)
REVOCATIONS: Final = web.AppKey("revocations", Revocations)
CURSORS: Final = web.AppKey("cursors", Cursors)
LIMITS: Final = web.AppKey("limits", Limits)
SERVICE: Final = web.AppKey("service", Service)
CORS: Final = web.AppKey("cors", Cors)
RATES: Final = web.AppKey("rates", Rates)
FULLNESS: Final = web.AppKey("fullness", Fullness)
METRICS: Final = web.AppKey("metrics", Metrics)
MEMBERSHIPS: Final = web.AppKey("memberships", Memberships)
TRAIL: Final = web.AppKey("trail", Trail)
REFUSALS: Final = web.AppKey("refusals", Refusals)
THREADS: Final = web.AppKey("threads", Threads)
SECRETS: Final = web.AppKey("secrets", Secrets)
MASTER_KEYS: Final = web.AppKey("master_keys", MasterKeys)
LANGFLOW: Final = web.AppKey("langflow", Manner)
CHANCE: Final = web.AppKey("chance", SystemChance)
