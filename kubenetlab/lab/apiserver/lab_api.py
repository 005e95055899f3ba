"""The lab's own group of the API: apply, break, settled, inspect, enter, plan, diff.

POST apply    {documents: […], sources: [{file, line}]} → outcomes, findings, diagnostics, notes,
                                        or unmet requirements of the documents; with `is_complete`
                                        also `remaining`, the policies that they lack
POST plan     {documents: […]}        → planned changes; with `script` the lab as a shell script
POST delete   {keys: […]}             → removed documents of kinds that the lab does not model
POST break    {fault: …, options: …}  → the new Fault object; deleting it ends the fault
POST uplink   {machine: […], router: […]} → the router uses its existing link to the machine;
                                        without addresses it stops using it
POST checkpoint                       → the present objects are remembered
POST reset                            → users' changes since the checkpoint are undone; `pending`
                                        names objects that must be gone before the next call
GET  given                            → documents of kinds that the lab does not model
GET  diff                             → differences between the kernel and the lab without faults
GET  settled  ?timeout=60             → lines of progress until all pods are ready or cannot be,
                                        and the kernel is as planned
GET  diagnostics                      → misconfigurations and objects without effect, with source
GET  policies                         → network policies, with the pods and namespaces
GET  inspect                          → everything that runs, with pids and namespaces
GET  detail   ?netns=…                → links, addresses, routes, neighbours and rules of one
                                        namespace
GET  enter    ?netns=…                → pidfd of the pause process of a namespace, and its files
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from kubenetlab import controllers, names
from kubenetlab.api.json_types import JsonObject
from kubenetlab.api.kinds import writable
from kubenetlab.api.lab import Uplink
from kubenetlab.api.store import Delete, GivenKey
from kubenetlab.datapath import faults, plan
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.errors import ManifestError, RequirementError, UsageError
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.rules.rulesets import by_backend
from kubenetlab.hoststate.state import HostState, linked_namespaces
from kubenetlab.kernel.processes.identity import open_process
from kubenetlab.lab import rundir
from kubenetlab.lab.agent import status_reports
from kubenetlab.lab.agent.builder import rules_of
from kubenetlab.lab.apiserver.checkpoints import Checkpoints
from kubenetlab.lab.apiserver.daemon_listing import running_daemons, without_routes
from kubenetlab.lab.apiserver.document_admission import (
    DocumentsBody,
    admit_documents,
    new_decisions,
    refusing_diagnostics,
    remaining_policies,
    render_admission,
    render_findings,
    unmet_findings,
)
from kubenetlab.lab.apiserver.identities import identity_table
from kubenetlab.lab.apiserver.inspection import inspection, summarize_faults
from kubenetlab.lab.apiserver.kernel_differences import (
    kernel_differences,
    render_changes,
    rule_differences,
)
from kubenetlab.lab.apiserver.key_listing import tunnel_keys
from kubenetlab.lab.apiserver.policy_objects import drop_reasons, policy_objects
from kubenetlab.lab.apiserver.restoration import restore
from kubenetlab.lab.apiserver.settling import diagnostics_of, duplicates_of, progress_until_settled
from kubenetlab.lab.apiserver.statuses import ApiFaultError, body_of, json_response, number_of
from kubenetlab.lab.bootstrap import with_networking
from kubenetlab.lab.machine import decisions
from kubenetlab.lab.paths import LAB_API
from kubenetlab.lab.requirements import require_modes
from kubenetlab.lab.store import recovery
from kubenetlab.lab.transport.http import Answer, FdReply, Stream
from kubenetlab.programs.support.http import Request, Response

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent


class _KeysBody(Struct):
    """Body of the request `delete`."""

    keys: list[GivenKey]


class _BreakBody(Struct):
    """Body of the request `break`."""

    fault: str
    options: JsonObject


class _UplinkBody(Struct):
    """Body of the request `uplink`: addresses of both ends, without prefix length."""

    machine: list[str]
    router: list[str]


class LabApi:
    """Request handlers of the lab's own API group, by method and name."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._checkpoints = Checkpoints(agent.directory)
        self._routes: Mapping[tuple[str, str], Callable[[Request], Awaitable[Answer]]] = {
            ("POST", "apply"): self._apply,
            ("POST", "plan"): self._plan,
            ("POST", "delete"): self._delete_given,
            ("POST", "break"): self._break,
            ("POST", "uplink"): self._uplink,
            ("POST", "checkpoint"): self._checkpoint,
            ("POST", "reset"): self._reset,
            ("GET", "given"): self._given,
            ("GET", "diff"): self._diff,
            ("GET", "rule-differences"): self._rule_differences,
            ("GET", "settled"): self._settled,
            ("GET", "diagnostics"): self._diagnostics,
            ("GET", "inspect"): self._inspect,
            ("GET", "detail"): self._detail,
            ("GET", "identities"): self._identities,
            ("GET", "policies"): self._policies,
            ("GET", "drop-reasons"): self._drop_reasons,
            ("GET", "enter"): self._enter,
        }

    async def handle(self, request: Request) -> Answer | None:
        """Answer a request; return None if its path is not in this API group."""
        group, _, name = request.path.rpartition("/")
        route = self._routes.get((request.method, name)) if group == LAB_API else None
        return await route(request) if route is not None else None

    async def _apply(self, request: Request) -> Answer:
        agent, body = self._agent, body_of(request, DocumentsBody)
        admission = admit_documents(agent.cluster, agent.clock.now(), body.documents, body.sources)
        if not admission.is_refused and (
            refusing := refusing_diagnostics(agent.cluster, admission.cluster, body)
        ):
            return json_response({**render_admission(admission), "diagnostics": refusing})
        notes: list[str] = []
        if admission.cluster is not agent.cluster:
            try:
                require_modes(admission.cluster.config, agent.cluster.config)
            except RequirementError as error:
                return _failure(507, str(error))
            if unmet := list(unmet_findings(agent.cluster, admission.cluster, body.documents)):
                return json_response(
                    {**render_admission(admission), "unmet": render_findings(unmet)}
                )
            cluster, states = controllers.run(
                admission.cluster, agent.controller_states, agent.clock.now()
            )
            try:
                agent.require_capacity(cluster, agent.cluster)
            except RequirementError as error:
                return _failure(507, str(error))
            notes = new_decisions(agent.cluster, cluster)
            if not body.dry_run:
                agent.replace(cluster, states)
        if not body.dry_run:
            agent.wake(check=True)
        remaining = remaining_policies(admission) if body.is_complete else []
        reply = {"diagnostics": [], "notes": notes, "remaining": remaining}
        return json_response({**render_admission(admission), **reply})

    async def _plan(self, request: Request) -> Answer:
        """Answer with the changes that applying some documents would make at once.

        Changes that depend on the results of probes are not known in advance.
        """
        agent, body = self._agent, body_of(request, DocumentsBody)
        admission = admit_documents(agent.cluster, agent.clock.now(), body.documents)
        if admission.is_refused:
            return json_response(render_admission(admission))
        states = structs.replace(agent.controller_states, batch_limit=None)
        cluster, _ = controllers.run(admission.cluster, states, agent.clock.now())
        try:
            desired = plan(cluster, decisions(cluster), PlanCache())
        except ManifestError as error:
            return _failure(422, str(error))
        result = render_admission(admission)
        if body.script:
            from kubenetlab.hoststate.script import script

            return json_response({**result, "script": script(desired, agent.lab)})
        changes = render_changes(diff(HostState(agent.observed), desired))
        return json_response({**result, "changes": changes, "diagnostics": diagnostics_of(cluster)})

    async def _delete_given(self, request: Request) -> Answer:
        """Delete documents of kinds that the lab does not model.

        Objects of other kinds are deleted by DELETE on their own paths.
        """
        given = dict.fromkeys(body_of(request, _KeysBody).keys)
        known = [key for key in given if key in self._agent.cluster.given]
        self._agent.replace(self._agent.cluster.with_given(given))
        return json_response({"deleted": known})

    async def _break(self, request: Request) -> Answer:
        """Create a fault."""
        body = body_of(request, _BreakBody)
        try:
            changes = faults.break_changes(
                self._agent.cluster, body.fault, body.options, self._agent.clock.now()
            )
        except UsageError as error:
            return _failure(422, str(error))
        self._agent.apply_changes(changes)
        return json_response(msgspec.to_builtins(changes[0]))

    async def _uplink(self, request: Request) -> Answer:
        """Store the addresses of both ends of the uplink; delete the uplink if there are none."""
        uplink = _decode_uplink(body_of(request, _UplinkBody))
        self._agent.observed_state.mark_stale(
            [names.ROUTER]
        )  # a command has moved a link into this namespace
        self._agent.apply_changes([uplink if uplink.router else Delete(Uplink, "", uplink.name)])
        self._agent.wake()  # an uplink with the same addresses may have a new link
        return json_response({})

    async def _checkpoint(self, request: Request) -> Answer:
        self._checkpoints.create(self._agent.cluster)
        return json_response({})

    async def _reset(self, request: Request) -> Answer:
        """Restore the objects of the checkpoint."""
        agent = self._agent
        if (former := self._checkpoints.read()) is None:
            return _failure(409, f"lab {agent.lab} has no checkpoint to go back to")
        restoration = restore(agent.cluster, former, agent.clock.now())
        cluster = with_networking(restoration.cluster, agent.clock.now())
        is_changed = cluster is not agent.cluster
        if is_changed:
            agent.replace(cluster)
        return json_response({"changed": is_changed, "pending": restoration.pending})

    async def _given(self, request: Request) -> Answer:
        """Answer with the documents of kinds that the lab stores without modelling them."""
        documents = [
            given.document
            for given in self._agent.cluster.given.values()
            if writable(given.document) is None
        ]
        return json_response({"items": documents})

    async def _diff(self, request: Request) -> Answer:
        agent = self._agent
        changes = await kernel_differences(agent)
        return json_response(
            {
                "changes": changes,
                "failures": agent.failures,
                "duplicates": duplicates_of(agent.cluster),
                "faults": summarize_faults(agent.cluster),
                "warnings": recovery.warnings(agent.directory / rundir.STORE),
            }
        )

    async def _rule_differences(self, request: Request) -> Answer:
        changes = await rule_differences(self._agent, request.query.get("netns", ""))
        return json_response({"changes": changes})

    async def _settled(self, request: Request) -> Answer:
        timeout_s = number_of(request, "timeout", 60.0) or 0.0
        return Stream(progress_until_settled(self._agent, timeout_s))

    async def _diagnostics(self, request: Request) -> Answer:
        return json_response({"items": diagnostics_of(self._agent.cluster)})

    async def _inspect(self, request: Request) -> Answer:
        return json_response(inspection(self._agent))

    async def _identities(self, request: Request) -> Answer:
        return json_response(identity_table(self._agent.cluster, self._agent.decisions))

    async def _policies(self, request: Request) -> Answer:
        always = request.query.get("objects") == "always"
        return json_response(policy_objects(self._agent.cluster, always=always))

    async def _drop_reasons(self, request: Request) -> Answer:
        agent = self._agent
        reasons = drop_reasons(agent.cluster, agent.decisions, agent.desired_state.cache)
        return json_response({"reasons": reasons})

    async def _detail(self, request: Request) -> Answer:
        """Answer with the present contents of one namespace, read from the kernel."""
        agent, netns = self._agent, request.query.get("netns", "")
        process, desired = agent.sandboxes.id(netns), agent.desired_state.state_for(agent.cluster)
        if netns not in desired.namespaces or process is None:
            return _failure(404, f"there is no namespace {netns}")
        async with agent.kernel_lock:
            observed = agent.kernel.observe(
                {netns: desired[netns]}, linked_namespaces(desired, [netns])
            ).get(netns, {})
            pod = status_reports.pod_of(agent.cluster, netns)
            peer = names.node_netns(pod.spec.node_name) if pod is not None else ""
            foreign = agent.kernel.foreign_objects(netns, observed, peer)
            keys = tunnel_keys(agent, netns, observed)
        daemons = await running_daemons(agent, netns, desired[netns], process)
        backends = by_backend(rules_of(desired[netns].values()))
        listings = await agent.rules.listings(netns, process, backends)
        return json_response(
            {
                "netns": netns,
                "objects": [*(str(obj) for obj in observed.values()), *daemons],
                "foreign": without_routes(foreign, daemons),
                "rules": "\n".join(listings.values()),
                "listings": listings,
                **({"keys": keys} if keys else {}),
            }
        )

    async def _enter(self, request: Request) -> Answer:
        """Answer with a pidfd of a pause process, by which a client joins its namespaces."""
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
            return _failure(409, f"{netns} is being deleted")
        environment = agent.contexts.environment(netns, request.query.get("container", ""))
        trees = agent.kernel.files
        tree = str(trees.path(netns)) if trees.has_files(netns) else ""
        body = {"netns": netns, **files, "tree": tree, "environment": environment}
        return FdReply(json_response(body), (pidfd,))


def _decode_uplink(body: _UplinkBody) -> Uplink:
    """Return the uplink with the addresses of a request.

    Raises ApiFaultError (400) for invalid addresses, and if the address families of the two ends
    differ.
    """
    try:
        machine, router = (
            [ip_address(address).version for address in end] for end in (body.machine, body.router)
        )
    except ValueError as error:
        raise ApiFaultError(
            400, "BadRequest", f"expected addresses without prefix length: {error}"
        ) from None
    if machine != router or len(set(machine)) != len(machine):
        raise ApiFaultError(
            400,
            "BadRequest",
            "machine and router: expected at most one address per family, "
            "the same families at both ends",
        )
    return Uplink(machine=tuple(body.machine), router=tuple(body.router))


def _failure(code: int, message: str) -> Response:
    status = {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "message": message,
    }
    return json_response(status, code)
