"""Screens of commands, drawn from fixed data: as plain text, and on terminals of two widths."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Final, cast
from unittest import mock

from kubenetlab.cli.terminal.display import PLAIN, Display
from kubenetlab.cli.terminal.theme import STYLES, sgr
from kubenetlab.observe.expect import ServiceTarget
from kubenetlab.observe.matrix import Cell, Matrix
from kubenetlab.observe.prober import Result
from kubenetlab.observe.targets.locations import Location
from tests.golden.outputs import CASES

SCREENS: Final = Path(__file__).with_name("screens")
NOW: Final = 1_790_000_000.0
CREATED: Final = "2026-09-21T14:11:20Z"  # two minutes before NOW

DISPLAYS: Final[Mapping[str, Display]] = {
    "plain.txt": PLAIN,
    "80.txt": Display(is_drawn=True, has_colours=False, is_live=False, width=80),
    "140.txt": Display(is_drawn=True, has_colours=False, is_live=False, width=140),
    "colours.txt": Display(is_drawn=True, has_colours=True, is_live=False, width=None),
}
"""File → display. In colours.txt, control sequences appear as the definitions of their styles."""


def outputs(draw: Callable[[], None]) -> dict[str, str]:
    """Return file name → text of one screen."""
    return {name: _readable(capture(draw, screen)) for name, screen in DISPLAYS.items()}


def capture(draw: Callable[[], object], screen: Display) -> str:
    """Return what a function prints to a display: standard output, then standard error."""
    output, errors = io.StringIO(), io.StringIO()
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(output))
        stack.enter_context(redirect_stderr(errors))
        for name in ("standard_output", "standard_error"):
            stack.enter_context(
                mock.patch(f"kubenetlab.cli.terminal.display.{name}", return_value=screen)
            )
        stack.enter_context(mock.patch("time.time", return_value=NOW))
        draw()
    return output.getvalue() + errors.getvalue()


def _readable(text: str) -> str:
    definitions = {sgr(name): definition for name, definition in STYLES.items()}
    text = re.sub(
        r"\x1b\[[0-9;]*m",
        lambda match: "⟨/⟩" if match[0] == "\x1b[0m" else f"⟨{definitions[match[0]]}⟩",
        text,
    )
    return text.replace("\x1b", "␛").replace("\x07", "␇")


def _pod(name: str, *, reason: str = "", restarts: int = 0, node: str = "worker") -> dict[str, Any]:
    """Return a pod whose container runs, or waits for a reason."""
    is_ready = not reason
    state = {"running": {"startedAt": CREATED}} if is_ready else {"waiting": {"reason": reason}}
    status = "True" if is_ready else "False"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "creationTimestamp": CREATED,
            "labels": {"app": "web", "pod-template-hash": "689d74864d", "zone": "[red]eu"},
            "annotations": {"note": "世界 \x1b[31mred\x1b[0m [bold]not bold[/bold]"},
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "web", "image": "registry.k8s.io/agnhost:2.47"}],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.244.1.3",
            "podIPs": [{"ip": "10.244.1.3"}],
            "hostIP": "172.18.0.3",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": status, "reason": "" if is_ready else "NotReady"},
            ],
            "containerStatuses": [
                {"name": "web", "state": state, "ready": is_ready, "restartCount": restarts}
            ],
        },
    }


PODS: Final = (
    _pod("web-689d74864d-r98w8"),
    _pod("web-689d74864d-xlq2g", reason="CrashLoopBackOff", restarts=12, node="control-plane"),
)
EVENTS: Final = tuple(
    {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"event-{number}", "namespace": "shop"},
        "involvedObject": {
            "kind": "Pod",
            "name": "web-689d74864d-r98w8",
            "uid": "uid-web-689d74864d-r98w8",
        },
        "type": type_,
        "reason": reason,
        "message": message,
        "source": {"component": component},
        "lastTimestamp": CREATED,
    }
    for number, (type_, reason, component, message) in enumerate(
        (
            (
                "Normal",
                "Scheduled",
                "default-scheduler",
                "Successfully assigned shop/web-689d74864d-r98w8 to worker",
            ),
            (
                "Warning",
                "Unhealthy",
                "kubelet, worker",
                "Readiness probe failed: Get http://10.244.1.3:8080/[ready]: no answer within 1 s, "
                "\x1b]0;title\x07which is the third failure in a row",
            ),
        )
    )
)


IDENTITIES: dict[str, Any] = {"cni": "bridge", "modes": [], "identities": {}, "pods": {}}


class FakeClient:
    """Client of a lab with the pods and events above."""

    def get(self, path: str, **_: str) -> dict[str, Any]:
        """Return a list by its path, or the identities of the lab."""
        if path.endswith("/identities"):
            return IDENTITIES
        return {"items": {"/api/v1/events": EVENTS, "/api/v1/pods": PODS}[path]}

    def inspect(self) -> dict[str, Any]:
        """Return the processes of the lab."""
        return {
            "pods": [
                {
                    "namespace": "shop",
                    "name": "web-689d74864d-r98w8",
                    "sandbox": "pod/shop/web-689d74864d-r98w8/cc9766a2",
                    "pid": 19,
                    "host_ifname": "veth0",
                    "containers": [
                        {
                            "name": "web",
                            "pid": None,
                            "program": "netexec",
                            "ports": [8080],
                            "assumed_ports": [],
                            "real": False,
                        }
                    ],
                }
            ]
        }


def _get(kind: str, documents: tuple[dict[str, Any], ...], form: str) -> None:
    from kubenetlab.cli.input.options import GetOutput
    from kubenetlab.cli.objects.get import _show

    _show(kind, list(documents), True, GetOutput(form), has_labels=form == "wide")


def _describe() -> None:
    from kubenetlab.cli.describe.objects import describe_object

    describe_object(cast(Any, FakeClient()), PODS[0])


def _matrix() -> Matrix:
    """Return a matrix of two pods, a node and two Services, in which the second pod is cut off."""
    pods = tuple(
        Location("pod", "shop", name, f"pod/{name}", f"/{name}", (address,))
        for name, address in (
            ("frontend-5f4b6bbbb5-pdcp5", "10.244.1.3"),
            ("web-[red]", "10.244.2.4"),
        )
    )
    node = Location("node", "", "worker", "node/worker", "/worker", ("172.18.0.3",))
    services = (
        ServiceTarget("shop", "frontend", "10.96.168.87", 80, "TCP", (("10.244.1.3", 8080),)),
        ServiceTarget("shop", "empty", "10.96.0.7", 443, "TCP", ()),
    )
    rows = (*pods, node)
    columns: tuple[Location | ServiceTarget, ...] = (*rows, *services)
    cells = tuple(
        Cell(row, column, expected, ((address, Result("silence" if row is pods[1] else expected)),))
        for row in rows
        for column in columns
        if row is not column
        for address in (column.address,)
        for expected in ("refused" if column is services[1] else "answer",)
    )
    return Matrix(rows, columns, cells)


def _ping() -> None:
    from kubenetlab.cli.probing.ping import _hint, _show, _summary

    _show(_matrix())
    _summary(_matrix(), [], 0.25)
    _hint(_matrix(), [])


def _explain_policy() -> None:
    """Print an allowed connection, a denied one, and one that depends on the path."""
    from kubenetlab.cli.probing.policy_report import PolicyReport
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.destination_lookup import look_up
    from kubenetlab.observe.targets.locations import places
    from tests.inspected import PolicyClient, inspected
    from tests.unit.observe.policies.worlds import FROM_CLIENT, FROM_OUTSIDE, PODS, TIER, lab_of

    for policies, name, destination in (
        (FROM_CLIENT, "default/client", "svc:web"),
        (FROM_CLIENT, "default/far", "default/web:8080"),
        (FROM_OUTSIDE, "ext:client", "lb:open"),
        (FROM_CLIENT + TIER, "default/far", "default/web:8080"),
    ):
        cluster = lab_of(PODS + policies)
        seen = inspected(cluster)
        source = next(place for place in places(seen) if place.title == name)
        client = cast(Client, PolicyClient(cluster, _LISTING))
        report = PolicyReport(client, seen, source)
        report.show(look_up(destination, seen, source))


_LISTING: Final = """\
table ip network-policy {
	map ingress-pods {
		type ipv4_addr : verdict
		elements = { 10.244.1.2 comment "default/web" : goto isolated-ingress-1 }
	}

	chain isolated-ingress-1 {
		jump policy-ingress-1-default/p
		counter packets 3 bytes 180 drop comment "isolated by network policies"
	}

	chain policy-ingress-1-default/p {
		ip saddr @pods-1 accept comment "default/p Ingress rule 0"
	}

	chain admin-ingress-1 {
		ip saddr @pods-2 counter drop comment "AdminNetworkPolicy ops Ingress rule 0"
	}
}
"""


def _describe_network_policy() -> None:
    """Print a policy with all kinds of peers and ports."""
    from kubenetlab.cli.describe.policies import describe_network_policy
    from kubenetlab.lab.client import Client
    from tests.inspected import PolicyClient
    from tests.unit.observe.policies.worlds import EVERY_PEER, PODS, lab_of

    client = PolicyClient(lab_of(PODS + EVERY_PEER))
    describe_network_policy(cast(Client, client), client.policy("p"))


def _check() -> None:
    from kubenetlab.cli.probing.check_report import Result as CheckResult
    from kubenetlab.cli.probing.check_report import show
    from kubenetlab.observe.checks.verdicts import RowVerdict

    verdicts = [
        RowVerdict(
            "", "default/client", "svc:web:80/TCP", "answer", "answer", "holds", "expect.yaml:4"
        ),
        RowVerdict(
            "",
            "shop/frontend-5f4b6bbbb5-pdcp5",
            "svc:shop/web-[red]:8081/UDP",
            "refused",
            "silence",
            "fails",
            "expect.yaml:12",
        ),
        RowVerdict(
            "",
            "default/client",
            "svc:shop/web:80/TCP",
            "allow",
            "silence",
            "fails",
            "expect.yaml:13",
            policies=(
                "NetworkPolicy shop/deny (policies.yaml:3) isolates shop/web for ingress",
                "NetworkPolicies default/out (policies.yaml:20) and default/quiet"
                " (policies.yaml:31) isolate default/client for egress",
            ),
        ),
    ]
    show(CheckResult("demo", verdicts, [], 0.25))


def _diff() -> None:
    from kubenetlab.cli.labs.plan_output import show_differences

    lines = (
        "~ route 10.244.2.0/24 via 172.18.0.4 dev eth0"
        "    (was: route 10.244.2.0/24 via 172.18.0.1 dev eth0)",
        '- nft rule ip kube-proxy services: ip daddr 10.96.0.10 comment "[red]" drop',
        "~ nft chain ip kube-proxy masquerading: 3 rules    (was: 0 rules)",
        "~ nft rule ip kube-proxy nodeports: tcp dport 30080 counter accept"
        "    (moved: rule 1, was: rule 3)",
        "+ nft element ip kube-proxy cluster-ips { 10.96.0.10 }",
    )
    show_differences([{"netns": "node/worker", "operations": lines}])


def _compare() -> None:
    from kubenetlab.cli.labs.compare import show
    from kubenetlab.observe.comparison.measurement import Measurement
    from kubenetlab.observe.comparison.results import ComparedMode

    show(
        [
            ComparedMode(
                "flannel,backend=vxlan",
                measurement=Measurement(5, 49, 0, 2, 50, 1450, 0.0618, 5.83, "pod", "node"),
            ),
            ComparedMode(
                "calico-bgp",
                measurement=Measurement(7, 44, 1, 2, None, 1500, 0.044, 11.26, "pod", "pod"),
                programs=5,
                enforces_policy=True,
            ),
            ComparedMode("calico-ipip", error="cni calico needs ipip: not supported; required: x"),
        ],
        is_wide=True,
    )


def _errors() -> None:
    from kubenetlab.cli.terminal.reports import print_error
    from kubenetlab.errors import ManifestError
    from tests.clusters import store

    try:
        store((CASES / "errors" / "input.yaml").read_text())
    except ManifestError as error:
        print_error(error)


def _explain(subject: str) -> None:
    from kubenetlab.cli.explain import explain

    explain(subject)


def _run(*words: str) -> None:
    from typer.main import get_command

    from kubenetlab.cli.app import app

    with suppress(SystemExit):
        get_command(app).main(list(words), prog_name="kubenetlab")


SCREEN_FUNCTIONS: Final[Mapping[str, Callable[[], None]]] = {
    "get-pods": lambda: _get("Pod", PODS, "table"),
    "get-pods-wide": lambda: _get("Pod", PODS, "wide"),
    "get-events": lambda: _get("Event", EVENTS, "table"),
    "describe-pod": _describe,
    "ping-matrix": _ping,
    "explain-policy": _explain_policy,
    "describe-networkpolicy": _describe_network_policy,
    "check": _check,
    "compare": _compare,
    "diff": _diff,
    "errors": _errors,
    "explain-field": lambda: _explain("pod.spec.containers.ports"),
    "explain-fault": lambda: _explain("kube-proxy"),
    "explain-mode": lambda: _explain("bridge"),
    "help": lambda: _run("--help"),
    "help-of-a-command": lambda: _run("ping", "--help"),
    "usage-error": lambda: _run("get"),
}
"""Name of a screen → function that prints it."""
