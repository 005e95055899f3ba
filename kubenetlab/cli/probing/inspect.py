"""inspect and diff: show the kernel's objects, and their differences from the desired state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace, Output, OutputOption
from kubenetlab.cli.probing.agents import agents_run
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import (
    echo,
    hint,
    note,
    print_failures,
    print_faults,
    print_table,
)
from kubenetlab.cli.terminal.theme import BAD, GOOD, HEADING, paint
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection


def inspect(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            help="Pod (\\[ns/]name), deploy:, svc:, node: or ext:. Default: the whole lab.",
            show_default=False,
            autocompletion=candidates("destinations"),
        ),
    ] = None,
    namespace: Namespace = None,
    output: OutputOption = Output.table,
    lab: Lab = None,
) -> None:
    """Show processes, namespaces and addresses; with a target, its kernel objects.

    For a node or host: links, routes and rules. For a Service, workload or
    pod: addresses, endpoints, rules or map entries on each node, and tracked
    connections, with notes about address translation.
    -o json is for programs; enter a namespace with nsenter --net=PATH.

    Example: kubenetlab inspect svc:web
    """
    from kubenetlab.lab.client import select_lab

    client = select_lab(lab)
    inspected = client.inspect()
    if target is None:
        if output.is_data:
            print_document(inspected, output)
            return
        _show(inspected)
        hint(f"kubenetlab inspect node:{inspected['nodes'][0]['name']}")
        return
    from kubenetlab.cli.describe.identities import identities, print_identities
    from kubenetlab.cli.describe.kernel_objects import (
        inspect_pods,
        inspect_service,
        selected_pods,
        selected_service,
    )
    from kubenetlab.cli.probing.doubts import duplicates_of
    from kubenetlab.observe.targets.resolution import read, resolve

    parsed = read(target, inspected, namespace)
    if (service := selected_service(parsed, inspected)) is not None:
        inspect_service(client, inspected, service, output)
        return
    location = resolve(parsed, inspected, is_destination=True)
    detail = client.get(f"{LAB_API}/detail", netns=location.sandbox)
    del detail["listings"]
    document = {"name": location.title, "netns": location.netns_path, **detail}
    if not output.is_data:
        _show_namespace(
            {**document, "netns": location.netns_path},
            location.addresses,
            is_wide=output is Output.wide,
        )
    if location.kind == "pod":
        title, pods = selected_pods(parsed, inspected, location)
        names = {f"{pod['namespace']}/{pod['name']}" for pod in pods}
        for message in duplicates_of(client, names):
            note(f"{paint('✗', BAD)} {message}")
        if output.is_data:
            table = identities(client)
            document["identities"] = {
                pod: table["pods"][pod] for pod in sorted(names) if pod in table["pods"]
            }
        else:
            echo()
            print_identities(client, sorted(names))
        document |= inspect_pods(client, inspected, pods, title, output)
    if output.is_data:
        print_document(document, output)
        return
    hint(f"kubenetlab shell {target}")


def _show_namespace(document: JsonObject, addresses: tuple[str, ...], *, is_wide: bool) -> None:
    """Print the links, addresses, routes and rules of one network namespace."""
    from kubenetlab.cli.labs.plan_output import fold

    echo(f"{paint(document['name'], HEADING)}  {', '.join(addresses)}")
    echo(f"netns {document['netns']}")
    for line in document["objects"] if is_wide else fold(document["objects"]):
        echo(f"  {line}")
    if foreign := document.get("foreign"):  # an agent of an older version sends none
        echo("made by other programs:")
        for line in foreign:
            echo(f"  {line}")
    if keys := document.get("keys"):
        echo("keys of tunnels:")
        for entry in keys:
            echo(f"  {key_line(entry)}")
    if document["rules"]:
        echo()
        echo(document["rules"].rstrip())


def key_line(entry: JsonObject) -> str:
    """Return age and use of a key, as `wg show` and `ip -s xfrm state` have them."""
    from kubenetlab.cli.describe.cells import short_age

    since, age_s = "latest handshake", entry["age_s"]
    if entry["object"].startswith("xfrm"):
        since = "added"
    age = f"{since} {short_age(age_s)} ago" if age_s is not None else "no handshake yet"
    amounts = [
        f"{entry[f'{name}_bytes']:,} bytes {name}"
        for name in ("received", "sent")
        if entry[f"{name}_bytes"]
    ]
    return ", ".join([f"{entry['object']}: {age}", *amounts])


def diff(output: OutputOption = Output.table, lab: Lab = None) -> None:
    """Compare the kernel with the desired state and show the differences.

    Each line starts with what a repair would do: + adds, - removes, ~ changes.
    A change shows the desired state, then the observed state. Rules and set
    elements are compared one by one. -o wide also shows the content of missing
    and additional chains.
    The exit status is 1 if there is a difference, if two pods have the same
    address, or if parts of the lab's store cannot be read: the desired state
    may then be older than the manifests you applied.

    Example: kubenetlab diff
    """
    from kubenetlab.lab.client import select_lab

    client = select_lab(lab)
    report: JsonObject = client.get(f"{LAB_API}/diff")
    if output.is_data:
        print_document(report, output)
    elif report["changes"] or report["failures"] or report["duplicates"]:
        if report["changes"]:
            from kubenetlab.cli.labs.plan_output import show_differences

            show_differences(report["changes"], is_wide=output is Output.wide)
        print_failures(report["failures"])
        for message in report["duplicates"]:
            note(f"{paint('✗', BAD)} {message}")
        print_faults(report["faults"])
        command = "heal" if report["faults"] else "up"
        are_running = agents_run(client.inspect())
        if (pod := _changed_attachment(report)) and not report["faults"]:
            namespace, name = pod
            hint(
                f"kubenetlab delete pod {name} -n {namespace} --lab {client.lab}"
                " (the plugins attach its successor; apply a pod without a controller again)"
            )
        elif report["faults"] or (are_running and (report["changes"] or report["failures"])):
            hint(f"kubenetlab {command} --lab {client.lab} (repairs it at once)")
    else:
        echo(paint("the kernel is as it should be", GOOD))
        print_faults(report["faults"])
        hint("kubenetlab ping")
    # The client prints the warnings with every reply.
    if report["changes"] or report["failures"] or report["duplicates"]:
        raise typer.Exit(1)
    if report["warnings"]:
        raise typer.Exit(1)


def _show(inspected: Inspection) -> None:
    echo(
        f"lab {paint(inspected['lab'], HEADING)}: init {inspected['init_pid']}, "
        f"agent {inspected['agent_pid']}, {inspected['run_directory']}"
    )
    # Only CNI modes with a bridge have a layout.
    layout = f"pods {inspected['pod_layout']}, " if inspected["pod_layout"] else ""
    echo(f"{layout}neighbours {inspected['neighbors']}")
    echo()
    print_table(
        ("NODE", "ADDRESS", "POD CIDR", "READY", "NETNS"),
        [
            (
                node["name"],
                ", ".join(node["addresses"]),
                ", ".join(node["pod_cidrs"]),
                "yes" if node["ready"] else "no",
                node["netns"] or "-",
            )
            for node in inspected["nodes"]
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
        for pod in inspected["pods"]
    ]
    print_table(("POD", "ADDRESS", "NODE", "LINK ON NODE", "PORTS", "NETNS"), rows)
    echo()
    print_table(
        ("EXTERNAL", "ADDRESS", "NETNS"),
        [
            (host["name"], ", ".join(host["addresses"]), host["netns"] or "-")
            for host in inspected["external"]
        ],
    )


def _changed_attachment(report: JsonObject) -> tuple[str, str] | None:
    """Return namespace and name of the first pod if CNI plugins have found all differences.

    The lab cannot repair what its plugins have made.
    """
    if report["failures"] or not all(
        difference["object"].startswith("attachment ")
        for entry in report["changes"]
        for difference in entry["differences"]
    ):
        return None
    _, namespace, name, *_ = report["changes"][0]["netns"].split("/")
    return namespace, name
