"""Print the lab tests that a change affects: `scripts/test --changed`.

Pure code is always tested as a whole, which is fast. A change is the difference from the branch
`main`, or on `main` itself from the previous commit. Uncommitted files are included.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[1]

SERVICES: Final = (
    "flows",
    "ways_in",
    "udp_flows",
    "random_edits",
    "shares",
    "switching",
    "traffic_distribution",
    "kube_proxy",
)
WORKLOADS: Final = (
    "workloads",
    "jobs",
    "termination",
    "netexec",
    "container_lives",
    "containers",
    "real_commands",
    "command_probes",
    "boutique",
    "first_days",
)
LIFE: Final = (
    "life",
    "making",
    "killing",
    "faults",
    "full_disk",
    "histories",
    "changes",
    "drift",
    "limits",
    "inheritance",
    "store",
    "diff",
    "clock",
)
COMMANDS: Final = (
    "screens",
    "terminals",
    "doctor_and_plan",
    "habits",
    "completion",
    "only_lab",
    "manifests",
    "docs",
    "cases",
    "first_days",
    "lab_list",
)
DEFAULT_TESTS: Final = ("manifests", "life", "screens", "flows")
"""Tests for files that no entry of TOUCHES names."""

TOUCHES: Final[Mapping[str, tuple[str, ...]]] = {
    "kubenetlab/api/": (*WORKLOADS, "manifests", "cases"),
    "kubenetlab/bpf/": ("ebpf", "direct_return", *SERVICES),
    "kubenetlab/cli/": COMMANDS,
    "kubenetlab/cli/__init__": ("search_path",),
    "kubenetlab/cli/probing/check": ("trust", "outputs"),
    "kubenetlab/cli/terminal/output_documents": ("outputs", "library"),
    "kubenetlab/cli/terminal/output_schemas": ("outputs",),
    "kubenetlab/cli/probing/ping": ("containers", "boutique", "flows", "trust", "ping_series"),
    "kubenetlab/cli/objects/port_forward": ("port_forward",),
    "kubenetlab/controllers/": (*WORKLOADS, "changes", "random_edits"),
    "kubenetlab/controllers/loadbalancers": ("load_balancers", "balanced_ports", "ways_in"),
    "kubenetlab/datapath/": ("flows", "manifests", "script", "changes"),
    "kubenetlab/datapath/balanced_ports": ("balanced_ports",),
    "kubenetlab/datapath/egress": ("masquerade",),
    "kubenetlab/datapath/faults/": ("broken",),
    "kubenetlab/datapath/hostports": ("host_ports",),
    "kubenetlab/datapath/hooks": WORKLOADS,
    "kubenetlab/datapath/loadbalancers": ("load_balancers",),
    "kubenetlab/datapath/port_mappings": ("port_mappings",),
    "kubenetlab/datapath/probes": WORKLOADS,
    "kubenetlab/datapath/proxy/": (*SERVICES, "diff", "node_port_addresses", "local_traffic"),
    "kubenetlab/datapath/proxy/ebpf": ("ebpf", "direct_return"),
    "kubenetlab/datapath/proxy_views": ("broken", "switching"),
    "kubenetlab/datapath/uplink": ("uplink", "uplink_faults"),
    "kubenetlab/diagnostics/": ("trust",),
    "kubenetlab/hoststate/": ("changes", "drift", "script", "flows", "switching", "diff"),
    "kubenetlab/hoststate/rules/bpf": ("ebpf", "direct_return"),
    "kubenetlab/hoststate/nexthop": ("load_balancers",),
    "kubenetlab/library/": ("library", "api_page"),
    "kubenetlab/kernel/": (
        "life",
        "faults",
        "killing",
        "changes",
        "drift",
        "limits",
        "sandboxed",
        "rootless",
        "inheritance",
        "diff",
    ),
    "kubenetlab/cli/objects/exec": ("inside", "containers"),
    "kubenetlab/kernel/processes/cgroups": ("resource_limits",),
    "kubenetlab/kernel/processes/rlimits": ("resource_limits",),
    "kubenetlab/lab/runtime/container_limits": ("resource_limits",),
    "kubenetlab/kernel/namespaces/enter": ("inside", "containers", "rootless"),
    "kubenetlab/kernel/processes/inheritance": ("inheritance",),
    "kubenetlab/kernel/processes/privileges": ("inside", "real_commands", "sandboxed"),
    "kubenetlab/kernel/namespaces/mounts": ("inside", "containers", "real_commands", "sandboxed"),
    "kubenetlab/kernel/uplink": ("uplink", "uplink_faults"),
    "kubenetlab/lab/": (*LIFE, *WORKLOADS),
    "kubenetlab/lab/agent/preparation": ("idle_imports",),
    "kubenetlab/hoststate/message_classes": ("idle_imports", "ebpf", "udp_flows", "uplink"),
    "kubenetlab/kernel/netlink/conntrack_entries": ("udp_flows", "inspect_objects"),
    "kubenetlab/lab/runtime/coredns": ("dns", "cases"),
    "kubenetlab/lab/port_forwarding": ("port_forward",),
    "kubenetlab/lab/uplink": ("uplink", "uplink_faults"),
    "kubenetlab/observe/": ("screens", "manifests", "flows", "cases", "targets", "inspect_objects"),
    "kubenetlab/observe/forwarding": ("port_forward",),
    "kubenetlab/programs/": (
        "containers",
        "workloads",
        "jobs",
        "termination",
        "netexec",
        "container_lives",
    ),
    "kubenetlab/programs/dns/messages": ("dns", "cases"),
    "kubenetlab/programs/dns/zone": ("dns", "cases"),
    "kubenetlab/kernel/processes/permissions": ("podman",),
    "kubenetlab/lab/processes/isolation": ("podman",),
    "docs/api": ("api_page",),
    "docs/ci": ("podman",),
    "Containerfile": ("podman",),
    "kubenetlab/kernel/namespaces/id_maps": ("id_ranges",),
    "bench/": ("bench",),
    "docs/": ("docs",),
    "scripts/demo": ("demo",),
    "scripts/prepare": ("demo",),
    "manifests/": ("manifests", "docs"),
    "README.md": ("docs",),
}
"""Beginning of a file's path → names of modules of tests/labs.

All entries that match a path apply.
"""
KERNEL: Final = (
    "kubenetlab/hoststate/",
    "kubenetlab/kernel/",
    "kubenetlab/bpf/",
    "kubenetlab/datapath/proxy/",
)
"""Beginnings of the paths that tests/kernel covers."""
UNLISTED_TESTS: Final = ("names", "sctp")
"""Modules that no single part of the project affects."""


def touched_tests(changed: Iterable[str]) -> Iterator[str]:
    """Yield the paths of the tests for changed files, each once."""
    selected: dict[str, None] = {}
    for path in changed:
        if path.startswith(("tests/labs/test_", "tests/kernel/test_")) and (ROOT / path).exists():
            selected[path] = None
        if path.startswith(KERNEL):
            selected["tests/kernel"] = None
        names = [
            name
            for beginning, modules in TOUCHES.items()
            if path.startswith(beginning)
            for name in modules
        ]
        if not names and path.startswith("kubenetlab/"):
            names = list(DEFAULT_TESTS)
        selected |= dict.fromkeys(f"tests/labs/test_{name}.py" for name in names)
    yield from sorted(
        path
        for path in selected
        if not (path.startswith("tests/kernel/") and "tests/kernel" in selected)
    )


def changed_files() -> list[str]:
    """Return the paths that differ from the base of this branch, relative to the checkout."""
    base = _git("merge-base", "HEAD", "main") or [""]
    if base == _git("rev-parse", "HEAD"):
        base = _git("rev-parse", "HEAD^")
    new = _git("ls-files", "--others", "--exclude-standard")
    return [*_git("diff", "--name-only", *base), *new]


def _git(*words: str) -> list[str]:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()


if __name__ == "__main__":
    print(" ".join(touched_tests(changed_files())))
