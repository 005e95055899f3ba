"""Kinds that affect connections in a cluster and that the lab stores without enforcing them.

All other kinds, such as those of RBAC, autoscaling and storage, are assumed not to affect
connections. Source: API references of the projects named, November 2026.
"""

from typing import Final, Literal, NamedTuple

from kubenetlab.api.json_types import JsonMapping

Effect = Literal["policy", "route", "addresses", "mesh"]
"""Effect on connections.

policy: allows and denies connections between pods. route: makes Services reachable from outside.
addresses: allocates addresses, or routes packets to them. mesh: makes proxies redirect, split or
refuse connections.
"""


class _Kinds(NamedTuple):
    """Kinds with an effect."""

    group: str
    """API group; with a leading dot all groups below a domain."""
    effect: Effect
    kinds: str = ""
    """Names of the kinds, separated by spaces; empty for all kinds of the group."""
    examples: str = ""
    """Names of some kinds, if all kinds of the group have the effect."""


_KNOWN: Final = (
    _Kinds("networking.k8s.io", "policy", "NetworkPolicy"),
    _Kinds("networking.k8s.io", "route", "Ingress"),
    _Kinds("networking.k8s.io", "addresses", "ServiceCIDR IPAddress"),
    _Kinds("extensions", "policy", "NetworkPolicy"),
    _Kinds("extensions", "route", "Ingress"),
    _Kinds(
        "policy.networking.k8s.io",
        "policy",
        examples="ClusterNetworkPolicy AdminNetworkPolicy BaselineAdminNetworkPolicy",
    ),
    _Kinds(
        "gateway.networking.k8s.io",
        "route",
        "Gateway HTTPRoute GRPCRoute TLSRoute TCPRoute UDPRoute ListenerSet BackendTLSPolicy "
        "BackendLBPolicy",
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
                "NetworkPolicy GlobalNetworkPolicy Tier GlobalNetworkSet NetworkSet HostEndpoint "
                "Profile",
            ),
            _Kinds(
                group,
                "addresses",
                "IPPool IPReservation BGPConfiguration BGPPeer BGPFilter FelixConfiguration "
                "EgressGatewayPolicy",
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
        "CiliumEgressGatewayPolicy CiliumLoadBalancerIPPool CiliumL2AnnouncementPolicy "
        "CiliumPodIPPool CiliumNodeConfig CiliumBGPPeeringPolicy CiliumBGPClusterConfig "
        "CiliumBGPPeerConfig CiliumBGPAdvertisement",
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
    _Kinds(
        "kubeovn.io",
        "addresses",
        examples="Vpc Subnet IPPool OvnEip OvnFip SecurityGroup",
    ),
    _Kinds("metallb.io", "addresses", "IPAddressPool L2Advertisement BGPAdvertisement BGPPeer"),
    _Kinds("metallb.universe.tf", "addresses"),
    # Ingress controllers
    *(
        _Kinds(group, "route", examples=examples)
        for group, examples in (
            ("route.openshift.io", "Route"),
            (
                "traefik.io",
                "IngressRoute IngressRouteTCP IngressRouteUDP Middleware TraefikService",
            ),
            ("traefik.containo.us", "IngressRoute Middleware"),
            ("projectcontour.io", "HTTPProxy TLSCertificateDelegation"),
            ("k8s.nginx.org", "VirtualServer VirtualServerRoute TransportServer Policy"),
            ("getambassador.io", "Mapping Host Listener TCPMapping"),
            (
                "configuration.konghq.com",
                "KongIngress KongPlugin KongConsumer TCPIngress UDPIngress",
            ),
            ("apisix.apache.org", "ApisixRoute ApisixUpstream ApisixTls"),
            ("ingress.v1.haproxy.org", "Defaults Global Backend TCP"),
            ("gateway.envoyproxy.io", "EnvoyProxy SecurityPolicy ClientTrafficPolicy"),
            ("gateway.nginx.org", "NginxGateway ClientSettingsPolicy"),
            ("gateway.solo.io", "Gateway VirtualService RouteTable Upstream"),
            ("appgw.ingress.k8s.io", "AzureIngressProhibitedTarget"),
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
    _Kinds(
        "networking.istio.io",
        "mesh",
        examples=(
            "VirtualService DestinationRule Gateway ServiceEntry Sidecar "
            "EnvoyFilter WorkloadEntry WorkloadGroup ProxyConfig"
        ),
    ),
    _Kinds(
        "security.istio.io", "mesh", "AuthorizationPolicy PeerAuthentication RequestAuthentication"
    ),
    _Kinds(
        "extensions.istio.io",
        "mesh",
        examples="WasmPlugin",
    ),
    _Kinds(
        "policy.linkerd.io",
        "mesh",
        examples=(
            "Server ServerAuthorization AuthorizationPolicy HTTPRoute "
            "MeshTLSAuthentication NetworkAuthentication"
        ),
    ),
    _Kinds(
        "appmesh.k8s.aws",
        "mesh",
        examples=("Mesh VirtualNode VirtualRouter VirtualService VirtualGateway GatewayRoute"),
    ),
    _Kinds("policy.openservicemesh.io", "mesh"),
    _Kinds("application-networking.k8s.aws", "mesh"),
    _Kinds("linkerd.io", "mesh", "ServiceProfile"),
    _Kinds(
        ".smi-spec.io",
        "mesh",
        examples="TrafficSplit TrafficTarget HTTPRouteGroup",
    ),
    _Kinds(
        "consul.hashicorp.com",
        "mesh",
        examples=(
            "ServiceIntentions ServiceDefaults ServiceRouter ServiceSplitter "
            "ServiceResolver ProxyDefaults Mesh"
        ),
    ),
    _Kinds(
        "kuma.io",
        "mesh",
        examples=(
            "Mesh MeshTrafficPermission MeshHTTPRoute MeshTCPRoute TrafficPermission TrafficRoute"
        ),
    ),
)


def effect_of(document: JsonMapping) -> Effect | None:
    """Return the effect of a document of a kind that the lab does not model; None without one."""
    group = str(document.get("apiVersion", "")).rpartition("/")[0]
    kind = str(document.get("kind", ""))
    for entry in _KNOWN:
        is_group = (
            group.endswith(entry.group) if entry.group.startswith(".") else group == entry.group
        )
        if is_group and (not entry.kinds or kind in entry.kinds.split()):
            return entry.effect
    is_preview = kind.startswith("Staged")  # Calico's policies that deny nothing yet
    return "policy" if "NetworkPolicy" in kind and not is_preview else None


def known_kinds() -> set[str]:
    """Return the names of the kinds with an effect, as far as they are known."""
    return {name for entry in _KNOWN for name in (entry.kinds or entry.examples).split()}
