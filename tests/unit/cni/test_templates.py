"""Values of the node in configuration lists."""

from __future__ import annotations

import json

import pytest

from kubenetlab.api.json_types import JsonValue
from kubenetlab.cni import templates
from kubenetlab.cni.templates import NodeValues, TemplateError

NODE = NodeValues(("10.244.1.0/24", "fd00:10:244:1::/64"))

CONTAINERD_EXAMPLE = """
{
  "name": "containerd-net",
  "cniVersion": "1.0.0",
  "plugins": [{
    "type": "bridge",
    "ipam": {
      "type": "host-local",
      "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
      "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]
    }
  }]
}
"""  # noqa: E501 (as in containerd's documentation)


def test_containerds_example_is_rendered() -> None:
    """Its configuration template has loops over ranges and default routes."""
    document = templates.render(CONTAINERD_EXAMPLE, NODE)
    assert document["plugins"][0]["ipam"] == {
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }


def test_texts_of_a_document_are_templates() -> None:
    """A list inside a Cluster document is YAML, of which each text is rendered by itself."""
    document = {"plugins": [{"ipam": {"subnet": "{{ .PodCIDR }}"}, "mtu": 1400, "on": True}]}
    assert templates.render(document, NODE) == {
        "plugins": [{"ipam": {"subnet": "10.244.1.0/24"}, "mtu": 1400, "on": True}]
    }


def test_host_local_may_use_the_pod_cidr() -> None:
    """Calico's plugin knows the words; they may be written in either case."""
    document = {"ranges": [[{"subnet": "usePodCidr"}], [{"subnet": "usePodCidrIPv6"}]]}
    assert templates.render(json.dumps(document), NODE) == {
        "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]]
    }
    with pytest.raises(TemplateError, match="the node has no IPv6 range"):
        templates.render(document, NodeValues(("10.244.1.0/24",)))


def test_else_and_fields_without_variables() -> None:
    """The rest of what a template may have."""
    text = "{{range .PodCIDRRanges}}<{{.}}>{{else}}none{{end}} {{- .PodCIDR -}}"
    assert templates.render_text(text, NODE) == (
        "<10.244.1.0/24><fd00:10:244:1::/64> 10.244.1.0/24"
    )
    assert templates.render_text(text, NodeValues(())) == "none "
    assert templates.render_text("{{if .PodCIDR}}a{{else}}b{{end}}", NodeValues(())) == "b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{.PodCidr}}", "{{.PodCidr}} is not known; known: .PodCIDR, .PodCIDRRanges, .Routes"),
        ("{{end}}", "{{end}} without a beginning"),
        ("{{if .PodCIDR}}", "{{if .PodCIDR}} without {{end}}"),
        ("{{range $x}}{{end}}", "{{range $x}} is not understood"),
        ("{{range .PodCIDR}}{{end}}", ".PodCIDR is not a list"),
        ("{{template x}}", "{{template x}} is not known"),
        ("{", "expected JSON"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    """A template that is not understood is refused, not passed on."""
    with pytest.raises(TemplateError) as raised:
        templates.render(text, NODE)
    assert message in str(raised.value)
    assert templates.check(text) == str(raised.value)


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        (CONTAINERD_EXAMPLE, True),
        ({"subnet": "{{.PodCIDR}}"}, True),
        ({"subnet": "usePodCIDR"}, True),
        ('{"capabilities": {"ipRanges" : true}}', True),
        ({"capabilities": {"ipRanges": True}}, True),
        ({"capabilities": {"ipRanges": False}}, False),
        ({"subnet": "10.0.0.0/8"}, False),
        ({"name": "PodCIDR"}, False),
    ],
)
def test_a_list_may_depend_on_the_pod_range(configuration: object, expected: bool) -> None:
    """Only then do the lab's routes to pod ranges lead to pods."""
    assert templates.uses_pod_cidr(configuration) is expected


@pytest.mark.parametrize(
    ("configuration", "families"),
    [
        ({"subnet": "usePodCidr"}, {(4,), (4, 6)}),
        ({"subnet": "usePodCidrIPv6"}, {(6,), (4, 6)}),
        ("{{range .PodCIDRRanges}}[{{end}}]", {(4,), (6,)}),
        (CONTAINERD_EXAMPLE, {(4,), (6,), (4, 6), (6, 4)}),
    ],
)
def test_a_list_may_be_for_clusters_of_some_ip_versions(
    configuration: JsonValue, families: set[tuple[int, ...]]
) -> None:
    """A list is right if one kind of cluster can have it; each cluster checks its own versions."""
    assert not templates.check(configuration)
    for versions in ((4,), (6,), (4, 6), (6, 4)):
        is_right = versions in families or (len(versions) == 2 and (4, 6) in families)
        assert (not templates.check(configuration, versions)) is is_right
