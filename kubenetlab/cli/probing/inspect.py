"""inspect and diff: how things stand in the kernel."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace, Output, OutputOption
from kubenetlab.cli.terminal.printing import (
    GOOD,
    echo,
    hint,
    paint,
    print_data,
    print_failures,
    print_faults,
    print_table,
)
from kubenetlab.lab.paths import LAB_API


def inspect(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            help="\\[ns/]pod, deploy:, svc:, node: or ext:; without it the whole lab.",
            show_default=False,
            autocompletion=candidates("destinations"),
        ),
    ] = None,
    namespace: Namespace = None,
    output: OutputOption = Output.table,
    lab: Lab = None,
) -> None:
    """Show what runs: pids, namespaces, addresses; with a target its objects in the kernel. Example: kubenetlab inspect svc:web

    Of a node or host: its links, routes and rules. Of a Service, workload or pod: addresses, endpoints, its rules or map entries on
    each node, and tracked connections; address translation is explained.
    With -o json it is made for other programs: enter a namespace with nsenter --net=PATH.
    """
    from kubenetlab.lab.client import choose

    client = choose(lab)
    seen = client.inspect()
    if target is None:
        if output.is_data:
            print_data(seen, output)
            return
        _show(seen)
        hint(f"kubenetlab inspect node:{seen['nodes'][0]['name']}")
        return
    from kubenetlab.cli.describe.kernel_objects import (
        inspect_pods,
        inspect_service,
        selected_pods,
        selected_service,
    )
    from kubenetlab.observe.targets import read, resolve

    wanted = read(target, seen, namespace)
    if (service := selected_service(wanted, seen)) is not None:
        inspect_service(client, seen, service, output)
        return
    place = resolve(wanted, seen, is_destination=True)
    detail = client.get(f"{LAB_API}/detail", netns=place.sandbox)
    del detail["listings"]
    found = {"name": place.title, "netns": place.netns, **detail}
    if not output.is_data:
        _show_namespace(
            {**found, "netns": place.netns}, place.addresses, is_wide=output is Output.wide
        )
    if place.kind == "pod":
        title, pods = selected_pods(wanted, seen, place)
        found |= inspect_pods(client, seen, pods, title, output)
    if output.is_data:
        print_data(found, output)
        return
    hint(f"kubenetlab shell {target}")


def _show_namespace(found: dict[str, Any], addresses: tuple[str, ...], *, is_wide: bool) -> None:
    """Print the links, addresses, routes and rules of one network namespace."""
    from kubenetlab.cli.labs.plan_output import fold

    echo(f"{paint(found['name'], None, bold=True)}  {', '.join(addresses)}")
    echo(f"netns {found['netns']}")
    for line in found["objects"] if is_wide else fold(found["objects"]):
        echo(f"  {line}")
    if found["rules"]:
        echo()
        echo(found["rules"].rstrip())


def diff(output: OutputOption = Output.table, lab: Lab = None) -> None:
    """Look at the kernel and show where it differs from what should be. Exit status 1 when it does. Example: kubenetlab diff

    Each line begins with what a repair would do: + adds, - removes, ~ changes. A change shows the desired state, then the observed
    one. Rules and elements are compared one by one; -o wide shows the content of chains that are missing or additional, too.
    The exit status is 1, too, while parts of the lab's store could not be read: what should be may be older than what you applied.
    """
    from kubenetlab.cli.labs.plan_output import show_differences
    from kubenetlab.lab.client import choose

    client = choose(lab)
    found: dict[str, Any] = client.get(f"{LAB_API}/diff")
    if output.is_data:
        print_data(found, output)
    elif found["changes"] or found["failures"]:
        if found["changes"]:
            show_differences(found["changes"], is_wide=output is Output.wide)
        print_failures(found["failures"])
        print_faults(found["faults"])
        hint(
            f"kubenetlab {'heal' if found['faults'] else 'up'} --lab {client.lab} (puts it right at once)"
        )
    else:
        echo(paint("the kernel is as it should be", GOOD))
        print_faults(found["faults"])
        hint("kubenetlab ping")
    if (
        found["changes"] or found["failures"] or found["warnings"]
    ):  # the warnings are printed with every answer
        raise typer.Exit(1)


def _show(seen: dict[str, Any]) -> None:
    echo(
        f"lab {paint(seen['lab'], None, bold=True)}: init {seen['init_pid']}, agent {seen['agent_pid']}, {seen['run_directory']}"
    )
    echo(f"pods {seen['pod_layout']}, neighbours {seen['neighbors']}")
    echo()
    print_table(
        ("NODE", "ADDRESS", "PODS' RANGE", "READY", "NETNS"),
        [
            (
                node["name"],
                ", ".join(node["addresses"]),
                ", ".join(node["pod_cidrs"]),
                "yes" if node["ready"] else "no",
                node["netns"] or "-",
            )
            for node in seen["nodes"]
        ],
    )
    echo()
    rows = [
        (
            f"{pod['namespace']}/{pod['name']}",
            ", ".join(pod["addresses"]) or "-",
            pod["node"] or "-",
            pod["host_ifname"] or "-",
            " ".join(str(port) for container in pod["containers"] for port in container["ports"])
            or "-",
            pod["netns"] or "-",
        )
        for pod in seen["pods"]
    ]
    print_table(("POD", "ADDRESS", "NODE", "NODE'S END", "PORTS", "NETNS"), rows)
    echo()
    print_table(
        ("EXTERNAL", "ADDRESS", "NETNS"),
        [
            (host["name"], ", ".join(host["addresses"]), host["netns"] or "-")
            for host in seen["external"]
        ],
    )
