"""Kinds that the lab keeps without enforcing them, although they change in a cluster which connections succeed.

Kinds that are in no entry have no influence on connections (RBAC, autoscaling, storage …), as far as is known here.
Source: the API references of the projects named, November 2026.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

Effect = Literal["policy", "route", "addresses", "mesh"]
"""policy: allows and denies connections between pods.  route: opens a way in from outside.  addresses: gives addresses, or
decides where packets to them go.  mesh: a proxy beside each pod redirects, splits or refuses connections."""


class _Kinds(NamedTuple):
    """Kinds of an API group, or with a leading dot of the groups below a domain."""

    group: str
    effect: Effect
    kinds: str = ""
    """Names with blanks between; empty for every kind of the group."""


_KNOWN: Final = (
    _Kinds("networking.k8s.io", "policy", "NetworkPolicy"),
    _Kinds("networking.k8s.io", "route", "Ingress"),
    _Kinds("networking.k8s.io", "addresses", "ServiceCIDR IPAddress"),
    _Kinds("extensions", "policy", "NetworkPolicy"),
    _Kinds("extensions", "route", "Ingress"),
    _Kinds("policy.networking.k8s.io", "policy"),
    _Kinds(
        "gateway.networking.k8s.io",
        "route",
        "Gateway HTTPRoute GRPCRoute TLSRoute TCPRoute UDPRoute ListenerSet BackendTLSPolicy BackendLBPolicy",
    ),
    _Kinds("gateway.networking.x-k8s.io", "route"),
    _Kinds("multicluster.x-k8s.io", "addresses", "ServiceImport ServiceExport"),
    _Kinds("k8s.cni.cncf.io", "addresses", "NetworkAttachmentDefinition"),
    # CNI plugins
    *(
        kinds
        for group in ("projectcalico.org", "crd.projectcalico.org")
        for kinds in (
            _Kinds(
                group,
                "policy",
                "NetworkPolicy GlobalNetworkPolicy Tier GlobalNetworkSet NetworkSet HostEndpoint Profile",
            ),
            _Kinds(
                group,
                "addresses",
                "IPPool IPReservation BGPConfiguration BGPPeer BGPFilter FelixConfiguration EgressGatewayPolicy",
            ),
        )
    ),
    _Kinds(
        "cilium.io", "policy", "CiliumNetworkPolicy CiliumClusterwideNetworkPolicy CiliumCIDRGroup"
    ),
    _Kinds(
        "cilium.io",
        "mesh",
        "CiliumEnvoyConfig CiliumClusterwideEnvoyConfig CiliumLocalRedirectPolicy",
    ),
    _Kinds(
        "cilium.io",
        "addresses",
        "CiliumEgressGatewayPolicy CiliumLoadBalancerIPPool CiliumL2AnnouncementPolicy CiliumPodIPPool CiliumNodeConfig "
        "CiliumBGPPeeringPolicy CiliumBGPClusterConfig CiliumBGPPeerConfig CiliumBGPAdvertisement",
    ),
    _Kinds("crd.antrea.io", "policy", "NetworkPolicy ClusterNetworkPolicy Tier ClusterGroup Group"),
    _Kinds("crd.antrea.io", "addresses", "Egress ExternalIPPool IPPool TrafficControl"),
    _Kinds("vpcresources.k8s.aws", "policy", "SecurityGroupPolicy"),
    _Kinds("crd.k8s.amazonaws.com", "addresses", "ENIConfig"),
    _Kinds("whereabouts.cni.cncf.io", "addresses", "IPPool"),
    _Kinds("isovalent.com", "policy"),
    _Kinds("k8s.ovn.org", "policy", "EgressFirewall AdminPolicyBasedExternalRoute"),
    _Kinds(
        "k8s.ovn.org",
        "addresses",
        "EgressIP EgressService EgressQoS UserDefinedNetwork ClusterUserDefinedNetwork",
    ),
    _Kinds("kubeovn.io", "addresses"),
    _Kinds("metallb.io", "addresses", "IPAddressPool L2Advertisement BGPAdvertisement BGPPeer"),
    _Kinds("metallb.universe.tf", "addresses"),
    # Ingress controllers
    *(
        _Kinds(group, "route")
        for group in (
            "route.openshift.io",
            "traefik.io",
            "traefik.containo.us",
            "projectcontour.io",
            "k8s.nginx.org",
            "getambassador.io",
            "configuration.konghq.com",
            "apisix.apache.org",
            "ingress.v1.haproxy.org",
            "gateway.envoyproxy.io",
            "gateway.nginx.org",
            "gateway.solo.io",
            "appgw.ingress.k8s.io",
        )
    ),
    _Kinds(
        "networking.gke.io",
        "route",
        "FrontendConfig GCPBackendPolicy GCPGatewayPolicy MultiClusterIngress MultiClusterService",
    ),
    _Kinds("cloud.google.com", "route", "BackendConfig"),
    _Kinds("elbv2.k8s.aws", "route", "TargetGroupBinding"),
    # Service meshes
    _Kinds("networking.istio.io", "mesh"),
    _Kinds(
        "security.istio.io", "mesh", "AuthorizationPolicy PeerAuthentication RequestAuthentication"
    ),
    _Kinds("extensions.istio.io", "mesh"),
    _Kinds("policy.linkerd.io", "mesh"),
    _Kinds("appmesh.k8s.aws", "mesh"),
    _Kinds("policy.openservicemesh.io", "mesh"),
    _Kinds("application-networking.k8s.aws", "mesh"),
    _Kinds("linkerd.io", "mesh", "ServiceProfile"),
    _Kinds(".smi-spec.io", "mesh"),
    _Kinds("consul.hashicorp.com", "mesh"),
    _Kinds("kuma.io", "mesh"),
)


def effect_of(document: Mapping[str, Any]) -> Effect | None:
    """Return how a document of a kind that the lab does not model would change connections; None where it would not."""
    group, kind = (
        str(document.get("apiVersion", "")).rpartition("/")[0],
        str(document.get("kind", "")),
    )
    for known in _KNOWN:
        is_group = (
            group.endswith(known.group) if known.group.startswith(".") else group == known.group
        )
        if is_group and (not known.kinds or kind in known.kinds.split()):
            return known.effect
    return "policy" if "NetworkPolicy" in kind else None
