"""Probes of `check`: the rows of tables, or everything that Kubernetes promises."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import typer

from kubenetlab.cli.labs.diagnostics import note_absent_pods
from kubenetlab.cli.policies import enforced_policies, policy_places
from kubenetlab.cli.terminal.printing import note

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.checks.truth_table import TruthTable
    from kubenetlab.observe.checks.verdicts import RowVerdict
    from kubenetlab.observe.connections import Ends
    from kubenetlab.observe.inspection import Inspection
    from kubenetlab.observe.matrix import Cell, Matrix
    from kubenetlab.observe.policies.reasons import PlaceOf
    from kubenetlab.observe.policies.verdicts import PolicyVerdicts
    from kubenetlab.observe.targets.locations import Location
    from kubenetlab.programs.dns.resolver import ResolverConfig
    from kubenetlab.programs.support.http import Network


def apply_manifests(lab: str, manifests: list[str]) -> None:
    """Run `kubenetlab apply` without output and wait for the pods.

    Pods that do not become ready are no error here: the table shows their effect.
    """
    import contextlib
    import io

    from kubenetlab.cli.labs.up import apply

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            apply(files=manifests, lab=lab)
    except typer.Exit as stop:
        from kubenetlab.lab.up import STOPPED_BY_SIGINT

        if stop.exit_code == STOPPED_BY_SIGINT:
            raise


def check_tables(
    client: Client,
    tables: Sequence[tuple[str, TruthTable, Sequence[str]]],
    deadline_s: float,
    *,
    explains_all: bool,
) -> list[RowVerdict]:
    """Return the verdicts about the rows of tables. Each table is (file, table, places).

    explains_all: also name the policies of rows that hold.
    """
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.observe.checks.check import check as run_table

    inspected = client.inspect()
    policies = enforced_policies(client, inspected)
    place_of = policy_places(policies)
    networks = _Networks(client)
    for _, table, _ in tables:
        networks.learn(table, inspected)
    enter_lab(client.open_init())
    return [
        verdict
        for _, table, places in tables
        for verdict in run_table(
            table,
            places,
            inspected,
            networks,
            policies=policies,
            place_of=place_of,
            explains_all=explains_all,
            deadline_s=deadline_s,
        )
    ]


class _Networks:
    """Networks of sources, for rows that resolve names or use sockets in the source's namespace.

    Resolver files come from the lab's API, so `learn` must be called before the process enters the
    lab: an unprivileged process cannot leave it again.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._resolvers: dict[str, ResolverConfig] = {}
        self._networks: dict[str, Network] = {}

    def learn(self, table: TruthTable, inspected: Inspection) -> None:
        """Read the resolver files of all sources of a table that need a network."""
        from kubenetlab.errors import UsageError
        from kubenetlab.observe.checks.check import needs_network
        from kubenetlab.observe.targets.resolution import named_places, read
        from kubenetlab.programs.dns.resolver import parse as parse_resolver

        for row in table.probes:
            try:
                sources = [
                    source
                    for source in named_places(read(row.from_, inspected), inspected)
                    if needs_network(row, inspected, source)
                ]
            except UsageError:
                continue  # reported with the row when the table runs
            for source in sources:
                if source.sandbox in self._resolvers:
                    continue
                reply = self._client.enter(source.sandbox)
                for fd in reply.fds:
                    os.close(fd)
                self._resolvers[source.sandbox] = parse_resolver(
                    reply.body["hosts"], reply.body["resolv_conf"], source.versions
                )

    def __call__(self, source: Location) -> Network:
        from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory, PodSockets

        if source.sandbox not in self._networks:
            self._networks[source.sandbox] = PodSockets(
                NetnsSocketFactory(source.netns_path, self._own_netns),
                self._resolvers[source.sandbox],
            )
        return self._networks[source.sandbox]

    @cached_property
    def _own_netns(self) -> int:
        """Descriptor of this process's network namespace."""
        from kubenetlab.kernel.syscalls import open_namespace

        return open_namespace("net")


def check_promise(
    client: Client, deadline_s: float, *, explains_all: bool
) -> tuple[Matrix, list[RowVerdict]]:
    """Probe what Kubernetes promises for every pair, and return the matrix with its verdicts.

    explains_all: also name the policies of results that are as promised.
    """
    from kubenetlab.observe.connections import Ends

    matrix, inspected, policies = probe_everything(client, deadline_s)
    ends = Ends(inspected)
    place_of = policy_places(policies)
    return matrix, [
        _verdict(
            cell, ends, policies if explains_all or not cell.is_as_promised else None, place_of
        )
        for cell in matrix.cells
    ]


def probe_everything(
    client: Client, deadline_s: float
) -> tuple[Matrix, Inspection, PolicyVerdicts | None]:
    """Probe all pods, nodes, Services, hosts outside, and their ports, from all of them.

    Return the matrix, the document of `inspect`, and the policies that were considered.
    """
    from kubenetlab.kernel.namespaces.enter import enter_lab
    from kubenetlab.observe.matrix import probe_matrix
    from kubenetlab.observe.probe_sockets import NO_SCTP

    inspected = client.inspect()
    policies = enforced_policies(client, inspected)
    note_absent_pods(inspected)
    enter_lab(client.open_init())
    matrix = probe_matrix(inspected, deadline_s=deadline_s, policies=policies, has_ports=True)
    if matrix.left_out:
        note(f"{matrix.left_out} connections to ports that policies name are not tested: {NO_SCTP}")
    if matrix.has_node_ports_of_hosts:
        note("only hosts outside connect to node ports: there are too many for pods and nodes")
    return matrix, inspected, policies


def _verdict(
    cell: Cell, ends: Ends, policies: PolicyVerdicts | None, place_of: PlaceOf
) -> RowVerdict:
    from kubenetlab.observe.checks.verdicts import ANY_OUTCOME, RowVerdict, state_of
    from kubenetlab.observe.matrix import cell_reasons

    return RowVerdict(
        "promise",
        cell.source.title,
        cell.destination.title,
        cell.expected,
        cell.result.outcome,
        state_of(cell.is_as_promised, cell.result.outcome),
        "",
        round(cell.result.ms, 3),
        f"{ends.stable_name(cell.source)} → {ends.stable_destination(cell.destination)}",
        ends.of_cell(cell.source, cell.destination),
        tuple(cell_reasons(policies, cell, place_of)),
        ANY_OUTCOME if cell.expected == "any" and cell.is_as_promised else "",
    )
