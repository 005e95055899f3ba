"""Manifests and expected results of other projects: examples of the documentation, DNS records."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clusters import DUAL
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, run
from tests.labs.test_dns import look_up

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(
    not CASES.is_dir(),
    reason="needs a folder of example manifests of other projects "
    "beside the checkout (../shared/cases)",
)

WEBSITE = CASES / "website"
REFUSED = {
    "service/networking/dual-stack-ipfamilies-ipv6.yaml": (
        'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster'
    ),
}
FILES = sorted(path.relative_to(WEBSITE).as_posix() for path in WEBSITE.rglob("*.yaml"))


@pytest.mark.parametrize("file", FILES)
def test_examples_of_the_documentation_are_accepted(file: str) -> None:
    """Only what Kubernetes rejects on an IPv4 cluster is rejected, with its reason."""
    result = run("plan", "-f", str(WEBSITE / file), status=2 if file in REFUSED else 0)
    assert "error" not in result.err or file in REFUSED
    if file in REFUSED:
        assert REFUSED[file] in result.err
        assert f"{file}:9" in result.err


@pytest.mark.parametrize("file", REFUSED)
def test_a_dual_stack_cluster_accepts_dual_stack_examples(file: str) -> None:
    """The same file follows a Cluster document with both families."""
    result = run("plan", "-f", "-", "-f", str(WEBSITE / file), stdin=DUAL, status=0)
    assert "ip6 kube-proxy no-endpoint-services" in result.out


def test_all_examples_of_the_documentation_run_in_one_lab(lab: Lab) -> None:
    """Pods run, Services answer, and kinds that are not modelled are kept and named."""
    # Another Deployment my-nginx is in application/nginx-app.yaml.
    twice = "service/networking/run-my-nginx.yaml"
    accepted = [
        word
        for file in FILES
        if file not in (*REFUSED, twice)
        for word in ("-f", str(WEBSITE / file))
    ]
    result = lab.run("up", *accepted, "-f", str(WEBSITE / twice), status=2)
    assert (
        f"{twice}:6  Deployment default/my-nginx: spec.selector: field is immutable" in result.err
    )
    assert "is given twice: keep one of them" in result.err
    result = lab.run("up", *accepted, "--policy", "none", status=1)
    assert re.search(r"not enforced: .*NetworkPolicy", result.err)
    assert "Unschedulable" in result.err  # pod-nginx requires a node with the label disktype=ssd
    pods = {pod["metadata"]["name"]: pod for pod in lab.get("pods")["items"]}
    assert pods["nginx"]["status"]["phase"] == "Pending"
    assert lab.run("get", "networkpolicies", "-A").out.count("\n") > 3
    ingresses = lab.get("ingress")["items"]
    assert ingresses
    assert ingresses[0]["spec"]["rules"]
    kinds = [
        word
        for kind in ("NetworkPolicy", "Ingress", "Gateway", "HTTPRoute")
        for word in ("--allow-unmodelled", kind)
    ]
    assert lab.run("ping", "-o", "json", *kinds).json["ok"]
    backend = lab.service("hello")
    (frontend,) = lab.pods("frontend")
    assert look_up(lab, frontend["name"], "hello") == [backend["cluster_ips"]]
    names = {pod["name"] for pod in lab.pods("backend")}
    answers = lab.ask(frontend, *[("TCP", backend["cluster_ips"][0], 80)] * 30)
    assert {answer.server for answer in answers} == names
    assert (
        lab.run("ping", "ext:client", "lb:frontend", "--tcp", "80", "-o", "json", *kinds).json[
            "found"
        ]
        == "answer"
    )
    custom = lab.run("exec", "dns-example", "--", "cat", "/etc/resolv.conf").out
    assert "nameserver 1.2.3.4" in custom
    assert "search ns1.svc.cluster-domain.example my.dns.search.suffix" in custom
    assert "options ndots:2 edns0" in custom


# --- DNS ---


@pytest.fixture(scope="module")
def zone() -> Iterator[Lab]:
    for lab in new_lab():
        result = lab.run(
            "up", "-f", "-", "-f", str(CASES / "dns" / "objects.yaml"), stdin=DUAL, status=1
        )
        # The port of its readiness probe is not served.
        assert "demo/sick: Unhealthy" in result.err
        yield lab


RECORDS = (
    yaml.safe_load((CASES / "dns" / "records.yaml").read_text())
    if CASES.is_dir()
    else {"records": [], "search": []}
)


def fill(text: str, lab: Lab) -> str:
    """Replace `${podIP:demo/plain}` and similar placeholders by the values of the lab."""

    def value(match: re.Match[str]) -> str:
        kind, _, rest = match[1].partition(":")
        if kind == "reverse":
            return ipaddress.ip_address(fill("${" + rest + "}", lab)).reverse_pointer
        namespace, _, name = rest.partition("/")
        if kind.startswith("clusterIP"):
            family = kind.removeprefix("clusterIP")
            addresses = lab.service(name, namespace)["cluster_ips"]
            return next(
                str(address)
                for address in addresses
                if not family or (":" in address) == (family == "6")
            )
        address = str(
            next(
                pod
                for pod in lab.inspected["pods"]
                if (pod["namespace"], pod["name"]) == (namespace, name)
            )["addresses"][0]
        )
        return address if kind == "podIP" else address.replace(".", "-")

    return re.sub(r"\$\{([^}]*)\}", value, text)


DNS_CLIENT = """
import socket, sys
connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
connection.settimeout(2)
connection.sendto(bytes.fromhex(sys.argv[1]), ("10.96.0.10", 53))
print(connection.recv(65535).hex())
"""


@pytest.mark.parametrize("row", RECORDS["records"], ids=lambda row: f"{row['name']}-{row['type']}")
def test_dns_records_follow_the_specification(zone: Lab, row: dict[str, Any]) -> None:
    """A pod's DNS query returns the response code, the set of answers and the aliases."""
    import dnslib

    question = bytes(dnslib.DNSRecord.question(fill(row["name"], zone), row["type"]).pack()).hex()
    plain = next(
        pod
        for pod in zone.inspected["pods"]
        if (pod["namespace"], pod["name"]) == ("demo", "plain")
    )
    reply = dnslib.DNSRecord.parse(
        bytes.fromhex(zone.inside(plain, "python3", "-S", "-c", DNS_CLIENT, question).strip())
    )
    assert dnslib.RCODE[reply.header.rcode] == row.get("rcode", "NOERROR")
    records: dict[str, set[str]] = {}
    for record in reply.rr:
        text = str(record.rdata).rstrip(".").strip('"')
        records.setdefault(dnslib.QTYPE[record.rtype], set()).add(
            " ".join(text.split()[2:]) if record.rtype == dnslib.QTYPE.SRV else text
        )
    assert records.get(row["type"], set()) == {
        fill(answer, zone) for answer in row.get("answer", ())
    }
    if "cname" in row:
        assert records["CNAME"] == {row["cname"]}


@pytest.mark.parametrize("row", RECORDS["search"], ids=lambda row: f"{row['from']}-{row['name']}")
def test_a_pod_resolves_names_with_its_own_search_path(zone: Lab, row: dict[str, Any]) -> None:
    """The resolver is that of libc inside the pod."""
    *pod, service, namespace = (row["finds"] or ".").partition(".svc.")[0].split(".")
    expected: Any = "none"
    if pod:
        # The headless Service is single-stack.
        expected = zone.pod(pod[0], namespace)["addresses"][:1]
    elif row["finds"]:
        expected = zone.service(service, namespace)["cluster_ips"]
    assert look_up(zone, row["from"], row["name"]) == [expected]
