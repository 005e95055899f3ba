"""explain-policy: the network policies that decide about a connection, and their kernel rules."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace, Output, OutputOption
from kubenetlab.cli.terminal.output_documents import print_document
from kubenetlab.cli.terminal.printing import hint


def explain_policy(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Source: pod (\\[ns/]name), deploy:, node:, ext: or an address.",
            show_default=False,
            autocompletion=candidates("locations"),
        ),
    ],
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DST",
            help=(
                "Destination: pod, deploy:, node:, ext:, svc:\\[ns/]name, nodeport: or ADDRESS, "
                "each with \\[:PORT]\\[/PROTOCOL]. Without a port: ICMP, or a Service's first port."
            ),
            show_default=False,
            autocompletion=candidates("destinations"),
        ),
    ],
    only_ipv4: Annotated[bool, typer.Option("-4", help="Use IPv4.")] = False,
    only_ipv6: Annotated[bool, typer.Option("-6", help="Use IPv6.")] = False,
    namespace: Namespace = None,
    output: OutputOption = Output.table,
    lab: Lab = None,
) -> None:
    """Explain which network policies allow or deny a connection.

    No packet is sent. For each end, print the policies that isolate it, with
    file and line, the rule that allows the connection, or that there is none,
    and the rules in the kernel. A Service is explained for each endpoint.
    The exit status is 0 for both answers, and 2 for a source or destination
    that does not exist.

    Example: kubenetlab explain-policy client svc:shop/cart:80/TCP
    """
    from kubenetlab.cli.probing.policy_report import PolicyReport
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import select_lab
    from kubenetlab.observe.destination_lookup import look_up
    from kubenetlab.observe.targets.resolution import read, resolve

    if only_ipv4 and only_ipv6:
        raise UsageError("-4 cannot be combined with -6; omit both to use the first common family")
    client = select_lab(lab)
    inspected = client.inspect()
    version = 4 if only_ipv4 else 6 if only_ipv6 else None
    location = resolve(read(source, inspected, namespace), inspected).of_version(version)
    report = PolicyReport(client, inspected, location)
    destinations = look_up(destination, inspected, location, namespace, version)
    if output.is_data:
        print_document(report.as_data(destinations), output)
        return
    report.show(destinations)
    if report.has_differences:
        hint("kubenetlab diff")
        return
    options = f" -{version}" if version else ""
    hint(f"kubenetlab ping {location.title} {shlex.quote(destinations[0].title)}{options}")
