"""kube-proxy of one node: its health and metrics servers.

The lab loads the node's rules and sends the program a message after each sync.

10256, all addresses   `/healthz` `/livez`: whether kube-proxy runs and its rules are up to date;
                       `/healthz` also whether the node is eligible for load balancers' connections
10249, 127.0.0.1       `/metrics` `/proxyMode` `/healthz`
healthCheckNodePort    any path: whether the node has ready endpoints of the Service
Source: k8s.io/kubernetes pkg/proxy/healthcheck/{proxy_health.go,service_health.go},
cmd/kube-proxy/app/server.go (1.33).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from kubenetlab.api.containers import Container
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.lab import SYNC_PERIOD_S
from kubenetlab.hoststate.programs import ListenPort, ProgramOptions
from kubenetlab.programs import Ports, Setup
from kubenetlab.programs.kube_proxy_events import SyncEvent, SyncFailed
from kubenetlab.programs.kube_proxy_metrics import Metrics
from kubenetlab.programs.support.http import ProgramContext, Request, Response, text

HEALTH_PORT, METRICS_PORT = 10256, 10249
LOGS_REQUESTS: Final = False
NO_SNIFF: Final = {"X-Content-Type-Options": "nosniff"}


class ProxyState:
    """State of one run of kube-proxy."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.synced_at = 0.0
        """Time of the last successful sync in seconds since 1970."""
        self.failing_since: float | None = None
        """Time of the first failed sync since then."""
        self.options: ProgramOptions = {}


def initial_state() -> ProxyState:
    return ProxyState()


def configure(container: Container, ports: Ports) -> Setup:
    """Return the setup with kube-proxy's own ports.

    The lab adds the health check ports of Services to the options.
    """
    return Setup(
        "kube_proxy",
        {},
        (ListenPort("TCP", HEALTH_PORT), ListenPort("TCP", METRICS_PORT, "127.0.0.1")),
    )


def _state(context: ProgramContext) -> ProxyState:
    """Return the state that `initial_state` created."""
    assert isinstance(context.memory, ProxyState)
    return context.memory


def on_options(context: ProgramContext) -> None:
    """Log the changes of the options."""
    state = _state(context)
    before, state.options = state.options, context.options
    if before.get("mode") != context.options.get("mode"):
        context.log(f"Using {context.options.get('mode', 'no')} Proxier on node {context.node}")
    checks, old_checks = (
        {entry["port"]: entry for entry in options.get("checks", ())}
        for options in (context.options, before)
    )
    for port in old_checks.keys() - checks.keys():
        context.log(f"Closing health check of Service {_title(old_checks[port])} on port {port}")
    for port in checks.keys() - old_checks.keys():
        context.log(f"Opening health check of Service {_title(checks[port])} on port {port}")
    old_lines, lines = before.get("log", ()), context.options.get("log", ())
    for line in [line for line in lines if line not in old_lines]:
        context.log(line)
    if old_lines and not lines:
        context.log("Watching Services and EndpointSlices again")


def on_event(event: SyncEvent, context: ProgramContext) -> None:
    """Record the result of a sync of the node's rules, and log it."""
    state = _state(context)
    if isinstance(event, SyncFailed):
        state.failing_since = state.failing_since or context.now()
        state.metrics.failures += 1
        context.log(f"Sync failed, will be retried: {' '.join(event.error.split())}")
        return
    state.failing_since = None
    state.synced_at = event.at
    state.metrics.note_sync(event)
    services = _count(event.counts.services, "Service")
    counts = f"{services} with {_count(event.counts.endpoints, 'endpoint')}"
    if event.duration_ms is None:
        context.log(f"Rules in force: {counts}")
    else:
        context.log(f"Synced {counts} in {event.duration_ms:.3g} ms")


async def http(request: Request, context: ProgramContext) -> Response:
    if request.port == HEALTH_PORT:
        return _health(request, context)
    if request.port == METRICS_PORT:
        return _metrics(request, context)
    check = next(
        (entry for entry in context.options.get("checks", ()) if entry["port"] == request.port),
        None,
    )
    return _service_health(check, context) if check is not None else _not_found()


def is_healthy(context: ProgramContext) -> bool:
    """Return True while kube-proxy receives changes and can sync them.

    It becomes unhealthy when the lab reports so (`healthy`), or after two sync periods of failures.
    """
    failing = _state(context).failing_since
    is_stale = failing is not None and context.now() - failing > 2 * SYNC_PERIOD_S
    return bool(context.options.get("healthy", True)) and not is_stale


def _health(request: Request, context: ProgramContext) -> Response:
    if request.path not in ("/healthz", "/livez"):
        return _not_found()
    is_good, is_eligible = is_healthy(context), bool(context.options.get("eligible", True))
    now = context.now()
    body: dict[str, str | bool] = {
        "lastUpdated": _go_time(now if is_good else _state(context).synced_at),
        "currentTime": _go_time(now),
    }
    kind = request.path.removeprefix("/")
    if kind == "healthz":
        body["nodeEligible"] = is_eligible
        is_good = is_good and is_eligible
    code = 200 if is_good else 503
    _state(context).metrics.note_answer(kind, code)
    return _json(code, body)


def _metrics(request: Request, context: ProgramContext) -> Response:
    match request.path:
        case "/metrics":
            body = _state(context).metrics.text(
                context.options.get("families", ("IPv4",)), context.options.get("mode", "")
            )
            return Response(200, body.encode(), "text/plain; version=0.0.4; charset=utf-8")
        case "/proxyMode":
            return Response(200, str(context.options.get("mode", "")).encode(), headers=NO_SNIFF)
        case "/healthz":
            return Response(200, b"ok", headers=NO_SNIFF)
    return _not_found()


def _service_health(check: JsonMapping, context: ProgramContext) -> Response:
    count, is_good = check["endpoints"], is_healthy(context)
    body = {
        "service": {"namespace": check["namespace"], "name": check["name"]},
        "localEndpoints": count,
        "serviceProxyHealthy": is_good,
    }
    return _json(
        200 if count and is_good else 503, body, {"X-Load-Balancing-Endpoint-Weight": str(count)}
    )


def _json(code: int, body: JsonMapping, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        code, json.dumps(body).encode(), "application/json", {**NO_SNIFF, **(headers or {})}
    )


def _not_found() -> Response:
    return text("404 page not found\n", 404)


def _title(check: JsonMapping) -> str:
    return f"{check['namespace']}/{check['name']}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _go_time(seconds: float) -> str:
    """Return a time in the format of Go."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC")
