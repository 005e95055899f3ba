"""get: list objects as kubectl does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from kubenetlab.api.json_types import JsonMapping, JsonObject
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
from kubenetlab.cli.terminal.layout import TableLayout
from kubenetlab.cli.terminal.printing import (
    TableWriter,
    echo,
    hint,
    prepare_drawing,
    print_data,
    print_table,
    print_verbatim,
)

if TYPE_CHECKING:
    from kubenetlab.api.meta import Resource
    from kubenetlab.lab.client import Client


def get(
    resources: Annotated[
        list[str],
        typer.Argument(
            metavar="KIND [NAME…]",
            help="Kind, such as pods, services or nodes; several with commas; `all` for all pods, "
            "Services and workloads. Then names.",
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
        bool, typer.Option("-w", "--watch", help="Keep watching and show every change.")
    ] = False,
    show_labels: Annotated[
        bool, typer.Option("--show-labels", help="Add a column with the labels.")
    ] = False,
    lab: Lab = None,
) -> None:
    """Show objects as a table, as data, or by a template.

    Example: kubenetlab get pods -A -o wide
    """
    from kubenetlab.errors import UsageError
    from kubenetlab.lab.client import select_lab

    form, template = parse_get_output(output)
    print_template = _printer(template) if form is GetOutput.jsonpath else None
    if (
        lab is None
        and resources in (["clusters"], ["cluster"])
        and not (watch or sort_by or template)
        and _show_clusters(form)
    ):
        return
    client = select_lab(lab)
    requested = requested_kinds(client, "get", resources)
    refuse_selector_beside_names(selector, requested)
    first_kind, first_names = requested[0]
    scope = namespace or "default"
    if watch and len(requested) == 1 and not isinstance(first_kind, str):
        if print_template is not None or sort_by:
            raise UsageError("-w cannot be combined with -o jsonpath or --sort-by")
        parse_label_selector(selector)
        _watch(client, first_kind, None if every else scope, selector, form, has_labels=show_labels)
        return
    fetched = (
        (kind, _sorted(fetch(client, kind, names, scope, every=every, selector=selector), sort_by))
        for kind, names in requested
    )
    if form.is_data or print_template is not None:
        documents = [document for _, items in fetched for document in items]
        is_single = len(first_names) == 1 and len(documents) == 1
        value = {"apiVersion": "v1", "kind": "List", "items": documents}
        value = documents[0] if is_single else value
        if print_template is not None:
            print_template(value)
        else:
            print_data(value, form)
        return
    if form is GetOutput.name:
        for _, items in fetched:
            for document in items:
                print_verbatim(typed_name(document))
        return
    is_only_kind = len(requested) == 1
    documents = _show_tables(
        fetched, every, form, is_only_kind=is_only_kind, has_labels=show_labels
    )
    if not documents:
        has_namespace = any(isinstance(kind, str) or kind.is_namespaced for kind, _ in requested)
        place = f" in namespace {scope}{_if_unknown(client, namespace)}"
        echo("nothing found" + (place if has_namespace and not every else ""))
    hint(_next(first_kind, documents if is_only_kind else []))


def _sorted(documents: list[JsonObject], sort_by: str) -> list[JsonObject]:
    """Sort documents by a field; without `sort_by` keep their order.

    Raises UsageError if no document has the field.
    """
    if not sort_by:
        return documents
    from kubenetlab.cli.input.jsonpath import sort_key, values
    from kubenetlab.errors import UsageError

    if documents and not any(values(sort_by, document) for document in documents):
        raise UsageError(f"--sort-by {sort_by}: no object has this field")
    return sorted(documents, key=lambda document: sort_key(sort_by, document))


def _show_tables(
    fetched: Iterable[tuple[type[Resource] | str, list[JsonObject]]],
    every: bool,
    output: GetOutput,
    *,
    is_only_kind: bool,
    has_labels: bool,
) -> list[JsonObject]:
    """Print one table per kind, with a blank line between tables; return all documents."""
    prepare_drawing()
    documents: list[JsonObject] = []
    for kind, items in fetched:
        if documents and items:
            echo()
        _show(kind, items, every, output, has_kind=not is_only_kind, has_labels=has_labels)
        documents += items
    return documents


def _if_unknown(client: Client, namespace: str | None) -> str:
    """Return a remark with the lab's namespaces if `namespace` does not exist, else an empty text.

    None is the default namespace, which always exists.
    """
    from kubenetlab.api.core import Namespace as NamespaceKind
    from kubenetlab.lab.paths import kind_path

    if namespace is None:
        return ""
    names = [
        item["metadata"]["name"] for item in client.get(kind_path(NamespaceKind, None))["items"]
    ]
    return (
        ""
        if namespace in names
        else f": this namespace does not exist; the lab has: {', '.join(names)}"
    )


def _printer(template: str) -> Callable[[object], None]:
    """Return a function that prints a document by a template. Raises UsageError."""
    from kubenetlab.cli.input.jsonpath import parse

    parsed = parse(template)
    return lambda document: typer.echo(parsed.fill(document), nl=False)


def _show_clusters(output: GetOutput) -> bool:
    """Show the Cluster documents of all labs; return False if exactly one lab is up."""
    from kubenetlab.errors import LabError
    from kubenetlab.lab.client import Client, running_labs
    from kubenetlab.lab.paths import LAB_API

    names = running_labs()
    if len(names) == 1:
        return False
    documents = []
    for name in names:
        try:
            documents += Client(name).get(f"{LAB_API}/clusters")["items"]
        except LabError:
            continue  # the lab has just ended
    if output.is_data:
        print_data({"apiVersion": "v1", "kind": "List", "items": documents}, output)
    elif output is GetOutput.name:
        for document in documents:
            print_verbatim(typed_name(document))
    elif documents:
        _show("Cluster", documents, False, output)
        hint(f"kubenetlab get pods -A --lab {names[0]}")
    else:
        echo("no lab is up")
        hint("kubenetlab up")
    return True


def typed_name(document: JsonMapping) -> str:
    """Return an object's name as kubectl prints and accepts it: `deployment.apps/web`."""
    from kubenetlab.api.kinds import group_of

    group = group_of(document["apiVersion"])
    return (
        f"{document['kind'].lower()}{f'.{group}' if group else ''}/{document['metadata']['name']}"
    )


class _Table:
    """Columns of one table: those of the kind, and those that options add."""

    def __init__(
        self,
        kind: str,
        output: GetOutput,
        *,
        has_namespace: bool,
        has_labels: bool,
        has_kind: bool = False,
    ) -> None:
        """Choose the columns; `has_kind` prints names as `pod/web-0`, for several tables."""
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

    def row(self, document: JsonMapping) -> list[str]:
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
    documents: list[JsonObject],
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
    table = TableWriter(TableLayout(columns.heading))
    rows: list[list[str]] = []
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
            print_verbatim(typed_name(document))
        else:
            rows.append(columns.row(document))
        if is_live and not (output.is_data or output is GetOutput.name):
            table.write(rows)  # those that exist at the start decide the widths of the columns
            rows = []


def _next(kind: type[Resource] | str, documents: list[JsonObject]) -> str:
    """Return the next command for a hint: one for the first object, or the first pod not ready."""
    if isinstance(kind, str) or not documents:
        return "kubenetlab get pods -A"
    meta = documents[0]["metadata"]
    namespace_option = (
        f" -n {meta['namespace']}" if meta.get("namespace", "default") != "default" else ""
    )
    if kind.kind == "Pod":
        unready = next(
            (document["metadata"] for document in documents if not _is_ready(document)), None
        )
        if unready is not None:
            return f"kubenetlab describe pod {unready['name']} -n {unready['namespace']}"
        prefix = f"{meta['namespace']}/" if namespace_option else ""
        return f"kubenetlab exec {prefix}{meta['name']} -- ip addr"
    if kind.kind == "Service":
        return f"kubenetlab describe service {meta['name']}{namespace_option}"
    if kind.kind in ("Event", "Namespace"):
        return "kubenetlab get pods -A"
    if kind.kind == "Fault":
        return f"kubenetlab heal {meta['name']}"
    if kind.kind == "Node":
        return f"kubenetlab inspect node:{meta['name']}"
    return f"kubenetlab describe {kind.kind.lower()} {meta['name']}{namespace_option}"


def _is_ready(document: JsonObject) -> bool:
    status = document.get("status", {})
    return status.get("phase") == "Succeeded" or any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in status.get("conditions", ())
    )
