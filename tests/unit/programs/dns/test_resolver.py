"""The resolver of a pod's programs."""

from __future__ import annotations

from kubenetlab.programs.dns.resolver import parse

HOSTS = "# a comment\n127.0.0.1\tlocalhost\n10.244.1.2\tweb-0.web.default.svc.cluster.local web-0\n"


RESOLV = (
    "search default.svc.cluster.local svc.cluster.local cluster.local\n"
    "nameserver 10.96.0.10\noptions ndots:5 timeout:1\n"
)


def test_the_resolver_tries_names_in_libcs_order() -> None:
    """With fewer dots than ndots the search list is first; a final dot disables it."""
    resolver = parse(HOSTS, RESOLV)
    assert (resolver.nameservers, resolver.ndots, resolver.timeout_s, resolver.attempts) == (
        ("10.96.0.10",),
        5,
        1.0,
        2,
    )
    assert list(resolver.candidates("web")) == [
        "web.default.svc.cluster.local.",
        "web.svc.cluster.local.",
        "web.cluster.local.",
        "web.",
    ]
    assert next(iter(resolver.candidates("a.b.c.d.e.f"))) == "a.b.c.d.e.f."
    assert list(resolver.candidates("web.")) == ["web."]
    assert (
        resolver.from_hosts("web-0"),
        resolver.from_hosts("localhost"),
        resolver.from_hosts("x"),
    ) == ("10.244.1.2", "127.0.0.1", None)
