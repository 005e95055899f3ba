"""kube-proxy of one node: what it answers about itself. Its rules are loaded for it, and it is told of each sync.

10256, all addresses   `/healthz` `/livez`: is it there, are its rules those of the moment, does its node take in load balancers' connections
10249, 127.0.0.1       `/metrics` `/proxyMode` `/healthz`
healthCheckNodePort    any path: has this node ready endpoints of the Service
Source: k8s.io/kubernetes pkg/proxy/healthcheck/{proxy_health.go,service_health.go}, cmd/kube-proxy/app/server.go (1.33).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from kubenetlab.api.containers import Container
from kubenetlab.api.lab import SYNC_PERIOD_S
from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.programs import Ports, Setup
from kubenetlab.programs.http import PodIdentity, Request, Response, text
from kubenetlab.programs.kube_proxy_metrics import Metrics

HEALTH_PORT, METRICS_PORT = 10256, 10249
LOGS_REQUESTS: Final = False
NO_SNIFF: Final = {"X-Content-Type-Options": "nosniff"}


class Memory:
    """What one run of a kube-proxy remembers: it begins anew with the next."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.synced_at = 0.0
        self.failing_since: float | None = None
        self.options: Mapping[str, Any] = {}


def memory() -> Memory:
    return Memory()


def configure(container: Container, ports: Ports) -> Setup:
    """Its own ports; those of Services come with the options that the lab adds."""
    return Setup(
        "kube_proxy",
        {},
        (ListenPort("TCP", HEALTH_PORT), ListenPort("TCP", METRICS_PORT, "127.0.0.1")),
    )


def configured(me: PodIdentity) -> None:
    """Says in the log what is new."""
    known: Memory = me.memory
    before, known.options = known.options, me.options
    if before.get("mode") != me.options.get("mode"):
        me.log(f"Using {me.options.get('mode', 'no')} Proxier on node {me.node}")
    checks, former = (
        {entry["port"]: entry for entry in options.get("checks", ())}
        for options in (me.options, before)
    )
    for port in former.keys() - checks.keys():
        me.log(f"Closing health check of Service {_title(former[port])} on port {port}")
    for port in checks.keys() - former.keys():
        me.log(f"Opening health check of Service {_title(checks[port])} on port {port}")
    said, new = before.get("log", ()), me.options.get("log", ())
    for line in [line for line in new if line not in said]:
        me.log(line)
    if said and not new:
        me.log("Watching Services and EndpointSlices again")


def told(news: Mapping[str, Any], me: PodIdentity) -> None:
    """How a sync of the node's rules went."""
    known: Memory = me.memory
    if "error" in news:
        known.failing_since = known.failing_since or me.now()
        known.metrics.failures += 1
        me.log(f"Sync failed, and is tried again: {' '.join(news['error'].split())}")
        return
    known.failing_since = None
    known.synced_at = news["at"]
    known.metrics.note_sync(news)
    what = f"{_count(news['services'], 'Service')} with {_count(news['endpoints'], 'endpoint')}"
    if news["ms"] is None:
        me.log(f"In force: {what}")
    else:
        me.log(f"Synced {what} in {news['ms']:.3g} ms")


async def http(request: Request, me: PodIdentity) -> Response:
    if request.port == HEALTH_PORT:
        return _health(request, me)
    if request.port == METRICS_PORT:
        return _about(request, me)
    check = next(
        (entry for entry in me.options.get("checks", ()) if entry["port"] == request.port), None
    )
    return _service_health(check, me) if check is not None else _not_found()


def is_healthy(me: PodIdentity) -> bool:
    """False when it has heard of no change for long, or has not been able to sync for long."""
    failing = me.memory.failing_since
    is_stale = failing is not None and me.now() - failing > 2 * SYNC_PERIOD_S
    return bool(me.options.get("healthy", True)) and not is_stale


def _health(request: Request, me: PodIdentity) -> Response:
    if request.path not in ("/healthz", "/livez"):
        return _not_found()
    is_good, is_eligible = is_healthy(me), bool(me.options.get("eligible", True))
    now = me.now()
    body: dict[str, str | bool] = {
        "lastUpdated": _go_time(now if is_good else me.memory.synced_at),
        "currentTime": _go_time(now),
    }
    kind = request.path.removeprefix("/")
    if kind == "healthz":
        body["nodeEligible"] = is_eligible
        is_good = is_good and is_eligible
    code = 200 if is_good else 503
    me.memory.metrics.note_answer(kind, code)
    return _json(code, body)


def _about(request: Request, me: PodIdentity) -> Response:
    match request.path:
        case "/metrics":
            shown = me.memory.metrics.text(
                me.options.get("families", ("IPv4",)), me.options.get("mode", "")
            )
            return Response(200, shown.encode(), "text/plain; version=0.0.4; charset=utf-8")
        case "/proxyMode":
            return Response(200, str(me.options.get("mode", "")).encode(), headers=NO_SNIFF)
        case "/healthz":
            return Response(200, b"ok", headers=NO_SNIFF)
    return _not_found()


def _service_health(check: Mapping[str, Any], me: PodIdentity) -> Response:
    count, is_good = check["endpoints"], is_healthy(me)
    body = {
        "service": {"namespace": check["namespace"], "name": check["name"]},
        "localEndpoints": count,
        "serviceProxyHealthy": is_good,
    }
    return _json(
        200 if count and is_good else 503, body, {"X-Load-Balancing-Endpoint-Weight": str(count)}
    )


def _json(code: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        code, json.dumps(body).encode(), "application/json", {**NO_SNIFF, **(headers or {})}
    )


def _not_found() -> Response:
    return text("404 page not found\n", 404)


def _title(check: Mapping[str, Any]) -> str:
    return f"{check['namespace']}/{check['name']}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _go_time(seconds: float) -> str:
    """A time as Go prints it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC")
