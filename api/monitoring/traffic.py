"""How each request is counted and timed: ASGI middleware around the application, inside its envelope."""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
# From what an answer out of memory takes to where a client gives up.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BOUNDS = [*map(str, _BUCKETS), "+Inf"]
_NO_ROUTE = "none"  # what stands for all paths behind which there is nothing: a stranger may ask for any


class _Series:
    """The answers of one route to one method."""

    def __init__(self) -> None:
        self.by_status: Counter[int] = Counter()
        self.by_bucket = [0] * len(_BOUNDS)
        self.seconds = 0.0


class Traffic(Collector):
    """Requests by route, method and status, and the seconds until each answer began.

    It is on every request's way: counted from the one thread of the event loop, without the locks of the library's own
    counters, it takes a tenth of their time.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Count from now on."""
        self._series: dict[tuple[str, str], _Series] = {}
        registry.register(self)

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer that began after so many seconds."""
        series = self._series.get((route, method))
        if series is None:
            series = self._series[route, method] = _Series()
        series.by_status[status] += 1
        series.by_bucket[bisect_left(_BUCKETS, seconds)] += 1
        series.seconds += seconds

    def describe(self) -> Iterable[CounterMetricFamily | HistogramMetricFamily]:
        """Return what is told, without numbers."""
        return self._families()

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """Yield all that was counted."""
        answers, times = self._families()
        for (route, method), series in self._series.items():
            for status, count in series.by_status.items():
                answers.add_metric([route, method, str(status)], count)
            buckets = list(zip(_BOUNDS, accumulate(series.by_bucket), strict=True))
            times.add_metric([route, method], buckets, series.seconds)
        yield from (answers, times)

    def _families(self) -> tuple[CounterMetricFamily, HistogramMetricFamily]:
        return (
            CounterMetricFamily(
                "trainyard_http_requests",
                "Answers of this process, by the path of their route.",
                labels=["route", "method", "status"],
            ),
            HistogramMetricFamily(
                "trainyard_http_request_seconds",
                "Seconds until an answer began, the wait that a request asks for included.",
                labels=["route", "method"],
            ),
        )


class Counted:
    """Middleware that counts what passes through it; within the envelope a HEAD is a GET."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        """Wrap an application."""
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._traffic.count(_route_of(scope), method, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, send_counted)


def _route_of(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", _NO_ROUTE))
