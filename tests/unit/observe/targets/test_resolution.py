"""Targets: the objects of a lab to which a target leads."""

from __future__ import annotations

import re

import pytest
from msgspec import structs

from kubenetlab.errors import UsageError
from kubenetlab.observe.targets.grammar import KUBECTL_KINDS, Target, parse
from kubenetlab.observe.targets.locations import Location
from kubenetlab.observe.targets.meanings import resolve_name, service_of
from kubenetlab.observe.targets.resolution import named_places, pod_of, read, resolve
from tests.unit.observe.documents import HOST, POD, SEEN


@pytest.mark.parametrize(
    ("text", "target", "service_name"),
    [
        ("web", "dns:web", ("default", "web")),
        ("web:81", "dns:web:81", ("default", "web")),
        ("web.default:80", "web.default:80", ("default", "web")),
        ("db.shop.svc.cluster.local", "db.shop.svc.cluster.local", ("shop", "db")),
        ("http://web/hostname", "http://web/hostname", ("default", "web")),
        ("db", "dns:db", None),
        ("one", "default/one", None),
        ("pod/both", "default/both", None),
        ("example.com", "example.com", None),
        ("nothing", "dns:nothing", None),
    ],
)
def test_a_bare_name_is_a_pod_a_service_a_workload_or_a_dns_name(
    text: str, target: str, service_name: tuple[str, str] | None
) -> None:
    """For a client in namespace default."""
    found = resolve_name(read(text, SEEN), SEEN, POD)
    assert (str(found.target), found.service) == (target, service_name)


def test_a_service_is_looked_up_in_the_clients_namespace() -> None:
    """DNS completes a bare name with it; -n gives another one."""
    client = structs.replace(POD, namespace="shop")
    assert resolve_name(parse("db"), SEEN, client) == resolve_name(
        parse("db", "shop"), SEEN, client
    )
    assert str(resolve_name(parse("db", "shop"), SEEN, POD).target) == "db.shop"
    assert resolve_name(parse("web"), SEEN, client).service is None
    found = resolve_name(parse("db"), SEEN, client)
    assert found.explanation("db") == "db: Service shop/db by its DNS name db (not sts:shop/db)"


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("both:80", "both is ambiguous; use one of: default/both:80, svc:default/both:80"),
        ("twins", "twins is ambiguous; use one of: deploy:default/twins, sts:default/twins"),
        ("svc/cart", "svc/cart is ambiguous; use one of: svc:default/cart, pod:svc/cart"),
    ],
)
def test_an_ambiguous_destination_is_refused_with_the_exact_forms(text: str, forms: str) -> None:
    """Each form in the message parses, and is not ambiguous."""
    with pytest.raises(UsageError, match=re.escape(forms)):
        resolve_name(read(text, SEEN), SEEN, POD)
    for form in forms.partition("use one of: ")[2].split(", "):
        assert str(resolve_name(read(form, SEEN), SEEN, POD).target) == form


def test_a_name_alone_is_the_pod_before_the_service() -> None:
    """The Service of the same name is named as the alternative."""
    found = resolve_name(parse("both"), SEEN, POD)
    assert str(found.target) == "default/both"
    assert found.explanation("both") == "both: default/both (not svc:default/both)"


@pytest.mark.parametrize("source", [HOST, None], ids=["host", "none"])
def test_a_client_without_cluster_dns_means_the_pod(source: Location | None) -> None:
    """A Service of the same name is no alternative for it."""
    assert str(resolve_name(parse("both"), SEEN, source).target) == "default/both"


def test_a_namespace_named_like_a_kind_still_holds_pods() -> None:
    """`job/mail` is the pod `mail` of the namespace `job` where there is no Job of that name."""
    assert read("job/mail", SEEN) == Target("pod", "job", "mail")
    assert read("job/other", SEEN) == Target("job", "default", "other")
    assert "job" in KUBECTL_KINDS


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("web", "default/web-6bd7cd67c6-hcxd6"),
        ("deployment/web", "default/web-6bd7cd67c6-hcxd6"),
        ("pod/both", "default/both"),
        ("both", "default/both"),
        ("db.shop", "shop/db-0"),
        ("db-0.shop", "shop/db-0"),
        ("10.244.1.3", "shop/db-0"),
        ("172.18.0.3", "node:worker"),
        ("node/worker", "node:worker"),
        ("198.51.100.10", "ext:client"),
    ],
)
def test_a_source_is_a_pod_a_workload_a_node_or_a_host(text: str, title: str) -> None:
    """A Service of the same name does not make it ambiguous; an address stands for its owner."""
    assert resolve(read(text, SEEN), SEEN).title == title
    assert [place.title for place in named_places(read(text, SEEN), SEEN)] == [title]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("svc:web:80", "no process runs in a Service, its pods are: default/web-6bd7cd67c6-hcxd6"),
        (
            "svc:wbe",
            "there is no Service default/wbe; did you mean svc:default/web or deploy:default/web?",
        ),
        ("http://web/", "found a URL"),
        ("10.1.2.3", "no pod, node or host has this address"),
        ("both:80", "both:80: a source has no port; use both"),
        ("twins", "twins is ambiguous; use one of: deploy:default/twins, sts:default/twins"),
        ("wokrer", "there is no pod default/wokrer; did you mean node:worker?"),
        ("db-0", "there is no pod default/db-0; did you mean shop/db-0?"),
    ],
)
def test_a_target_that_runs_nothing_is_no_source(text: str, message: str) -> None:
    """The message shows what to use instead."""
    with pytest.raises(UsageError, match=re.escape(message)):
        resolve(read(text, SEEN), SEEN)


def test_logs_take_the_same_forms() -> None:
    """A pod is named by itself, by its workload, in kubectl's form, or by its address."""
    for text in ("web", "deploy/web", "pod/web-6bd7cd67c6-hcxd6", "10.244.1.2"):
        assert pod_of(read(text, SEEN), SEEN) == ("default", "web-6bd7cd67c6-hcxd6")


@pytest.mark.parametrize(
    "text",
    [
        "svc:web",
        "svc/web:80",
        "web",
        "web.default:80",
        "10.96.7.7:80",
        "http://web/x",
        "http://10.96.7.7/",
    ],
)
def test_every_form_leads_to_the_service(text: str) -> None:
    """The forms are those of port-forward and inspect."""
    assert service_of(read(text, SEEN), SEEN) == ("default", "web")
