"""kube-proxy's metrics in Prometheus' text format.

Only the metrics are included that the lab can measure.
Source: k8s.io/kubernetes pkg/proxy/metrics/metrics.go (1.33);
prometheus.io/docs/instrumenting/exposition_formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.programs.kube_proxy_events import SyncSucceeded

BUCKETS_S: Final = tuple(0.001 * 2**step for step in range(15))
"""Upper bounds of the histogram's buckets in seconds."""
_SYNC: Final = "kubeproxy_sync_proxy_rules"


class Metrics:
    """Counters of one run of kube-proxy."""

    def __init__(self) -> None:
        self.failures = 0
        self._buckets = [0] * len(BUCKETS_S)
        self._count, self._sum_s = 0, 0.0
        self._synced_at = 0.0
        self._changes = {"service": 0, "endpoint": 0}
        self._no_local = {"internal": 0, "external": 0}
        self._answers: dict[tuple[str, int], int] = {}

    def note_sync(self, sync: SyncSucceeded) -> None:
        """Count a successful sync. Its duration counts only when it was measured."""
        self._synced_at = sync.at
        self._no_local = {
            "internal": sync.counts.no_local_internal,
            "external": sync.counts.no_local_external,
        }
        self._changes["service"] += sync.service_changes
        self._changes["endpoint"] += sync.endpoint_changes
        if sync.duration_ms is not None:
            took_s = sync.duration_ms / 1000
            self._count, self._sum_s = self._count + 1, self._sum_s + took_s
            self._buckets = [
                count + (took_s <= bound)
                for count, bound in zip(self._buckets, BUCKETS_S, strict=True)
            ]

    def note_answer(self, kind: str, code: int) -> None:
        """Count one answer of /healthz or /livez."""
        self._answers[kind, code] = self._answers.get((kind, code), 0) + 1

    def text(self, families: Sequence[str], mode: str) -> str:
        """Return all metrics as text.

        A sync is one transaction for all IP families of a node, and so counts for each.
        """
        labels = [f'ip_family="{family}"' for family in families]
        lines = [*self._histogram(labels), *self._gauges(labels), *self._counters(labels, mode)]
        return "".join(f"{line}\n" for line in lines)

    def _histogram(self, labels: Sequence[str]) -> Iterator[str]:
        name = f"{_SYNC}_duration_seconds"
        yield from _head(name, "histogram", "SyncProxyRules latency in seconds")
        for label in labels:
            for bound, count in zip(BUCKETS_S, self._buckets, strict=True):
                yield f'{name}_bucket{{{label},le="{bound:g}"}} {count}'
            yield f'{name}_bucket{{{label},le="+Inf"}} {self._count}'
            yield f"{name}_sum{{{label}}} {self._sum_s:.6f}"
            yield f"{name}_count{{{label}}} {self._count}"

    def _gauges(self, labels: Sequence[str]) -> Iterator[str]:
        name = f"{_SYNC}_last_timestamp_seconds"
        yield from _head(name, "gauge", "The last time proxy rules were successfully synced")
        yield from (f"{name}{{{label}}} {self._synced_at:.6f}" for label in labels)
        name = f"{_SYNC}_no_local_endpoints_total"
        yield from _head(
            name, "gauge", "Number of services with a Local traffic policy and no endpoints"
        )
        for label in labels:
            yield from (
                f'{name}{{{label},traffic_policy="{policy}"}} {count}'
                for policy, count in self._no_local.items()
            )

    def _counters(self, labels: Sequence[str], mode: str) -> Iterator[str]:
        for kind, title in (("endpoint", "Endpoints"), ("service", "Service")):
            name = f"{_SYNC}_{kind}_changes_total"
            yield from _head(name, "counter", f"Cumulative proxy rules {title} changes")
            yield f"{name} {self._changes[kind]}"
        failures = {
            "nftables": "nftables_sync",
            "iptables": "iptables_restore",
            "ipvs": "iptables_restore",
        }.get(mode)
        if failures is not None:
            name = f"{_SYNC}_{failures}_failures_total"
            yield from _head(
                name, "counter", f"Cumulative proxy {failures.replace('_', ' ')} failures"
            )
            yield from (f"{name}{{{label}}} {self.failures}" for label in labels)
        for kind in ("healthz", "livez"):
            name = f"kubeproxy_proxy_{kind}_total"
            yield from _head(name, "counter", f"Cumulative proxy {kind} HTTP status")
            yield from (
                f'{name}{{code="{code}"}} {count}'
                for (endpoint, code), count in sorted(self._answers.items())
                if endpoint == kind
            )


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} [ALPHA] {meaning}"
    yield f"# TYPE {name} {kind}"
