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
    "external_access",
    "udp_flows",
    "random_edits",
    "load_distribution",
    "proxy_mode_changes",
    "traffic_distribution",
    "kube_proxy",
)
CONFLIST: Final = (
    "conflist",
    "conflist_commands",
    "conflist_failures",
    "cni_plugins",
    "plugin_isolation",
)
WORKLOADS: Final = (
    "workloads",
    "jobs",
    "termination",
    "netexec",
    "container_lifecycle",
    "containers",
    "real_commands",
    "command_probes",
    "boutique",
    "usability",
)
PROCESSES: Final = (
    "processes",
    "creation",
    "killed_processes",
    "failing_calls",
    "full_disk",
    "random_histories",
    "changes",
    "drift",
    "insufficient_resources",
    "inheritance",
    "store",
    "diff",
    "clock",
)
COMMANDS: Final = (
    "command_output",
    "describe_output",
    "ping_output",
    "terminals",
    "doctor_and_plan",
    "kubectl_habits",
    "completion",
    "lab_selection",
    "manifests",
    "docs",
    "external_manifests",
    "usability",
    "lab_list",
)
DEFAULT_TESTS: Final = ("manifests", "processes", "command_output", "flows")
"""Tests for files that no entry of TOUCHES names."""

TOUCHES: Final[Mapping[str, tuple[str, ...]]] = {
    "kubenetlab/api/": (*WORKLOADS, "manifests", "external_manifests"),
    "kubenetlab/bpf/": ("ebpf", "ebpf_networks", "direct_return", *SERVICES),
    "kubenetlab/cli/": COMMANDS,
    "kubenetlab/cli/__init__": ("search_path",),
    "kubenetlab/cli/labs/compare": ("compare",),
    "kubenetlab/cli/labs/up": ("changes", "policy_changes"),
    "kubenetlab/cli/labs/temporary_lab": ("compare",),
    "kubenetlab/observe/comparison/": ("compare",),
    "kubenetlab/cli/probing/check": ("verdicts", "check_options", "output_schemas"),
    "kubenetlab/observe/node_ports": ("node_port_checks",),
    "kubenetlab/observe/expect": ("node_port_checks", "policy_probes"),
    "kubenetlab/observe/checks/": ("verdicts", "check_options"),
    "kubenetlab/datapath/node_sources": ("policy_sources",),
    "kubenetlab/observe/policies/": (
        "policy_probes",
        "policy_sources",
        "node_port_checks",
        "cluster_network_policies",
        "calico_policies",
        "cilium_policies",
        "random_policies",
        "policy_assistant",
        "cyclonus",
    ),
    "kubenetlab/cli/policies": ("policy_probes",),
    "kubenetlab/cli/probing/explain_policy": ("policy_probes", "library_policies"),
    "kubenetlab/cli/probing/policy_report": ("policy_probes", "library_policies"),
    "kubenetlab/cli/probing/policy_limits": ("cilium_policies", "calico_policies"),
    "kubenetlab/cli/probing/policy_log": ("policy_probes",),
    "kubenetlab/cli/probing/drop_reasons": ("policy_probes",),
    "kubenetlab/kernel/netlink/packet_log": ("policy_probes",),
    "kubenetlab/cli/describe/polic": ("policy_probes", "verdicts"),
    "kubenetlab/lab/apiserver/policy_objects": ("policy_probes",),
    "kubenetlab/cli/terminal/output_documents": ("output_schemas", "library"),
    "kubenetlab/cli/terminal/output_schemas": ("output_schemas",),
    "kubenetlab/cli/probing/ping": (
        "containers",
        "boutique",
        "flows",
        "verdicts",
        "ping_output",
        "ping_series",
    ),
    "kubenetlab/cli/objects/port_forward": ("port_forward",),
    "kubenetlab/cni/": CONFLIST,
    "kubenetlab/controllers/": (*WORKLOADS, "changes", "random_edits"),
    "kubenetlab/controllers/services/loadbalancers": (
        "load_balancers",
        "balanced_ports",
        "external_access",
    ),
    "kubenetlab/datapath/": ("flows", "manifests", "plan_script", "changes"),
    "kubenetlab/datapath/cni/": (
        "pod_networks",
        "ebpf_networks",
        "no_network",
        "cni_switch",
        "flannel",
        "routed_fabric",
        "calico",
        "weave",
        "kube_router",
        "node_files",
        "masquerade",
        "kernel_listings",
        "upstream",
        "cni_agents",
    ),
    "kubenetlab/controllers/cluster/cni_agents": ("cni_agents", "former_policies"),
    "kubenetlab/controllers/cluster/policy_snapshots": ("former_policies",),
    "kubenetlab/datapath/agents/": ("cni_agents", "former_policies"),
    "kubenetlab/kernel/overlay_state": ("cni_agents",),
    "kubenetlab/lab/nodeagent/agent_check": ("cni_agents",),
    "kubenetlab/programs/cni_agent": ("cni_agents",),
    "kubenetlab/datapath/network/bgp": ("kube_router", "routed_fabric"),
    "kubenetlab/datapath/network/bgp_router": ("bgp_router",),
    "kubenetlab/datapath/network/bird_filters": ("bgp_filters",),
    "kubenetlab/datapath/cni/calico_bgp": ("bgp_peers", "bgp_filters"),
    "kubenetlab/datapath/cni/calico_filters": ("bgp_filters",),
    "kubenetlab/datapath/cni/kube_router_bgp": ("kube_router_bgp", "service_routes"),
    "kubenetlab/api/policies/": ("network_policies", "cluster_network_policies"),
    "kubenetlab/api/calico/policies": ("calico_policies",),
    "kubenetlab/api/policies/cilium": ("cilium_policies",),
    "kubenetlab/diagnostics/cilium_": ("cilium_policies",),
    "kubenetlab/diagnostics/calico_": ("calico_policies",),
    "kubenetlab/api/calico/selectors": ("calico_policies", "bgp_peers"),
    "kubenetlab/api/plugins/kube_router": ("kube_router_bgp", "service_routes"),
    "kubenetlab/datapath/cni/calico_routes": ("bgp_peers", "bgp_filters", "service_routes"),
    "kubenetlab/datapath/bgp_view": ("bgp_peers", "bgp_filters"),
    "kubenetlab/datapath/services/addresses": ("service_routes",),
    "tests/golden/kernel": ("kernel_listings",),
    "tests/labs/key_listing": ("kernel_listings",),
    "tests/upstream/": ("upstream", "kernel_listings"),
    "kubenetlab/datapath/network/bird": ("kube_router", "calico", "routed_fabric", "cni_agents"),
    "kubenetlab/kernel/file_trees": ("node_files", "kube_router"),
    "kubenetlab/kernel/namespaces/own_directories": ("node_files", "exec_isolation"),
    "kubenetlab/datapath/cni/calico": ("calico",),
    "kubenetlab/datapath/cni/conflist": (*CONFLIST, "pod_networks", "no_network"),
    "kubenetlab/datapath/attachments": CONFLIST,
    "kubenetlab/datapath/cni/cilium": ("cilium", "cilium_pools"),
    "kubenetlab/controllers/nodes/ipam/cluster_pool": ("cilium_pools",),
    "kubenetlab/controllers/nodes/ipam/allocator": ("requested_addresses",),
    "kubenetlab/controllers/scheduling/": ("requested_addresses",),
    "kubenetlab/controllers/nodes/ipam/host_local": ("host_local",),
    "kubenetlab/api/plugins/host_local": ("host_local",),
    "kubenetlab/api/validate/host_local": ("host_local",),
    "kubenetlab/datapath/cluster_modes": ("invalid_networks",),
    "kubenetlab/controllers/admission/ip_pools": ("invalid_networks",),
    "kubenetlab/datapath/identities": ("cilium", "flow_events"),
    "kubenetlab/observe/flows": ("flow_events",),
    "kubenetlab/cli/probing/flows": ("flow_events",),
    "kubenetlab/kernel/rules/flow_events": ("flow_events",),
    "kubenetlab/lab/apiserver/identities": ("flow_events",),
    "kubenetlab/datapath/network/balanced_ports": ("balanced_ports",),
    "kubenetlab/datapath/network/egress": ("masquerade",),
    "kubenetlab/datapath/encapsulation": ("network_faults",),
    "kubenetlab/datapath/network/esp": ("weave",),
    "kubenetlab/datapath/faults/": (
        "kube_proxy_faults",
        "network_faults",
        "duplicate_addresses",
        "cni_agents",
    ),
    "kubenetlab/controllers/nodes/ipam/duplicates": ("duplicate_addresses",),
    "kubenetlab/diagnostics/duplicates": ("duplicate_addresses",),
    "kubenetlab/datapath/network/fabric": (
        "routed_fabric",
        "fabric_links",
        "load_balancers",
    ),
    "kubenetlab/datapath/network/host_ports": ("host_ports",),
    "kubenetlab/datapath/hooks": WORKLOADS,
    "kubenetlab/datapath/network/load_balancers": ("load_balancers",),
    "kubenetlab/datapath/network/port_mappings": ("port_mappings",),
    "kubenetlab/datapath/probes": WORKLOADS,
    "kubenetlab/datapath/proxy/": (*SERVICES, "diff", "node_port_addresses", "local_traffic"),
    "kubenetlab/datapath/proxy/ebpf": ("ebpf", "ebpf_networks", "direct_return"),
    "kubenetlab/datapath/policy": (
        "network_policies",
        "cluster_network_policies",
        "calico_policies",
        "cilium_policies",
        "policy_changes",
        "policy_recovery",
        "first_packets",
        "random_policies",
        "policy_drift",
    ),
    "kubenetlab/lab/agent/guarded_pods": ("first_packets",),
    "kubenetlab/lab/agent/builder": ("first_packets", "policy_recovery"),
    "kubenetlab/hoststate/diff": ("first_packets",),
    "kubenetlab/datapath/layers/policies": ("network_policies",),
    "kubenetlab/diagnostics/unenforced": ("network_policies", "verdicts"),
    "kubenetlab/hoststate/rules/rules_diff": ("network_policies", *SERVICES),
    "kubenetlab/hoststate/rules/iptables": ("policy_recovery", "policy_changes", *SERVICES),
    "kubenetlab/kernel/rules/iptables": ("policy_recovery", *SERVICES),
    "kubenetlab/hoststate/rules/ipset": ("policy_recovery", "policy_changes"),
    "kubenetlab/datapath/proxy_views": ("kube_proxy_faults", "proxy_mode_changes"),
    "kubenetlab/datapath/network/uplink": ("uplink", "uplink_faults"),
    "kubenetlab/diagnostics/": ("verdicts", "check_options"),
    "kubenetlab/hoststate/": (
        "changes",
        "drift",
        "plan_script",
        "flows",
        "proxy_mode_changes",
        "diff",
    ),
    "kubenetlab/hoststate/rules/bpf": ("ebpf", "ebpf_networks", "direct_return", "cilium"),
    "kubenetlab/hoststate/rules/cilium": ("cilium", "flow_events"),
    "kubenetlab/hoststate/nexthop": ("load_balancers",),
    "kubenetlab/library/": (
        "library",
        "library_changes",
        "api_page",
        "pytest_plugin",
        "labs_ahead",
        "testing_page",
        "rendered_manifests",
    ),
    "docs/testing": ("testing_page",),
    "kubenetlab/cli/input/shared_names": ("cilium_policies",),
    "kubenetlab/cli/input/kustomize": ("rendered_manifests",),
    "kubenetlab/lab/agent/probe_retries": ("probe_retries",),
    "kubenetlab/lab/nodeagent/prober": ("probe_retries",),
    "kubenetlab/lab/apiserver/restoration": ("library_changes",),
    "kubenetlab/lab/apiserver/checkpoints": ("library_changes",),
    "kubenetlab/kernel/": (
        "processes",
        "failing_calls",
        "killed_processes",
        "changes",
        "drift",
        "insufficient_resources",
        "sandboxed",
        "rootless",
        "inheritance",
        "diff",
    ),
    "kubenetlab/cli/objects/exec": ("exec_isolation", "exec_processes", "containers"),
    "kubenetlab/cli/objects/deletion": ("termination",),
    "kubenetlab/cli/objects/rollout": ("workloads",),
    "kubenetlab/kernel/processes/cgroups": ("resource_limits",),
    "kubenetlab/kernel/processes/rlimits": ("resource_limits",),
    "kubenetlab/lab/runtime/container_limits": ("resource_limits",),
    "kubenetlab/kernel/namespaces/enter": (
        "exec_isolation",
        "exec_processes",
        "containers",
        "rootless",
    ),
    "kubenetlab/kernel/processes/inheritance": ("inheritance", "exec_processes"),
    "kubenetlab/kernel/processes/privileges": (
        "exec_isolation",
        "exec_processes",
        "real_commands",
        "sandboxed",
    ),
    "kubenetlab/kernel/namespaces/mounts": (
        "exec_isolation",
        "containers",
        "real_commands",
        "sandboxed",
    ),
    "kubenetlab/kernel/uplink": ("uplink", "uplink_faults"),
    "kubenetlab/lab/": (*PROCESSES, *WORKLOADS),
    "kubenetlab/hoststate/netlink/message_classes": (
        "pyroute2_imports",
        "ebpf",
        "udp_flows",
        "uplink",
    ),
    "kubenetlab/kernel/netlink/conntrack_entries": ("udp_flows", "inspect_objects"),
    "kubenetlab/lab/agent/clients/daemon_client": ("kube_router",),
    "kubenetlab/lab/agent/daemon_tasks": ("kube_router", "node_files"),
    "kubenetlab/lab/agent/provided_routes": ("kube_router",),
    "kubenetlab/lab/processes/daemons": ("kube_router",),
    "kubenetlab/lab/runtime/daemon": ("kube_router",),
    "kubenetlab/lab/runtime/coredns": ("dns", "external_manifests"),
    "kubenetlab/lab/port_forwarding": ("port_forward",),
    "kubenetlab/lab/uplink": ("uplink", "uplink_faults"),
    "kubenetlab/observe/": (
        "describe_output",
        "ping_output",
        "manifests",
        "flows",
        "external_manifests",
        "targets",
        "inspect_objects",
    ),
    "kubenetlab/observe/forwarding": ("port_forward",),
    "kubenetlab/programs/": (
        "containers",
        "workloads",
        "jobs",
        "termination",
        "netexec",
        "container_lifecycle",
    ),
    "kubenetlab/programs/dns/messages": ("dns", "external_manifests"),
    "kubenetlab/programs/dns/zone": ("dns", "external_manifests"),
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
UNLISTED_TESTS: Final = ("long_names", "sctp")
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
