"""Random invalid manifests, made from valid ones.

Keys are removed, repeated or renamed. Values get another type, become too large or odd, are copied
from elsewhere, or are set to another value that their type permits. Bytes of a text change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from msgspec import inspect

from kubenetlab.api.kinds import writable
from kubenetlab.api.text.documents import read_documents

ROOT = Path(__file__).parents[1]
OTHER_MANIFESTS = ROOT.parent / "shared" / "cases"
"""Manifests of other projects, if the folder exists."""
FILES = sorted(
    path
    for path in (
        *ROOT.glob("manifests/**/*.yaml"),
        ROOT / "kubenetlab" / "quickstart.yaml",
        *ROOT.glob("tests/golden/cases/*/input.yaml"),
        *OTHER_MANIFESTS.rglob("*.yaml"),
    )
    if path.name != "expect.yaml"
)
TEXTS = [path.read_bytes() for path in FILES]
_POD: dict[str, Any] = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {"containers": [{"name": "main", "image": "agnhost"}]},
}
_JOB_POD = {**_POD, "spec": {**_POD["spec"], "restartPolicy": "Never"}}
_SELECTOR = {"matchLabels": {"app": "web"}}
OF_EACH_KIND: list[Any] = [
    {
        "apiVersion": "v1",
        "kind": "Pod",
        **_POD,
        "metadata": {"name": "web", "labels": {"app": "web"}},
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    },
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "web"}},
    {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "out"},
        "subsets": [{"addresses": [{"ip": "1.2.3.4"}]}],
    },
    {
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": {"name": "web"},
        "spec": {"template": _POD},
    },
    {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "web"},
        "spec": {"template": _JOB_POD},
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "out", "labels": {"kubernetes.io/service-name": "out"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["1.2.3.4"]}],
        "ports": [{"port": 80}],
    },
    *(
        {
            "apiVersion": "apps/v1",
            "kind": kind,
            "metadata": {"name": "web"},
            "spec": {"selector": _SELECTOR, "template": _POD},
        }
        for kind in ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet")
    ),
    {
        "apiVersion": "kubenetlab.dev/v1alpha1",
        "kind": "Cluster",
        "nodes": [{"role": "control-plane"}, {"role": "worker"}],
    },
]
DOCUMENTS = OF_EACH_KIND + [
    document.value
    for text in TEXTS
    for document in read_documents("x", text)[0]
    if isinstance(document.value, dict)
]

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 65535, 65536, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.5,
    1e308, "", " ", "\n", "a", "A", "é", "x" * 300, "a" * 63, "a" * 64, "-a", "a-", "a.b", "a..b",
    "/", "a/b", "\x1b[31m", "\u202e", "²", "%s", "{}", "0", "-1", "80", "25%", "101%", "true",
    "None", "none", "TCP", "::1", "fe80::1%eth0", "0.0.0.0", "256.1.1.1", "1.2.3", "127.0.0.1",
    "10.96.0.1", "10.96.0.10", "10.244.0.1", "10.244.0.0/16", "0.0.0.0/0", "fd00::/64", [], {},
    [[]], [{}], {"": ""}, {"a": {}}, [None], {"a": None}, [1, 2], ["a", "a"],
)  # fmt: skip
BYTES = (
    b" ", b"\n", b"\t", b"\r", b":", b"- ", b"{", b"[", b"]", b"}", b'"', b"'", b"#", b"|", b">",
    b"? ", b"<<: ", b"&a ", b"*a", b"---\n", b"...\n", b"%YAML 1.1\n", b"!x ", b"!!int ",
    b"!!float ", b"!!bool ", b"!!null ", b"!!str ", b"!!map ", b"!!seq ", b"!!set ", b"!!omap ",
    b"!!binary ", b"!!timestamp ", b"!!python/object:os.system ", b".nan", b".inf", b"\\ud800",
    b"\x00", b"\xff", b"\x85", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"1e999", b"0x_",
)  # fmt: skip
WORDS = (
    "web",
    "a",
    "http",
    "app",
    "zone",
    "kubernetes.io/hostname",
    "10.244.1.7",
    "4",
    "worker",
    "default",
    "agnhost",
    "netexec",
    "--http-port=80",
)
COUNT_FIELDS = ("replicas", "parallelism", "completions")
"""Fields for which a large number is valid, and slow."""
MAX_COUNT = 20

Path_ = tuple[Any, ...]


class Mutator:
    """Random changes of documents and texts; the same seed makes the same changes."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def documents(self) -> list[Any]:
        """Return one to three documents, each changed in up to three places."""
        count = self.random.choice([1, 1, 2, 3])
        chosen = [
            self.random.choice(self.random.choice([OF_EACH_KIND, DOCUMENTS])) for _ in range(count)
        ]
        return [self.changed(document, self.random.choice([0, 1, 1, 2, 3])) for document in chosen]

    def text(self) -> bytes:
        """Return a file with up to six changed places."""
        data = bytearray(self.random.choice(TEXTS))
        for _ in range(self.random.randint(1, 6)):
            values = [match.end() for match in re.finditer(rb"[:-] ", data)] or [0]
            at = self.random.choice(
                [self.random.randrange(len(data) + 1), self.random.choice(values)]
            )
            match self.random.choice([0, 1, 2, 2, 3, 4]):
                case 0:
                    data[at : at + 1] = bytes([self.random.randrange(256)])
                case 1:
                    del data[at : at + self.random.randint(1, 20)]
                case 2:
                    data[at:at] = self.random.choice(BYTES)
                case 3:
                    start = self.random.randrange(len(data) + 1)
                    data[at:at] = data[start : start + self.random.randint(1, 40)]
                case 4:
                    data[at : at + 1] *= self.random.randint(2, 200)
        return bytes(data)

    def changed(self, document: Any, times: int) -> Any:
        type_ = writable(document)
        for _ in range(times):
            if type_ is not None and self.random.random() < 0.5:
                document = self.with_field(document, inspect.type_info(type_))
            else:
                document = self.mutated(document)
        return bounded(document)

    def mutated(self, value: Any) -> Any:
        """Return the document with one changed place of any type."""
        path = self.random.choice(paths(value))
        if not path:
            return value
        match self.random.choice(["delete", "odd", "odd", "rename", "twice", "graft", "wrap"]):
            case "delete":
                return edited(value, path, lambda step, old: {})
            case "odd":
                new = self.random.choice(ODD)
                return edited(value, path, lambda step, old: {step: new})
            case "rename":
                key = str(
                    self.random.choice(
                        [
                            "",
                            "x",
                            "a/b",
                            *(
                                part
                                for path_ in paths(value)
                                for part in path_
                                if isinstance(part, str)
                            ),
                        ]
                    )
                )
                return edited(value, path, lambda step, old: {key: old})
            case "twice":
                return edited(value, path, lambda step, old: {step: old, f"{step}2": old})
            case "graft":
                other = self.random.choice(DOCUMENTS)
                fragment = at_path(other, self.random.choice(paths(other)))
                return edited(value, path, lambda step, old: {step: fragment})
        return edited(value, path, lambda step, old: {step: [old, old]})

    def with_field(self, value: Any, type_: inspect.Type) -> Any:
        """Return the document with one field set to a value of the field's type."""
        places = list(structs_in(value, type_))
        if not places:
            return value
        path, info = self.random.choice(places)
        fields = [
            field
            for field in info.fields
            if field.encode_name not in ("status", "name", "apiVersion", "kind")
        ]
        if not fields:
            return value
        field = self.random.choice(fields)
        new = {field.encode_name: self.of_type(field.type, 0)}
        return (
            {**value, **new}
            if not path
            else edited(value, path, lambda step, old: {step: {**old, **new}})
        )

    def of_type(self, info: inspect.Type, depth: int) -> Any:
        """Return a value of a type; deeply nested values have only required fields."""
        random = self.random
        if isinstance(info, inspect.Metadata):
            examples = (info.extra_json_schema or {}).get("examples")
            return examples[0] if examples else self.of_type(info.type, depth)
        match info:
            case inspect.StructType():
                fields = [
                    field
                    for field in info.fields
                    if field.required or random.random() < 0.3 / (depth + 1)
                ]
                return {field.encode_name: self.of_type(field.type, depth + 1) for field in fields}
            case inspect.DictType():
                return {
                    random.choice(["app", "zone"]): self.of_type(info.value_type, depth + 1)
                    for _ in range(random.choice([0, 1, 1, 2]))
                }
            case inspect.VarTupleType() | inspect.ListType():
                return [
                    self.of_type(info.item_type, depth + 1)
                    for _ in range(max(info.min_length or 0, random.choice([0, 1, 1, 2])))
                ]
            case inspect.UnionType():
                return self.of_type(random.choice(info.types), depth)
            case inspect.LiteralType():
                return random.choice(info.values)
            case inspect.IntType():
                lowest, highest = (
                    info.ge if info.ge is not None else -2,
                    info.le if info.le is not None else 2**63,
                )
                return random.choice([lowest, lowest + 1, 3, 80, 8080, highest])
            case inspect.BoolType():
                return random.random() < 0.5
            case inspect.StrType():
                return random.choice(WORDS)
            case inspect.NoneType():
                return None
        return random.choice([None, 1, "x", {}, [], {"a": [1]}])


def paths(value: Any, path: Path_ = ()) -> list[Path_]:
    """Return every path in a document."""
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [
        path,
        *(item_path for step, item in inside for item_path in paths(item, (*path, step))),
    ]


def at_path(value: Any, path: Path_) -> Any:
    for step in path:
        value = value[step]
    return value


def edited(value: Any, path: Path_, edit: Any) -> Any:
    """Return the document with one entry replaced by those of `edit(step, entry)`, by key."""
    first, *rest = path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    pairs = [
        pair
        for step, item in items
        for pair in (
            ((step, item),)
            if step != first
            else ((step, edited(item, tuple(rest), edit)),)
            if rest
            else tuple(edit(step, item).items())
        )
    ]
    return dict(pairs) if isinstance(value, dict) else [item for _, item in pairs]


def structs_in(
    value: Any, info: inspect.Type, path: Path_ = ()
) -> Iterator[tuple[Path_, inspect.StructType]]:
    """Yield (path, type) of each mapping in a document that has a type of the API."""
    if isinstance(info, inspect.Metadata):
        info = info.type
    match info:
        case inspect.StructType() if isinstance(value, Mapping):
            yield path, info
            for field in info.fields:
                if field.encode_name in value:
                    yield from structs_in(
                        value[field.encode_name], field.type, (*path, field.encode_name)
                    )
        case inspect.VarTupleType() | inspect.ListType() if isinstance(value, list):
            for index, item in enumerate(value):
                yield from structs_in(item, info.item_type, (*path, index))
        case inspect.UnionType():
            for option in info.types:
                if isinstance(option, inspect.StructType):
                    yield from structs_in(value, option, path)


def bounded(value: Any) -> Any:
    """Return the document with a few pods instead of many."""
    if isinstance(value, dict):
        return {
            key: MAX_COUNT if key in COUNT_FIELDS and _is_many(item) else bounded(item)
            for key, item in value.items()
        }
    return [bounded(item) for item in value] if isinstance(value, list) else value


def _is_many(value: Any) -> bool:
    return isinstance(value, int) and MAX_COUNT < value <= 20_000
