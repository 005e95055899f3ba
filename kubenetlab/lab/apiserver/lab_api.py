"""The lab's own part of the API: apply, break, settled, inspect, enter, plan, diff.

POST apply    {documents: […], sources: [{file, line}]} → outcomes and findings
POST plan     {documents: […]}        → what would be done; with script the whole lab as a shell script
POST break    {fault: …, options: …}  → the fault that was made; it is healed by deleting it
POST uplink   {machine: […], router: […]} → the router uses its link to the machine, which is there; without addresses no more
GET  diff                             → where the kernel differs from what it should hold if nothing were broken, found by looking
GET  settled  ?timeout=60             → lines: how many pods are ready, until all are or never will be; and whether Linux is as it should be
GET  diagnostics                      → objects that are not enforced, and misconfigurations, each with file and line
GET  inspect                          → everything that runs, with pids and namespaces
GET  detail   ?netns=…                → links, addresses, routes, neighbours and rules of one namespace; the rules by backend, too
GET  enter    ?netns=…                → a pidfd of its pause process, and its files
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, structs

from kubenetlab import controllers, names
from kubenetlab.api.decode import Finding
from kubenetlab.api.faults import Fault
from kubenetlab.api.kinds import writable
from kubenetlab.api.lab import Uplink
from kubenetlab.api.load import decode_object, shape_findings
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster, Delete, DocumentSource, GivenKey
from kubenetlab.api.validate import validate
from kubenetlab.controllers.admission import Admission, AdmissionRequest, admit
from kubenetlab.datapath import faults, modes, plan
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.errors import ManifestError, RequirementError, UsageError
from kubenetlab.hoststate.diff import Changes, diff
from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.rules.rulesets import by_backend
from kubenetlab.hoststate.script import script
from kubenetlab.hoststate.state import HostState, peer_ends
from kubenetlab.kernel.processes.identity import open_process
from kubenetlab.lab import rundir
from kubenetlab.lab.agent.builder import of_hand
from kubenetlab.lab.apiserver.inspection import broken, inspection
from kubenetlab.lab.apiserver.statuses import ApiFaultError, body_of, number_of
from kubenetlab.lab.bootstrap import with_network_facts
from kubenetlab.lab.machine import decisions
from kubenetlab.lab.paths import LAB_API
from kubenetlab.lab.requirements import require_modes
from kubenetlab.lab.runtime.container_logs import LogPart, Which
from kubenetlab.lab.store import recovery
from kubenetlab.lab.transport.http import Answer, FdReply, Stream
from kubenetlab.observe.settled import job_verdicts, verdicts
from kubenetlab.programs.http import Request, Response

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent


class _Documents(Struct):
    """The body of apply and plan."""

    documents: list[dict[str, Any]]
    sources: list[DocumentSource | None] = []
    """Where each document stands, as far as the client says so."""
    refuse: list[str] = []
    """Codes of the misconfigurations that must not be applied (kubenetlab/diagnostics)."""
    script: bool = False


class _Keys(Struct):
    keys: list[GivenKey]


class _Break(Struct):
    fault: str
    options: dict[str, Any]


class _UplinkEnds(Struct):
    machine: list[str]
    router: list[str]


class LabApi:
    """The handlers, by method and name."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._routes: Mapping[tuple[str, str], Callable[[Request], Any]] = {
            ("POST", "apply"): self._apply,
            ("POST", "plan"): self._plan,
            ("POST", "delete"): self._delete_given,
            ("POST", "break"): self._break,
            ("POST", "uplink"): self._uplink,
            ("GET", "given"): self._given,
            ("GET", "diff"): self._diff,
            ("GET", "settled"): self._settled,
            ("GET", "diagnostics"): self._diagnostics,
            ("GET", "inspect"): self._inspect,
            ("GET", "detail"): self._detail,
            ("GET", "enter"): self._enter,
        }

    async def handle(self, request: Request) -> Answer | None:
        """The answer, or None for a path that is not of this part."""
        group, _, name = request.path.rpartition("/")
        route = self._routes.get((request.method, name)) if group == LAB_API else None
        return await route(request) if route is not None else None

    async def logs(
        self,
        pod: Pod,
        container: str,
        which: Which = "latest",
        *,
        after: int = 0,
        is_going_on: bool = False,
    ) -> LogPart | None:
        netns = names.pod_netns(pod.namespace, pod.name, pod.uid)
        return await self._agent.runs.logs(
            netns, container, pod.spec.node_name, which, after=after, is_going_on=is_going_on
        )

    async def _apply(self, request: Request) -> Answer:
        agent, body = self._agent, body_of(request, _Documents)
        admission = _admit(agent.cluster, agent.clock.now(), body.documents, body.sources)
        if not admission.findings and (found := _refused(agent.cluster, admission.cluster, body)):
            return _json({**_admission(admission), "diagnostics": found})
        if admission.cluster is not agent.cluster:
            trying = agent.controllers.copy()
            cluster, _ = trying.run(admission.cluster, agent.clock.now())
            try:
                require_modes(cluster.config, agent.cluster.config)
                agent.check_room(cluster, agent.cluster)
            except RequirementError as error:
                return _failure(507, str(error))
            agent.replace(cluster, trying)
        agent.wake(check=True)
        return _json({**_admission(admission), "diagnostics": []})

    async def _plan(self, request: Request) -> Answer:
        """What applying some documents would do to the kernel, right away; what follows from probes is not known yet."""
        agent, body = self._agent, body_of(request, _Documents)
        admission = _admit(agent.cluster, agent.clock.now(), body.documents)
        if admission.findings:
            return _json(_admission(admission))
        cluster, _ = controllers.run(admission.cluster.afresh(), agent.clock.now())
        try:
            desired = plan(cluster, decisions(cluster), PlanCache())
        except ManifestError as error:
            return _failure(422, str(error))
        if body.script:
            return _json({**_admission(admission), "script": script(desired, agent.lab)})
        changes = render_changes(diff(HostState(agent.known), desired))
        return _json(
            {**_admission(admission), "changes": changes, "diagnostics": _diagnostics_of(cluster)}
        )

    async def _delete_given(self, request: Request) -> Answer:
        """Drops documents of kinds that the lab does not model; the others go by DELETE on their own paths."""
        given = dict.fromkeys(body_of(request, _Keys).keys)
        known = [key for key in given if key in self._agent.cluster.given]
        self._agent.replace(self._agent.cluster.with_given(given))
        return _json({"deleted": known})

    async def _break(self, request: Request) -> Answer:
        """Breaks something on purpose."""
        body = body_of(request, _Break)
        try:
            changes = faults.begun(
                self._agent.cluster, body.fault, body.options, self._agent.clock.now()
            )
        except UsageError as error:
            return _failure(422, str(error))
        self._agent.learn(changes)
        return _json(msgspec.to_builtins(changes[0]))

    async def _uplink(self, request: Request) -> Answer:
        """The addresses of both ends, one per family."""
        found = _uplink(body_of(request, _UplinkEnds))
        self._agent.sight.doubt([names.ROUTER])  # another has put a link there
        self._agent.learn([found if found.router else Delete(Uplink, "", found.name)])
        self._agent.wake()  # the same uplink may have another link
        return _json({})

    async def _given(self, request: Request) -> Answer:
        """The documents of kinds that the lab keeps without modelling them."""
        documents = [
            given.document
            for given in self._agent.cluster.given.values()
            if writable(given.document) is None
        ]
        return _json({"items": documents})

    async def _diff(self, request: Request) -> Answer:
        """Compare the kernel as it is now with what should be if nothing were broken on purpose."""
        agent = self._agent
        async with agent.kernel_is_free:
            healthy = (
                plan(faults.healed(agent.cluster), agent.decisions, PlanCache())
                if agent.cluster.all(Fault)
                else agent.desired
            )
            wanted = healthy.namespaces
            seen = agent.kernel.observe(wanted)
            netlink = HostState({netns: _netlink(contents) for netns, contents in seen.items()})
            desired = HostState(
                {netns: _netlink(contents) for netns, contents in wanted.items()}, healthy.origins
            )
            found = {
                entry.netns: [operation.difference() for operation in entry.details()]
                for entry in diff(netlink, desired).namespaces
            }
            rules = {
                netns: of_hand(contents.values(), "rules") for netns, contents in wanted.items()
            }
            for netns, differences in (
                await agent.rules.differences(
                    rules, {netns: pause.id for netns, pause in agent.sandboxes.pauses.items()}
                )
            ).items():
                found.setdefault(netns, []).extend(differences)
        changes = [
            render_differences(netns, differences)
            for netns, differences in found.items()
            if differences
        ]
        warnings = recovery.warnings(agent.directory / rundir.STORE)
        return _json(
            {
                "changes": changes,
                "failures": agent.failures,
                "faults": broken(agent.cluster),
                "warnings": warnings,
            }
        )

    async def _settled(self, request: Request) -> Answer:
        return Stream(self._settling(number_of(request, "timeout", 60.0) or 0.0))

    async def _settling(self, timeout_s: float) -> AsyncIterator[bytes]:
        """A line at each change: how many pods there are and are ready; the last says how it ended, and has the diagnostics."""
        agent = self._agent
        deadline = time.monotonic() + timeout_s
        last: Any = None
        with agent.watchers.one() as changed:
            while True:
                changed.clear()
                found, jobs = verdicts(agent.cluster), job_verdicts(agent.cluster)
                line = {
                    "total": len(found),
                    "ready": sum(verdict.state in ("ready", "completed") for verdict in found),
                    "waiting": [verdict.pod for verdict in found if verdict.state == "waiting"],
                    "stuck": [
                        {"pod": verdict.pod, "reason": verdict.reason}
                        for verdict in found
                        if verdict.state == "stuck"
                    ],
                    "unready": [verdict.pod for verdict in found if verdict.state == "unready"],
                    "jobs": [
                        {"job": one.job, "state": one.state, "reason": one.reason}
                        for one in jobs
                        if one.state != "complete"
                    ],
                    "failures": agent.failures,
                    "idle": agent.is_idle,
                    "settled": agent.is_idle
                    and all(verdict.is_settled for verdict in found)
                    and all(one.state != "waiting" for one in jobs)
                    and not agent.failures,
                    "timeout": time.monotonic() >= deadline,
                }
                if line != last:
                    is_last = line["settled"] or line["timeout"]
                    extra = {"diagnostics": _diagnostics_of(agent.cluster)} if is_last else {}
                    yield msgspec.json.encode({**line, **extra}) + b"\n"
                    last = line
                if line["settled"] or line["timeout"]:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                        await changed.wait()

    async def _diagnostics(self, request: Request) -> Answer:
        return _json({"items": _diagnostics_of(self._agent.cluster)})

    async def _inspect(self, request: Request) -> Answer:
        return _json(inspection(self._agent))

    async def _detail(self, request: Request) -> Answer:
        """One namespace as the kernel has it now."""
        agent, netns = self._agent, request.query.get("netns", "")
        process = agent.sandboxes.id(netns)
        if netns not in agent.desired.namespaces or process is None:
            return _failure(404, f"there is no namespace {netns}")
        async with agent.kernel_is_free:
            seen = agent.kernel.observe(
                {netns: agent.desired[netns]}, peer_ends(agent.desired, [netns])
            ).get(netns, {})
        dialects = by_backend(of_hand(agent.desired[netns].values(), "rules"))
        listings = await agent.rules.listings(netns, process, dialects)
        objects = [str(obj) for obj in seen.values()]
        return _json(
            {
                "netns": netns,
                "objects": objects,
                "rules": "\n".join(listings.values()),
                "listings": listings,
            }
        )

    async def _enter(self, request: Request) -> Answer:
        """A way in: the kernel joins all namespaces of the pause process by its pidfd."""
        agent, netns = self._agent, request.query.get("netns", "")
        context, process = agent.contexts.get(netns), agent.sandboxes.id(netns)
        if context is None or process is None:
            return _failure(404, f"{netns} is not running")
        files = {
            "hostname": context.files.hostname,
            "hosts": context.files.hosts,
            "resolv_conf": context.files.resolv_conf,
        }
        try:
            pidfd = open_process(process)
        except ProcessLookupError:
            return _failure(409, f"{netns} is going away")
        variables = agent.contexts.environment(netns, request.query.get("container", ""))
        return FdReply(_json({"netns": netns, **files, "environment": variables}), (pidfd,))


def render_changes(changes: Changes) -> list[dict[str, Any]]:
    """Changes as the API shows them: namespace by namespace, a line an operation."""
    return [
        {"netns": entry.netns, "operations": [str(operation) for operation in entry.details()]}
        for entry in changes.namespaces
    ]


def _diagnostics_of(cluster: Cluster) -> list[dict[str, Any]]:
    """Return the diagnostics of a store as plain data."""
    from kubenetlab.lab.apiserver.diagnostics import (
        diagnostics,
    )  # here: a lab is up before it is needed

    return diagnostics(cluster)


def _refused(before: Cluster, after: Cluster, body: _Documents) -> list[dict[str, Any]]:
    """Return the diagnostics for which documents must not be applied, as plain data."""
    if not body.refuse:
        return []
    from kubenetlab.lab.apiserver.diagnostics import refused

    return refused(before, after, body.documents, body.refuse)


def render_differences(netns: str, differences: Sequence[Difference]) -> dict[str, Any]:
    """Return the differences of one namespace as the API shows them: as lines, and with their fields."""
    return {
        "netns": netns,
        "operations": [difference.line for difference in differences],
        "differences": differences,
    }


def _admit(
    cluster: Cluster,
    now: float,
    documents: Sequence[Mapping[str, Any]],
    sources: Sequence[DocumentSource | None] = (),
) -> Admission:
    """Documents that a client has checked are checked again: the socket is open to others too.

    sources: where each document stands, as far as the client says so.
    """
    incoming: list[AdmissionRequest] = []
    findings: list[tuple[int, Finding]] = []
    for index, (document, source) in enumerate(zip_longest(documents, sources[: len(documents)])):
        if shape := list(shape_findings(document)):
            findings += [(index, finding) for finding in shape]
            continue
        type_ = writable(document)
        decoded = decode_object(document, type_) if type_ else None
        if decoded is not None and decoded.value is None:
            findings += [(index, finding) for finding in decoded.findings]
            continue
        obj = decoded.value if decoded else None
        if obj is not None:
            findings += [
                (index, finding)
                for finding in (*validate(obj), *modes.check(obj))
                if not finding.is_unknown_field
            ]
        incoming.append(AdmissionRequest(document, obj, source))
    if findings:
        return Admission(cluster, findings=tuple(findings))
    admission = admit(cluster, incoming, now)
    return structs.replace(admission, cluster=with_network_facts(admission.cluster))


def _uplink(ends: _UplinkEnds) -> Uplink:
    """Return the uplink with these ends. Raises ApiFaultError (400) for what is no address, or one end's alone."""
    try:
        versions = [
            [ip_address(address).version for address in end] for end in (ends.machine, ends.router)
        ]
    except ValueError as error:
        raise ApiFaultError(
            400, "BadRequest", f"expected addresses without prefix length: {error}"
        ) from None
    if versions[0] != versions[1] or len({*versions[0]}) != len(versions[0]):
        raise ApiFaultError(
            400,
            "BadRequest",
            "machine and router: expected at most one address per family, the same families at both ends",
        )
    return Uplink(machine=tuple(ends.machine), router=tuple(ends.router))


def _admission(admission: Admission) -> dict[str, Any]:
    return {
        "outcomes": [msgspec.to_builtins(outcome) for outcome in admission.outcomes],
        "findings": [
            {"document": index, **msgspec.to_builtins(finding)}
            for index, finding in admission.findings
        ],
        "namespaces": list(admission.made_namespaces),
    }


def _netlink(contents: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: obj for key, obj in contents.items() if obj.hand == "netlink"}


def _json(body: Any, code: int = 200) -> Response:
    return Response(code, msgspec.json.encode(body), "application/json")


def _failure(code: int, message: str) -> Response:
    return _json(
        {
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "code": code,
            "message": message,
        },
        code,
    )
