"""`plan`: everything that a lab would consist of, computed without making it."""

from __future__ import annotations

import warnings
from functools import partial
from importlib import resources

from msgspec import Struct

from kubenetlab.api.manifests.load import load
from kubenetlab.api.store import Cluster
from kubenetlab.api.text.documents import read_documents
from kubenetlab.cli.input.manifests import Flags, merge_options
from kubenetlab.datapath import plan as plan_objects
from kubenetlab.datapath.checks.objects import check_object
from kubenetlab.datapath.decisions import decide
from kubenetlab.diagnostics import Diagnostic, diagnose
from kubenetlab.hoststate import script
from kubenetlab.hoststate.state import HostState
from kubenetlab.lab.bootstrap import bootstrap_store
from kubenetlab.lab.simulation import simulate
from kubenetlab.library.arguments import Paths, paths_of
from kubenetlab.library.lab_warning import LabWarning

TEXT = "<text>"
"""File name in messages about manifests that are given as text."""


class LabPlan(Struct, frozen=True):
    """Plan of a lab in which every pod is ready."""

    name: str
    """Name of the lab."""
    cluster: Cluster
    """Objects of the cluster, with those that the controllers create."""
    desired: HostState
    """Kernel objects by network namespace, such as `node/worker`."""
    diagnostics: tuple[Diagnostic, ...]
    """Misconfigurations, and objects that the lab would not enforce."""

    def script(self) -> str:
        """Return a shell script that makes the namespaces, links, addresses, routes and rules."""
        return script.script(self.desired, self.name)


def plan(
    manifests: Paths = (),
    *,
    text: str = "",
    name: str = "lab",
    cni: str | None = None,
    kube_proxy_mode: str | None = None,
    policy_engine: str | None = None,
    nodes: int | None = None,
    strict: bool = False,
    now: float = 0.0,
) -> LabPlan:
    """Return the plan of a lab. It needs no permissions, and changes nothing.

    Equal arguments have an equal plan, on every machine: the plan is that of a machine with all
    kernel features.

    manifests, text, cni, kube_proxy_mode, policy_engine, nodes, strict: see `Lab.up`.
    name: name of the lab.
    now: time of creation of all objects, in seconds since 1970.
    Raises ManifestError for the manifests.
    """
    files = list(paths_of(manifests))
    if not files and not text:
        text = resources.files("kubenetlab").joinpath("quickstart.yaml").read_text()
    documents, problems = read_documents(TEXT, text.encode()) if text else ([], [])
    loaded = load(files, strict=strict, check=check_object, documents=documents, problems=problems)
    if loaded.warnings:
        warnings.warn("\n".join(map(str, loaded.warnings)), LabWarning, stacklevel=2)
    merged = merge_options(
        loaded, Flags(cni, kube_proxy_mode, nodes, policy=policy_engine), None, name
    )
    everywhere = partial(decide, has_br_netfilter=True)
    bootstrap = bootstrap_store(merged.config, merged.entries, now, name, everywhere)
    cluster = simulate(bootstrap.cluster, now, everywhere)
    desired = plan_objects(cluster, everywhere(cluster))
    return LabPlan(name, cluster, desired, diagnose(cluster))
