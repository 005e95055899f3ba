"""Targets: the forms that address pods, Services, nodes, hosts and DNS names."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab.errors import ManifestError, UsageError
from kubenetlab.observe.check import check
from kubenetlab.observe.connections import Ends
from kubenetlab.observe.destinations import find
from kubenetlab.observe.grammar import KUBECTL_KINDS, WORKLOADS, Target, parse
from kubenetlab.observe.locations import Location, places
from kubenetlab.observe.meanings import meaning, service_of
from kubenetlab.observe.request import ProbeSpecification, RequestOptions, ip_version, make_request
from kubenetlab.observe.targets import named_places, pod_of, read, resolve
from kubenetlab.observe.truth_table import load


def pod(
    name: str,
    address: str,
    namespace: str = "default",
    workload: str | None = None,
    *,
    host_network: bool = False,
) -> dict[str, Any]:
    return {
        "namespace": namespace,
        "name": name,
        "workload": workload,
        "node": "worker",
        "pid": 20,
        "sandbox": f"pod/{namespace}/{name}",
        "netns": f"/{namespace}/{name}",
        "addresses": [address],
        "ready": True,
        "host_network": host_network,
        "containers": [{"ports": [8080]}],
    }


def service(
    name: str,
    cluster_ips: Sequence[str],
    port: int = 80,
    namespace: str = "default",
    endpoint: str = "10.244.1.2",
) -> dict[str, Any]:
    return {
        "namespace": namespace,
        "name": name,
        "type": "ClusterIP",
        "proxied": True,
        "internal_traffic_policy": "Cluster",
        "cluster_ips": list(cluster_ips),
        "load_balancer_ips": [],
        "virtual_ips": [],
        "source_ranges": [],
        "ports": [{"name": "", "port": port, "protocol": "TCP", "node_port": None}],
        "endpoints": [{"address": endpoint, "port": 8080, "port_name": "", "ready": True}],
    }


SEEN: dict[str, Any] = {
    "nodes": [
        {
            "name": "worker",
            "pid": 10,
            "sandbox": "node/worker",
            "netns": "/n10",
            "addresses": ["172.18.0.3"],
        }
    ],
    "external": [
        {
            "name": "client",
            "pid": 30,
            "sandbox": "ext/client",
            "netns": "/n30",
            "addresses": ["198.51.100.10"],
        }
    ],
    "pods": [
        pod("web-6bd7cd67c6-hcxd6", "10.244.1.2", workload="Deployment/web"),
        pod("db-0", "10.244.1.3", "shop", "StatefulSet/db"),
        pod("both", "10.244.1.4"),
        pod("agent", "172.18.0.3", "kube-system", "DaemonSet/agent", host_network=True),
        pod("one", "10.244.1.5", workload="Deployment/twins"),
        pod("two", "10.244.1.6", workload="StatefulSet/twins"),
        pod("cart", "10.244.1.7", "svc"),
        pod("mail", "10.244.1.8", "job"),
    ],
    "kube_proxy_mode": "nftables",
    "services": [
        service("web", ["10.96.7.7"]),
        service("both", ["10.96.7.8"], endpoint="10.244.1.4"),
        service("db", [], 5432, "shop", "10.244.1.3"),
        service("dns", ["10.96.0.10"], 53, "kube-system"),
        service("cart", ["10.96.7.9"]),
    ],
}
HOST, POD = (next(place for place in places(SEEN) if place.kind == kind) for kind in ("ext", "pod"))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("svc:web:80", Target("svc", "default", "web", 80)),
        ("svc:shop/web:53/udp", Target("svc", "shop", "web", 53, "UDP")),
        ("svc/web:80", Target("svc", "default", "web", 80)),
        ("service/web", Target("svc", "default", "web")),
        ("web", Target("word", "", "web")),
        ("web:80", Target("word", "", "web", 80)),
        ("web.default:80", Target("name", "", "web.default", 80)),
        ("dns:web", Target("name", "", "web")),
        ("10.96.0.10:53", Target("ip", "", "10.96.0.10", 53)),
        ("10.96.0.10", Target("ip", "", "10.96.0.10")),
        ("ip:10.96.0.10:53/UDP", Target("ip", "", "10.96.0.10", 53, "UDP")),
        ("[fd00::1]:80", Target("ip", "", "fd00::1", 80)),
        ("fd00::1:80", Target("ip", "", "fd00::1:80")),
        ("http://web/hostname", Target("name", "", "web", 80, "TCP", "http", "/hostname")),
        ("http://web:8080", Target("name", "", "web", 8080, "TCP", "http", "/")),
        ("http://[fd00::1]/a?b=c#d", Target("ip", "", "fd00::1", 80, "TCP", "http", "/a?b=c")),
        ("pod/web-0", Target("pod", "default", "web-0")),
        ("pod:shop/web-0:8080", Target("pod", "shop", "web-0", 8080)),
        ("node/worker:30080", Target("node", "", "worker", 30080)),
        ("node:5", Target("node", "", "5")),
        ("each:sts/db", Target("each", "default", "StatefulSet/db")),
        ("nodeport:*/cart:80", Target("nodeport", "default", "*/cart", 80)),
        ("svc:default/web:80/TCP IPv6", Target("svc", "default", "web", 80, "TCP", family="IPv6")),
    ],
)
def test_a_target_may_have_a_port_a_protocol_and_a_path(text: str, target: Target) -> None:
    """The forms of kubectl, curl and ip are accepted beside prefixes."""
    assert parse(text) == target


NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
PORTS = st.none() | st.integers(1, 65535)


@st.composite
def targets(draw: st.DrawFn) -> Target:
    """Draw any target that a command may print."""
    kind: Any = draw(
        st.sampled_from(
            ["pod", "svc", "lb", "node", "ext", "ip", "name", "each", "nodeport", *WORKLOADS]
        )
    )
    namespace = "" if kind in ("node", "ext", "ip", "name") else draw(NAMES)
    name = draw(st.ip_addresses()).compressed if kind == "ip" else draw(NAMES)
    name = f"{name}.{draw(NAMES)}" if kind == "name" and draw(st.booleans()) else name
    if kind in ("each", "nodeport"):
        first = draw(st.sampled_from(list(WORKLOADS.values())) if kind == "each" else NAMES)
        name = f"{first}/{name}"
    port = draw(PORTS)
    protocol: Any = draw(st.sampled_from([None, "TCP", "UDP", "SCTP"])) if port else None
    if kind in ("ip", "name") and port and draw(st.booleans()):
        return Target(
            kind,
            namespace,
            name,
            port,
            "TCP",
            "http",
            "/" + draw(st.from_regex("[a-z/?=]{0,9}", fullmatch=True)),
        )
    return Target(
        kind, namespace, name, port, protocol, family=draw(st.sampled_from([None, "IPv4", "IPv6"]))
    )


@given(targets())
def test_a_printed_target_is_parsed_to_an_equal_target(target: Target) -> None:
    """Titles in reports can be copied to the next command."""
    assert parse(str(target)) == target


@given(st.text(max_size=30) | st.from_regex(r"[a-z:/.\[\]0-9]{0,20}", fullmatch=True))
def test_any_text_is_a_target_or_a_usage_error(text: str) -> None:
    """No other exception reaches a user."""
    with suppress(UsageError):
        assert parse(text).name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("svc:web:0", "svc:web:0: wanted a port from 1 to 65535, found 0"),
        ("web:70000", "wanted a port from 1 to 65535, found 70000"),
        ("svc:web:http", 'wanted a port from 1 to 65535 after the last colon, found "http"'),
        ("nod:worker", "did you mean node?"),
        ("ftp://web/", 'the scheme "ftp" is not supported; wanted http://NAME[:PORT]/PATH'),
        ("http:///x", "wanted http://NAME[:PORT]/PATH"),
        ("http://a:b@web/", "user and password are not supported"),
        ("each:Deploymnt/web", "Deploymnt is not a kind of workload; did you mean Deployment?"),
        ("svc:", '"" is not a name'),
        ("a b", '"a b" is not a name'),
    ],
)
def test_a_text_that_is_no_target(text: str, message: str) -> None:
    """The message quotes the text and shows the expected form."""
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(text)


@pytest.mark.parametrize(
    ("text", "target", "service_name"),
    [
        ("web", "dns:web", ("default", "web")),
        ("web:81", "dns:web:81", ("default", "web")),
        ("web.default:80", "web.default:80", ("default", "web")),
        ("db.shop.svc.cluster.local", "db.shop.svc.cluster.local", ("shop", "db")),
        ("http://web/hostname", "http://web/hostname", ("default", "web")),
        ("db", "dns:db", None),
        ("one", "default/one", None),
        ("pod/both", "default/both", None),
        ("example.com", "example.com", None),
        ("nothing", "dns:nothing", None),
    ],
)
def test_a_bare_name_is_a_pod_a_service_a_workload_or_a_dns_name(
    text: str, target: str, service_name: tuple[str, str] | None
) -> None:
    """For a client in namespace default."""
    found = meaning(read(text, SEEN), SEEN, POD)
    assert (str(found.target), found.service) == (target, service_name)


def test_a_service_is_looked_up_in_the_clients_namespace() -> None:
    """DNS completes a bare name with it; -n gives another one."""
    client = structs.replace(POD, namespace="shop")
    assert meaning(parse("db"), SEEN, client) == meaning(parse("db", "shop"), SEEN, client)
    assert str(meaning(parse("db", "shop"), SEEN, POD).target) == "db.shop"
    assert meaning(parse("web"), SEEN, client).service is None
    found = meaning(parse("db"), SEEN, client)
    assert found.explanation("db") == "db: Service shop/db by its DNS name db (not sts:shop/db)"


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("both:80", "both is ambiguous; use one of: default/both:80, svc:default/both:80"),
        ("twins", "twins is ambiguous; use one of: deploy:default/twins, sts:default/twins"),
        ("svc/cart", "svc/cart is ambiguous; use one of: svc:default/cart, pod:svc/cart"),
    ],
)
def test_an_ambiguous_destination_is_refused_with_the_exact_forms(text: str, forms: str) -> None:
    """Each form in the message parses, and is not ambiguous."""
    with pytest.raises(UsageError, match=re.escape(forms)):
        meaning(read(text, SEEN), SEEN, POD)
    for form in forms.partition("use one of: ")[2].split(", "):
        assert str(meaning(read(form, SEEN), SEEN, POD).target) == form


def test_a_name_alone_is_the_pod_before_the_service() -> None:
    """The Service of the same name is named as the alternative."""
    found = meaning(parse("both"), SEEN, POD)
    assert str(found.target) == "default/both"
    assert found.explanation("both") == "both: default/both (not svc:default/both)"


@pytest.mark.parametrize("source", [HOST, None], ids=["host", "none"])
def test_a_client_without_cluster_dns_means_the_pod(source: Location | None) -> None:
    """A Service of the same name is no alternative for it."""
    assert str(meaning(parse("both"), SEEN, source).target) == "default/both"


def test_a_namespace_named_like_a_kind_still_holds_pods() -> None:
    """`job/mail` is the pod `mail` of the namespace `job` where there is no Job of that name."""
    assert read("job/mail", SEEN) == Target("pod", "job", "mail")
    assert read("job/other", SEEN) == Target("job", "default", "other")
    assert "job" in KUBECTL_KINDS


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("web", "default/web-6bd7cd67c6-hcxd6"),
        ("deployment/web", "default/web-6bd7cd67c6-hcxd6"),
        ("pod/both", "default/both"),
        ("both", "default/both"),
        ("db.shop", "shop/db-0"),
        ("db-0.shop", "shop/db-0"),
        ("10.244.1.3", "shop/db-0"),
        ("172.18.0.3", "node:worker"),
        ("node/worker", "node:worker"),
        ("198.51.100.10", "ext:client"),
    ],
)
def test_a_source_is_a_pod_a_workload_a_node_or_a_host(text: str, title: str) -> None:
    """A Service of the same name does not make it ambiguous; an address stands for its owner."""
    assert resolve(read(text, SEEN), SEEN).title == title
    assert [place.title for place in named_places(read(text, SEEN), SEEN)] == [title]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("svc:web:80", "no process runs in a Service, its pods are: default/web-6bd7cd67c6-hcxd6"),
        (
            "svc:wbe",
            "there is no Service default/wbe; did you mean svc:default/web or deploy:default/web?",
        ),
        ("http://web/", "found a URL"),
        ("10.1.2.3", "no pod, node or host has this address"),
        ("both:80", "both:80: a source has no port; use both"),
        ("twins", "twins is ambiguous; use one of: deploy:default/twins, sts:default/twins"),
        ("wokrer", "there is no pod default/wokrer; did you mean node:worker?"),
        ("db-0", "there is no pod default/db-0; did you mean shop/db-0?"),
    ],
)
def test_a_target_that_runs_nothing_is_no_source(text: str, message: str) -> None:
    """The message shows what to use instead."""
    with pytest.raises(UsageError, match=re.escape(message)):
        resolve(read(text, SEEN), SEEN)


def test_logs_take_the_same_forms() -> None:
    """A pod is named by itself, by its workload, in kubectl's form, or by its address."""
    for text in ("web", "deploy/web", "pod/web-6bd7cd67c6-hcxd6", "10.244.1.2"):
        assert pod_of(read(text, SEEN), SEEN) == ("default", "web-6bd7cd67c6-hcxd6")


@pytest.mark.parametrize(
    "text",
    [
        "svc:web",
        "svc/web:80",
        "web",
        "web.default:80",
        "10.96.7.7:80",
        "http://web/x",
        "http://10.96.7.7/",
    ],
)
def test_every_form_leads_to_the_service(text: str) -> None:
    """The forms are those of port-forward and inspect."""
    assert service_of(read(text, SEEN), SEEN) == ("default", "web")


@pytest.mark.parametrize(
    ("text", "options", "request_"),
    [
        ("web", RequestOptions(), ProbeSpecification()),
        ("web:80", RequestOptions(), ProbeSpecification("TCP", 80)),
        ("web:80/udp", RequestOptions(), ProbeSpecification("UDP", 80)),
        ("web:80", RequestOptions("UDP"), ProbeSpecification("UDP", 80)),
        ("web", RequestOptions("TCP", 80), ProbeSpecification("TCP", 80)),
        ("web:80", RequestOptions("TCP", 80), ProbeSpecification("TCP", 80)),
        ("web:8080", RequestOptions(path="/x"), ProbeSpecification("TCP", 8080, "/x")),
        ("web", RequestOptions(path="/x"), ProbeSpecification("TCP", None, "/x")),
        ("http://web/x", RequestOptions(), ProbeSpecification("TCP", 80, "/x")),
    ],
)
def test_a_target_and_options_are_one_request(
    text: str, options: RequestOptions, request_: ProbeSpecification
) -> None:
    """A port without a protocol is TCP; a target without a port is pinged."""
    assert make_request(parse(text), options) == request_


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "web:80",
            RequestOptions("TCP", 81, port_option="--tcp"),
            "web:80 has the port 80, but --tcp is 81; give one of them",
        ),
        (
            "web:80/udp",
            RequestOptions("TCP"),
            "web:80/UDP has the protocol UDP, but protocol is TCP",
        ),
        ("http://web/x", RequestOptions("UDP"), "HTTP uses TCP, but protocol is UDP"),
        (
            "http://web/x",
            RequestOptions(path="/y"),
            "http://web/x has the path /x, but --http is /y",
        ),
        (
            "web:80/udp",
            RequestOptions(path="/y"),
            "--http /y: HTTP uses TCP, but web:80/UDP has the protocol UDP",
        ),
        (
            "https://web/x",
            RequestOptions(),
            "https is not supported. Use http://web/x, or run a program",
        ),
    ],
)
def test_a_target_and_options_that_contradict_each_other(
    text: str, options: RequestOptions, message: str
) -> None:
    """Neither of the two is ignored."""
    with pytest.raises(UsageError, match=re.escape(message)):
        make_request(parse(text), options)


def test_a_printed_family_is_an_option() -> None:
    """`svc:web:80/TCP IPv6` requires IPv6."""
    assert (
        ip_version(parse("web IPv6"), None),
        ip_version(parse("web"), 4),
        ip_version(parse("web IPv4"), 4),
    ) == (6, 4, 4)
    with pytest.raises(UsageError, match="-4 and IPv6 of web IPv6 are mutually exclusive"):
        ip_version(parse("web IPv6"), 4)


class Names:
    """Name resolution with a fixed answer."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    async def resolve(self, name: str, versions: Sequence[int] = ()) -> str:
        if not self.answer:
            raise OSError(f"lookup {name}: no such host")
        return self.answer


def where(text: str, answer: str = "10.96.7.7", source: Location = POD, **options: Any) -> Any:
    target = read(text, SEEN)
    return asyncio.run(
        find(Names(answer), SEEN, source, target, make_request(target, RequestOptions(**options)))
    )


@pytest.mark.parametrize(
    ("text", "title", "address", "port"),
    [
        ("svc:web:80", "svc:default/web:80/TCP", "10.96.7.7", 80),
        ("svc:web", "svc:default/web:80/TCP", "10.96.7.7", 80),
        ("web", "dns:web:80/TCP", "10.96.7.7", 80),
        ("web.default:80", "web.default:80/TCP", "10.96.7.7", 80),
        ("10.96.7.7:80", "10.96.7.7", "10.96.7.7", 80),
        ("http://web/hostname", "dns:web:80/TCP", "10.96.7.7", 80),
        ("pod/both:8080", "default/both", "10.244.1.4", 8080),
        ("pod/both", "default/both", "10.244.1.4", 0),
        ("twins/x.example", "", "", 0),
    ],
)
def test_the_address_behind_a_target(text: str, title: str, address: str, port: int) -> None:
    """A Service is recognised in every form, so that its result can be predicted."""
    if not title:
        with pytest.raises(UsageError, match="there is no pod twins/x"):
            where(text)
        return
    found = where(text)
    assert (found.title, found.address, found.port) == (title, address, port)
    assert (found.known is not None) == ("both:" not in text)


def test_dns_that_misleads_is_reported() -> None:
    """No answer, and the address of another object, are failures of the Service's name."""
    assert where("web", "").unresolved == "lookup web: no such host"
    assert (
        where("web", "10.96.7.8").unresolved
        == "lookup web: DNS answers 10.96.7.8, but Service default/web has 10.96.7.7"
    )
    with pytest.raises(
        UsageError,
        match=re.escape(
            "ext:client: lookup web: no such host; ext:client does not use the cluster's "
            "DNS, use svc:default/web"
        ),
    ):
        where("web", "", HOST)
    with pytest.raises(
        UsageError,
        match="lookup wbe: no such host; did you mean svc:default/web or deploy:default/web",
    ):
        where("wbe", "")


def test_a_chosen_object_is_named() -> None:
    """A name that could also be a workload's is shown with the choice."""
    assert (
        where("web").choice
        == "web: Service default/web by its DNS name web (not deploy:default/web)"
    )
    assert where("one").choice == ""
    assert (
        where("nothing", "198.51.100.10").choice
        == "nothing: no object has this name; used as a DNS name"
    )


def test_rows_of_a_table_take_the_same_forms(tmp_path: Path) -> None:
    """A port in the target counts for the row; ambiguous and unknown names fail the row."""
    file = tmp_path / "expect.yaml"
    file.write_text(
        "- {from: one, to: 'both:80', allowed: true}\n- {from: twins, to: 'svc:web:80', "
        "allowed: true}\n- {from: one, to: 'svc:wbe', port: 80, allowed: false}\n"
    )
    found = [verdict.found for verdict in check(*load(str(file)), SEEN, None)]
    assert found == [
        "both is ambiguous; use one of: default/both:80, svc:default/both:80",
        "twins is ambiguous; use one of: deploy:default/twins, sts:default/twins",
        "there is no Service default/wbe with a cluster IP; did you mean svc:default/web or "
        "deploy:default/web?",
    ]
    file.write_text(
        "- {from: one, to: 'svc:web:80', port: 81, allowed: true}\n- {from: one, to: "
        "'http://web/', protocol: UDP, allowed: true}\n"
    )
    with pytest.raises(ManifestError) as caught:
        load(str(file))
    assert "svc:default/web:80 has the port 80, but port is 81; give one of them" in str(
        caught.value
    )
    assert "HTTP uses TCP, but protocol is UDP; give one of them" in str(caught.value)


def test_stable_names_say_which_pod() -> None:
    """The index is a StatefulSet's ordinal, a DaemonSet's node, else the order of creation."""
    workloads = [
        ("db-1", "StatefulSet/db"),
        ("db-0", "StatefulSet/db"),
        ("agent-x", "DaemonSet/agent"),
        ("web-a", "Deployment/web"),
    ]
    seen = {
        **SEEN,
        "pods": [
            pod(name, f"10.0.0.{index}", workload=owner)
            for index, (name, owner) in enumerate(workloads)
        ],
    }
    ends = Ends(seen)
    names = [ends.stable_name(place) for place in places(seen) if place.kind == "pod"]
    assert names == ["sts/db[1]", "sts/db[0]", "ds/agent[worker]", "deploy/web[0]"]
