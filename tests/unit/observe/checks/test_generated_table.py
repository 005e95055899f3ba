"""Tables that are generated from probes."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.observe.checks.closed_ports import ClosedCell
from kubenetlab.observe.checks.generated_table import generated_table
from kubenetlab.observe.matrix import Cell
from kubenetlab.observe.node_ports import at_node
from kubenetlab.observe.pod_ports import PodPort, host_port
from kubenetlab.observe.prober import Result
from tests.unit.observe.policies.worlds import PODS, World, world

LAB = world("", PODS)


def _rows(lab: World, sources: tuple[str, ...], *, is_served: bool = True) -> list[str]:
    """Return the rows to a port of an external host from some pods; all pods ping the host."""
    host = lab.seen["external"][0]
    address = host["addresses"][0]
    port = host_port(host, address, 443, is_served=is_served)
    ping = ((address, Result("answer")),)
    connect = ((address, Result("answer" if is_served else "refused")),)
    cells = [
        *(
            Cell(lab.places[name], lab.places["ext:client"], "answer", ping)
            for name in ("web", "client", "far")
        ),
        *(Cell(lab.places[name], port, "answer", connect) for name in sources),
    ]
    text = generated_table(cells, lab.seen, "lab")
    return [line for line in text.splitlines() if "port: 443" in line]


def test_pods_of_a_namespace_share_a_row_if_all_were_probed() -> None:
    """A row for the namespace would say too much about the others."""
    assert _rows(LAB, ("web", "client", "far")) == [
        '- {from: "each:Namespace/default", to: "ext:client", port: 443, expect: allow}'
    ]
    assert _rows(LAB, ("web", "far"), is_served=False) == [
        '- {from: default/far, to: "ext:client", port: 443, expect: reject}',
        '- {from: default/web, to: "ext:client", port: 443, expect: reject}',
    ]


def test_a_port_that_was_probed_in_one_family_has_a_row_for_this_family() -> None:
    """Policies may name a port for a range of the other family than the primary one."""
    host: Any = {**LAB.seen["external"][0], "addresses": ["198.51.100.10", "2001:db8::10"]}
    cells = [
        Cell(
            LAB.places["web"],
            host_port(host, address, number, is_served=False),
            "refused",
            ((address, Result("refused")),),
        )
        for address, numbers in (("198.51.100.10", (80,)), ("2001:db8::10", (80, 443)))
        for number in numbers
    ]
    row = '- {from: default/web, to: "ext:client", port: '
    rows = generated_table(cells, LAB.seen, "lab").splitlines()
    assert [each for each in rows if each.startswith("-")] == [
        f"{row}80, expect: reject}}",
        f"{row}443, family: IPv6, expect: reject}}",
    ]


@pytest.mark.parametrize(
    ("title", "is_served", "expected"),
    [
        ("web:9999/TCP", False, "drop"),
        ("web:8080/TCP", True, "deny"),
        ("svc:none", True, "drop"),
        ("svc:web", True, "deny"),
    ],
)
def test_a_refusal_is_no_denial_where_nothing_listens(
    title: str, is_served: bool, expected: str
) -> None:
    """Without policies, the kernel refuses such a connection. Elsewhere, it would be answered."""
    web = LAB.places["web"]
    port = int(title.partition(":")[2].partition("/")[0]) if "/" in title else 0
    destination = LAB.services.get(title) or PodPort(
        "default", "web", web.address, port, "TCP", ((web.address, port),), is_served=is_served
    )
    silent = ((web.address, Result("silence")),)
    cells = [Cell(LAB.places["far"], destination, "nothing", silent)]
    (row,) = [
        line
        for line in generated_table(cells, LAB.seen, "lab").splitlines()
        if line.startswith("- ")
    ]
    assert row.endswith(f"expect: {expected}}}")


def _node_port_rows(lab: World, *outcomes: tuple[str, str]) -> list[str]:
    """Return the rows for a Service from the results of `ext:client` at nodes."""
    (service,) = (each for each in lab.seen["services"] if each["name"] == "open")
    number = service["ports"][0]["node_port"]
    cells = []
    for node, outcome in outcomes:
        (target, *_) = at_node(lab.seen, node, "default", "open", number or 0, "TCP")
        result: Any = Result(outcome)  # type: ignore[arg-type]
        cells += [
            Cell(lab.places[source], target, "answer", ((target.address, result),))
            for source in ("ext:client", "client")
        ]
    text = generated_table(cells, lab.seen, "lab")
    return [line for line in text.splitlines() if line.startswith("- ")]


def test_node_ports_have_rows_for_hosts_outside() -> None:
    """One row is about all nodes if all of them were probed, and have the same result."""
    row = '- {from: "ext:client", to: "nodeport:'
    nodes = ("control-plane", "worker", "worker2")
    assert _node_port_rows(LAB, *((node, "answer") for node in nodes)) == [
        f'{row}*/default/open", port: 80, expect: allow}}'
    ]
    assert _node_port_rows(LAB, *((node, "answer") for node in nodes[:2])) == [
        f'{row}{node}/default/open", port: 80, expect: allow}}' for node in nodes[:2]
    ]
    results = zip(nodes, ("answer", "silence", "silence"), strict=True)
    assert _node_port_rows(LAB, *results) == [
        f'{row}{node}/default/open", port: 80, expect: {expected}}}'
        for node, expected in zip(nodes, ("allow", "deny", "deny"), strict=True)
    ]


def test_closed_ports_share_rows_that_say_nothing_about_other_pods() -> None:
    """Rows are about a whole namespace where all of its pods are closed to each other."""
    pods = [LAB.places[name] for name in ("web", "client", "far")]
    pings = [
        Cell(one, other, "answer", ((other.address, Result("answer")),))
        for one in pods
        for other in pods
        if one is not other
    ]

    def rows(*pairs: str) -> list[str]:
        cells = []
        for pair in pairs:
            source, destination = (LAB.places[name] for name in pair.split(" → "))
            port = PodPort(
                "default", destination.name, destination.address, 22, "TCP", (), is_served=False
            )
            silent = ((destination.address, Result("silence")),)
            is_telling = not pair.startswith("web")
            cells.append(ClosedCell(Cell(source, port, "nothing", silent), is_telling))
        text = generated_table(pings, LAB.seen, "lab", cells)
        return [line for line in text.splitlines() if "port: 22" in line]

    to_web = ("client → web", "far → web")
    namespace = '"each:Namespace/default"'
    assert rows(*to_web) == [
        "- {from: default/client, to: default/web, port: 22, expect: drop}",
        "- {from: default/far, to: default/web, port: 22, expect: drop}",
    ]
    assert rows(*to_web, "web → client", "far → client", "web → far", "client → far") == [
        f"- {{from: {namespace}, to: {namespace}, port: 22, expect: drop}}"
    ]
    assert rows("web → client", "web → far") == []
    assert rows("client → web", "client → far") == [
        f"- {{from: default/client, to: {namespace}, port: 22, expect: drop}}"
    ]
