"""Connections to the pod `web` of the namespace `shop`, in labs with policies."""

from __future__ import annotations

from tests.labs.lab import Lab


def reached(lab: Lab, source: str, port: int = 8080) -> list[bool]:
    """Return whether the addresses of `shop/web` answer a pod `namespace/name`."""
    namespace, _, name = source.rpartition("/")
    targets = [("TCP", address, port) for address in lab.pod("web", "shop")["addresses"]]
    return [not each.error for each in lab.ask(lab.pod(name, namespace or "default"), *targets)]
