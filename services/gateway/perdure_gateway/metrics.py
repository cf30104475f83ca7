"""What the gateway counts: name, help and labels of each metric. No job, request, key or user is a label."""

from collections.abc import Callable
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

import perdure

MOST_FLOWS: Final = 200  # names that are shown as they are; the rest is `other`
OTHER: Final = "other"
FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One gateway's metrics, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "perdure_http_requests_total", "HTTP requests", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "perdure_http_request_seconds",
            "From the header of a request to the end of its answer, streams apart",
            ["route"],
            buckets=FAST,
            registry=registry,
        )
        self.submitted = Counter(
            "perdure_jobs_submitted_total", "Jobs accepted", ["flow", "surface"], registry=registry
        )
        self.submit_seconds = Histogram(
            "perdure_submit_seconds",
            "From the body of a submit to its place in the log",
            buckets=FAST,
            registry=registry,
        )
        self.streams = Gauge("perdure_streams_open", "Open streams and waits", ["kind"], registry=registry)
        self.frames = Counter("perdure_stream_frames_total", "Frames sent to readers", ["kind"], registry=registry)
        self.attach_seconds = Histogram(
            "perdure_stream_attach_seconds", "From the request to the replay", buckets=FAST, registry=registry
        )
        self.repairs = Counter("perdure_stream_repairs_total", "Holes that were healed", ["reason"], registry=registry)
        self.closed = Counter("perdure_stream_closed_total", "Streams that ended", ["reason"], registry=registry)
        self.answers = Counter("perdure_answers_total", "Answers of people", ["kind", "result"], registry=registry)
        self.replays = Counter("perdure_replays_total", "Replays asked for over NATS", ["result"], registry=registry)
        build = Gauge("perdure_build_info", "Version", ["service", "version"], registry=registry)
        build.labels("gateway", perdure.__version__).set(1)
        self._connected = Gauge("perdure_nats_connected", "Whether the broker is reached", registry=registry)
        self._offset = Gauge("perdure_clock_offset_seconds", "The broker's clock less the own one", registry=registry)
        self._flows: set[str] = set()

    def flow(self, name: str) -> str:
        """The label of a flow."""
        if name not in self._flows and len(self._flows) < MOST_FLOWS:
            self._flows.add(name)
        return name if name in self._flows else OTHER

    def ask(self, connected: Callable[[], bool], offset: Callable[[], float]) -> None:
        """What is asked for when somebody looks."""
        self._connected.set_function(lambda: float(connected()))
        self._offset.set_function(offset)

    def page(self) -> web.Response:
        """All of them, as Prometheus reads them."""
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": MEDIA_TYPE})
