"""A running lab for tests of connections: places and Services by short names, in one IP version."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kubenetlab.api.config import ClusterConfig, Networking
from kubenetlab.cli.input.mode_options import parse_mode
from kubenetlab.datapath import modes
from kubenetlab.errors import RequirementError
from kubenetlab.lab.requirements import require_modes
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.traffic_client import Answer, Target


def mode_in_document(proxy: str) -> str:
    """Return a kube-proxy mode as a Cluster document spells it."""
    return json.dumps(parse_mode(proxy))


def _unmet_requirement(proxy: str) -> str:
    """Return the unmet requirement of a kube-proxy mode, or nothing.

    The check is that of `up` and doctor.
    """
    try:
        require_modes(ClusterConfig(networking=Networking(kube_proxy_mode=parse_mode(proxy))))
    except RequirementError as error:
        return str(error)
    return ""


_SERVING = (
    *(name for name in modes.known("proxy") if modes.load("proxy", name, {}).serves),
    "nftables,layout=fast",
)
MISSING = {proxy: _unmet_requirement(proxy) for proxy in _SERVING}
"""Kube-proxy mode, as on the command line → its unmet requirement on this machine."""
PROXY_MODES = tuple(proxy for proxy, requirement in MISSING.items() if not requirement)
"""Modes that are available on this machine; tests of Services run in each."""


class LabView:
    """A running lab, with short names for its places, in one IP version."""

    def __init__(self, lab: Lab, version: int) -> None:
        self.lab = lab
        self.version = version
        inspected = lab.inspected
        self.inspected = inspected
        self.places: dict[str, Any] = {
            pod["name"]: pod for pod in inspected["pods"] if pod["namespace"] == "default"
        }
        self.places |= {f"node:{node['name']}": node for node in inspected["nodes"]}
        self.places |= {f"ext:{host['name']}": host for host in inspected["external"]}
        self.cluster_ips = {
            service["name"]: self._of_version(service["cluster_ips"])
            for service in inspected["services"]
        }
        self.load_balancer_ips = {
            service["name"]: self._of_version(service["load_balancer_ips"])
            for service in inspected["services"]
        }
        self.localhost = "127.0.0.1" if version == 4 else "::1"

    def address(self, name: str) -> str:
        return self._of_version(self.places[name]["addresses"])

    def _of_version(self, addresses: list[str]) -> str:
        return next(
            (address for address in addresses if (":" in address) == (self.version == 6)), ""
        )

    def node_of(self, pod: str) -> str:
        return self.address(f"node:{self.places[pod]['node']}")

    def ask(self, source: str, *targets: Target) -> list[Answer]:
        return self.lab.ask(self.places[source], *targets)

    def ask_from(self, sources: Sequence[str], *targets: Target) -> list[list[Answer]]:
        """Return the answers to several sources, which ask the same targets at the same time."""
        return self.ask_each(*((source, targets) for source in sources))

    def ask_each(self, *questions: tuple[str, Sequence[Target]]) -> list[list[Answer]]:
        """Return the answers to several sources, which all ask at the same time."""
        return self.lab.ask_each(*((self.places[source], targets) for source, targets in questions))


class SharedLab:
    """One lab at a time, which tests with equal parameters share."""

    def __init__(self, manifest: Callable[..., str]) -> None:
        self._manifest = manifest
        self._parameters: tuple[str, ...] = ()
        self._generator: Iterator[Lab] = iter(())
        self._lab: Lab | None = None

    def up(self, *parameters: str) -> Lab:
        """Return the lab with the manifest for these parameters."""
        if self._lab is None or self._parameters != parameters:
            self.down()
            self._parameters, self._generator = parameters, new_lab()
            self._lab = next(self._generator)
            self._lab.up(self._manifest(*parameters))
        return self._lab

    def down(self) -> None:
        for _ in self._generator:
            pass
