"""Admission of the documents that a client applies: decode, validate, admit, refuse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

import msgspec
from msgspec import Struct, structs

from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.json_types import JsonMapping, JsonObject
from kubenetlab.api.kinds import POLICY_KINDS, writable
from kubenetlab.api.manifests.objects import decode_object, shape_findings
from kubenetlab.api.store import Cluster, DocumentSource
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.validate import validate
from kubenetlab.controllers.admission.admission import AdmissionRequest, AdmissionResult, admit
from kubenetlab.datapath import cluster_modes
from kubenetlab.datapath.checks.ipv6_mtu import ipv6_findings
from kubenetlab.lab.bootstrap import with_networking
from kubenetlab.lab.machine import decisions
from kubenetlab.lab.requirements import pool_findings, used_features


class DocumentsBody(Struct):
    """Body of the requests `apply` and `plan`."""

    documents: list[JsonObject]
    sources: list[DocumentSource | None] = []
    """File and line of each document, if the client sends them."""
    refuse: list[str] = []
    """Codes of diagnostics that prevent the documents from being applied (diagnostics/)."""
    script: bool = False
    """True if `plan` returns a shell script as well."""
    dry_run: bool = False
    """True if `apply` only checks the documents and changes nothing."""
    is_complete: bool = False
    """True if the documents describe a lab as a whole: `apply` names the policies they lack."""


def admit_documents(
    cluster: Cluster,
    now: float,
    documents: Sequence[JsonMapping],
    sources: Sequence[DocumentSource | None] = (),
) -> AdmissionResult:
    """Admit documents to a store; if a finding is an error, return the store unchanged.

    The command line validates documents before it sends them. They are validated again here,
    because any process of the lab's owner can write to the socket.

    sources: file and line of each document, as sent by the client.
    """
    incoming: list[AdmissionRequest] = []
    findings: list[tuple[int, Finding]] = []
    for index, (document, source) in enumerate(zip_longest(documents, sources[: len(documents)])):
        if malformed := list(shape_findings(document)):
            findings += [(index, finding) for finding in malformed]
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
                for finding in (*validate(obj), *cluster_modes.check(obj))
                if not finding.is_unknown_field
            ]
        incoming.append(AdmissionRequest(document, obj, source))
    own = AdmissionResult(cluster, findings=tuple(findings))
    if own.is_refused:
        return own
    admission = admit(cluster, incoming, now)
    findings += admission.findings
    if admission.is_refused:
        return structs.replace(admission, findings=tuple(findings))
    admitted = with_networking(admission.cluster, now)
    findings += _ipv6_findings(admitted, incoming)
    result = structs.replace(admission, cluster=admitted, findings=tuple(findings))
    return AdmissionResult(cluster, findings=result.findings) if result.is_refused else result


def _ipv6_findings(
    cluster: Cluster, incoming: Sequence[AdmissionRequest]
) -> Iterator[tuple[int, Finding]]:
    """Yield the findings about links that are too small for IPv6, if the Cluster changes."""
    for index, request in enumerate(incoming):
        if isinstance(request.object, ClusterConfig):
            yield from ((index, finding) for finding in ipv6_findings(cluster))


def unmet_findings(
    before: Cluster, after: Cluster, documents: Sequence[JsonMapping]
) -> Iterator[tuple[int, Finding]]:
    """Yield (index of a document, finding) for kernel features of IPPools that are not available.

    A pool that none of the documents contains needs features because of another CNI mode.
    """
    known = used_features(before.config, before.all(IPPool))
    kinds = [writable(document) for document in documents]
    place = {
        document["metadata"]["name"]: index
        for index, (document, kind) in enumerate(zip(documents, kinds, strict=True))
        if kind is IPPool
    }
    for pool, finding in pool_findings(after.config, after.all(IPPool), known):
        if pool.name in place:
            yield place[pool.name], finding
        else:
            message = f"{pool.title} {finding.message}"
            path = ("networking", "cni")
            yield kinds.index(ClusterConfig), structs.replace(finding, path=path, message=message)


def render_findings(findings: Iterable[tuple[int, Finding]]) -> list[JsonObject]:
    """Return (index of a document, finding) pairs as the API shows them."""
    return [{"document": index, **msgspec.to_builtins(finding)} for index, finding in findings]


def render_admission(admission: AdmissionResult) -> JsonObject:
    """Return the result of an admission as the API shows it."""
    return {
        "outcomes": [msgspec.to_builtins(outcome) for outcome in admission.outcomes],
        "findings": render_findings(admission.findings),
        "namespaces": list(admission.made_namespaces),
    }


def remaining_policies(admission: AdmissionResult) -> list[JsonObject]:
    """Return title, kind, namespace and name of the policies that are not among the documents.

    The namespace of objects of the whole cluster is empty.
    """
    applied = {outcome.title for outcome in admission.outcomes}
    return [
        {
            "title": policy.title,
            "kind": kind.kind,
            "namespace": policy.namespace if kind.is_namespaced else "",
            "name": policy.name,
        }
        for kind in POLICY_KINDS
        for policy in admission.cluster.all(kind)
        if policy.title not in applied
    ]


def new_decisions(before: Cluster, after: Cluster) -> list[str]:
    """Return the reasons for decisions that the documents cause, for users.

    With the first policy, another policy engine may replace the CNI mode's default one.
    """
    reason = decisions(after).policy_engine_reason
    return [reason] if reason and reason != decisions(before).policy_engine_reason else []


def refusing_diagnostics(before: Cluster, after: Cluster, body: DocumentsBody) -> list[JsonObject]:
    """Return the diagnostics that prevent documents from being applied, as plain data."""
    if not body.refuse:
        return []
    # Imported here because most requests refuse nothing.
    from kubenetlab.lab.apiserver.diagnostics import refusing

    return refusing(before, after, body.documents, body.refuse)
