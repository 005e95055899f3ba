"""Destinations of probes and rows: requests, addresses, and names of both ends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.errors import ManifestError, UsageError
from kubenetlab.observe.checks.check import check
from kubenetlab.observe.checks.truth_table import load
from kubenetlab.observe.connections import Ends
from kubenetlab.observe.destinations import find
from kubenetlab.observe.request import ProbeSpecification, RequestOptions, ip_version, make_request
from kubenetlab.observe.targets.grammar import parse
from kubenetlab.observe.targets.locations import Location, places
from kubenetlab.observe.targets.resolution import read
from tests.unit.observe.documents import HOST, POD, SEEN, pod


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
    found = [
        verdict.found
        for verdict in check(*load(str(file)), SEEN, lambda source: pytest.fail(source.title))
    ]
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
    seen: Any = {
        **SEEN,
        "pods": [
            pod(name, f"10.0.0.{index}", workload=owner)
            for index, (name, owner) in enumerate(workloads)
        ],
    }
    ends = Ends(seen)
    names = [ends.stable_name(place) for place in places(seen) if place.kind == "pod"]
    assert names == ["sts/db[1]", "sts/db[0]", "ds/agent[worker]", "deploy/web[0]"]
