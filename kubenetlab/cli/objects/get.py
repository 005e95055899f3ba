"""get: list objects as kubectl does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import (
    AllNamespaces,
    GetOutput,
    GetOutputOption,
    Lab,
    Namespace,
    SelectorOption,
    SortBy,
    parse_get_output,
)
from kubenetlab.cli.input.selection import (
    fetch,
    parse_label_selector,
    refuse_selector_beside_names,
    requested_kinds,
)
from kubenetlab.cli.terminal.printing import (
    column_widths,
    echo,
    format_row,
    hint,
    print_data,
    print_table,
)

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource
    from kubenetlab.lab.client import Client


def get(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="KIND [NAME…]",
            help="pods, services, nodes, deployments, endpointslices, events …; several with commas; `all`.",
            show_default=False,
            autocompletion=candidates("objects"),
        ),
    ],
    namespace: Namespace = None,
    every: AllNamespaces = False,
    output: GetOutputOption = GetOutput.table.value,
    selector: SelectorOption = "",
    sort_by: SortBy = "",
    watch: Annotated[
        bool, typer.Option("-w", "--watch", help="Go on and show every change.")
    ] = False,
    show_labels: Annotated[
        bool, typer.Option("--show-labels", help="Add a column with the labels.")
    ] = False,
    lab: Lab = None,
) -> None:
    """Show objects. Example: kubenetlab get pods -A -o wide"""
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import choose

    form, template = parse_get_output(output)
    print_template = _printer(template) if form is GetOutput.jsonpath else None
    if (
        lab is None
        and what in (["clusters"], ["cluster"])
        and not (watch or sort_by or template)
        and _show_clusters(form)
    ):
        return
    client = choose(lab)
    wanted = requested_kinds(client, "get", what)
    refuse_selector_beside_names(selector, wanted)
    first, _ = wanted[0]
    if watch and len(wanted) == 1 and not isinstance(first, str):
        if print_template is not None or sort_by:
            raise UsageError("-w cannot be combined with -o jsonpath or --sort-by")
        parse_label_selector(selector)
        _watch(
            client,
            first,
            None if every else namespace or "default",
            selector,
            form,
            has_labels=show_labels,
        )
        return
    documents: list[dict[str, Any]] = []
    shown = False
    for kind, names in wanted:
        found = fetch(client, kind, names, namespace or "default", every=every, selector=selector)
        if sort_by:
            from kubenetlab.cli.input.jsonpath import sort_key, values

            if found and not any(values(sort_by, document) for document in found):
                raise UsageError(f"--sort-by {sort_by}: no object has this field")
            found.sort(key=lambda document: sort_key(sort_by, document))
        documents += found
        if form is GetOutput.name:
            for document in found:
                echo(typed_name(document))
        elif not form.is_data and print_template is None and (found or len(wanted) == 1):
            if shown:
                echo()
            _show(kind, found, every, form, has_kind=len(wanted) > 1, has_labels=show_labels)
            shown = True
    if form.is_data or print_template is not None:
        single = len(wanted[0][1]) == 1 and len(documents) == 1
        document = (
            documents[0] if single else {"apiVersion": "v1", "kind": "List", "items": documents}
        )
        if print_template is not None:
            print_template(document)
        else:
            print_data(document, form)
        return
    if form is GetOutput.name:
        return
    if not documents:
        is_everywhere = every or not any(
            isinstance(kind, str) or kind.is_namespaced for kind, _ in wanted
        )
        echo(
            "nothing found"
            + (
                ""
                if is_everywhere
                else f" in namespace {namespace or 'default'}{_unknown(client, namespace)}"
            )
        )
    hint(_next(first, documents if len(wanted) == 1 else []))


def _unknown(client: Client, namespace: str | None) -> str:
    """Return that a namespace does not exist, and which there are; empty for one that does."""
    from kubenetlab.api.core import Namespace as NamespaceKind
    from kubenetlab.lab.paths import kind_path

    if namespace is None:
        return ""
    names = [
        item["metadata"]["name"] for item in client.get(kind_path(NamespaceKind, None))["items"]
    ]
    return (
        "" if namespace in names else f": the lab has no such namespace; it has: {', '.join(names)}"
    )


def _printer(template: str) -> Callable[[Any], None]:
    """Return what prints a document by a template. Raises UsageError for one that cannot be read."""
    from kubenetlab.cli.input.jsonpath import parse

    parsed = parse(template)
    return lambda document: typer.echo(parsed.fill(document), nl=False)


def _show_clusters(output: GetOutput) -> bool:
    """Show the Cluster document of every lab, as kind lists its clusters; return False where not several are up."""
    from kubenetlab.errors import LabError
    from kubenetlab.lab.client import Client, running
    from kubenetlab.lab.paths import LAB_API

    names = running()
    if len(names) == 1:
        return False
    documents = []
    for name in names:
        try:
            documents += Client(name).get(f"{LAB_API}/clusters")["items"]
        except LabError:
            continue  # it ends just now
    if output.is_data:
        print_data({"apiVersion": "v1", "kind": "List", "items": documents}, output)
    elif output is GetOutput.name:
        for document in documents:
            echo(typed_name(document))
    elif documents:
        _show("Cluster", documents, False, output)
        hint(f"kubenetlab get pods -A --lab {names[0]}")
    else:
        echo("no lab is up")
        hint("kubenetlab up")
    return True


def typed_name(document: Mapping[str, Any]) -> str:
    """`pod/web-0`, `deployment.apps/web`: as kubectl names an object, and takes it again."""
    from kubenetlab.api.kinds import group_of

    group = group_of(document["apiVersion"])
    return (
        f"{document['kind'].lower()}{f'.{group}' if group else ''}/{document['metadata']['name']}"
    )


class _Table:
    """The columns of one table: those of the kind, and what the command line adds to them."""

    def __init__(
        self,
        kind: str,
        output: GetOutput,
        *,
        has_namespace: bool,
        has_labels: bool,
        has_kind: bool = False,
    ) -> None:
        """`has_kind` makes names like `pod/web-0`, for commands that print several tables."""
        from kubenetlab.cli.describe.columns import header

        self._kind = kind
        self._is_wide = output is GetOutput.wide
        self._has_namespace, self._has_labels = has_namespace, has_labels
        own = header(kind, is_wide=self._is_wide)
        self._has_kind = has_kind and own[0] == "NAME"
        self.heading = [
            *(["NAMESPACE"] if has_namespace else []),
            *own,
            *(["LABELS"] if has_labels else []),
        ]

    def row(self, document: Mapping[str, Any]) -> list[str]:
        """Return the cells of one object."""
        from kubenetlab.cli.describe.cells import labels_text
        from kubenetlab.cli.describe.columns import columns

        meta = document["metadata"]
        cells = columns(self._kind, document, is_wide=self._is_wide)
        if self._has_kind:
            cells[0] = typed_name(document)
        first = [meta.get("namespace", "")] if self._has_namespace else []
        return [
            *first,
            *cells,
            *([labels_text(meta.get("labels") or {})] if self._has_labels else []),
        ]


def _show(
    kind: type[Resource] | str,
    documents: list[dict[str, Any]],
    every: bool,
    output: GetOutput,
    *,
    has_kind: bool = False,
    has_labels: bool = False,
) -> None:
    is_namespaced = (
        kind.is_namespaced
        if not isinstance(kind, str)
        else any("namespace" in item["metadata"] for item in documents)
    )
    name = kind if isinstance(kind, str) else kind.kind
    if documents:
        columns = _Table(
            name,
            output,
            has_namespace=every and is_namespaced,
            has_labels=has_labels,
            has_kind=has_kind,
        )
        print_table(columns.heading, [columns.row(document) for document in documents])


def _watch(
    client: Client,
    kind: type[Resource],
    namespace: str | None,
    selector: str,
    output: GetOutput,
    *,
    has_labels: bool,
) -> None:
    from kubenetlab.lab.paths import kind_path

    columns = _Table(
        kind.kind,
        output,
        has_namespace=namespace is None and kind.is_namespaced,
        has_labels=has_labels,
    )
    rows = [columns.heading]
    widths: list[int] = []
    is_live = False
    for event in client.stream(
        kind_path(kind, namespace),
        watch="true",
        **({"labelSelector": selector} if selector else {}),
    ):
        document = event["object"]
        if event["type"] == "BOOKMARK":
            is_live = True
        elif output.is_data:
            print_data(document, output)
        elif output is GetOutput.name:
            echo(typed_name(document))
        else:
            rows.append(columns.row(document))
        if is_live and not (
            output.is_data or output is GetOutput.name
        ):  # what is there at first gives the columns their widths
            widths = widths or column_widths(rows)
            for row in rows:
                echo(format_row(row, widths))
            rows = []


def _next(kind: type[Resource] | str, documents: list[dict[str, Any]]) -> str:
    """The most useful thing to do after seeing a list."""
    if isinstance(kind, str) or not documents:
        return "kubenetlab get pods -A"
    meta = documents[0]["metadata"]
    where = f" -n {meta['namespace']}" if meta.get("namespace", "default") != "default" else ""
    if kind.kind == "Pod":
        bad = next(
            (document["metadata"] for document in documents if not _is_ready(document)), None
        )
        if bad is not None:
            return f"kubenetlab describe pod {bad['name']} -n {bad['namespace']}"
        prefix = f"{meta['namespace']}/" if where else ""
        return f"kubenetlab exec {prefix}{meta['name']} -- ip addr"
    if kind.kind == "Service":
        return f"kubenetlab describe service {meta['name']}{where}"
    if kind.kind in ("Event", "Namespace"):
        return "kubenetlab get pods -A"
    if kind.kind == "Fault":
        return f"kubenetlab heal {meta['name']}"
    if kind.kind == "Node":
        return f"kubenetlab inspect node:{meta['name']}"
    return f"kubenetlab describe {kind.kind.lower()} {meta['name']}{where}"


def _is_ready(document: dict[str, Any]) -> bool:
    status = document.get("status", {})
    return status.get("phase") == "Succeeded" or any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in status.get("conditions", ())
    )
