"""A document of every kind of a manifest, with many of its fields."""

from __future__ import annotations

from typing import Any

from kubenetlab.api.text.documents import read_documents
from tests.clusters import deployment, pod, service

EVERYTHING = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: some}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [web]}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    ports: [{port: http}, {protocol: UDP, port: 1000, endPort: 2000}]
  egress: [{to: [{podSelector: {}}], ports: [{port: 53, protocol: UDP}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: some}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  ingress:
  - name: web
    action: Accept
    from: [{namespaces: {matchLabels: {team: ops}}}]
    protocols:
    - tcp: {destinationPort: {number: 80}}
    - udp: {destinationPort: {range: {start: 1000, end: 2000}}}
    - destinationNamedPort: http
  egress:
  - action: Accept
    to: [{nodes: {}}, {networks: [10.0.0.0/8]}, {domainNames: ['*.example.com']}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: some}
spec:
  priority: 10
  subject: {namespaces: {}}
  ingress: [{action: Pass, from: [{namespaces: {}}], ports: [{namedPort: http}]}]
  egress: [{action: Deny, to: [{nodes: {}}], ports: [{portRange: {start: 1, end: 9}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {}}], ports: [{portNumber: {port: 80}}]}]
  egress: [{action: Allow, to: [{networks: ['::/0']}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: some}
spec:
  endpointSelector: {matchLabels: {'k8s:app': web}}
  description: web
  enableDefaultDeny: {ingress: true, egress: false}
  ingress:
  - fromEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': shop}}]
    toPorts:
    - ports: [{port: '80', protocol: TCP}]
      rules: {http: [{method: GET, path: /}]}
    authentication: {mode: disabled}
  - {fromCIDR: [10.0.0.0/8], toPorts: [{ports: [{port: http}, {port: '1', endPort: 9}]}]}
  - {fromEntities: [world, remote-node], icmps: [{fields: [{type: EchoRequest, family: IPv6}]}]}
  ingressDeny: [{fromEndpoints: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: '81'}]}]}]
  egress:
  - {toFQDNs: [{matchName: api.example.com}, {matchPattern: '*.example.com'}]}
  - {toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}, {cidrGroupRef: some}]}
  - {toCIDRSet: [{cidrGroupSelector: {matchLabels: {role: partner}}, except: [10.1.0.0/16]}]}
  - toServices: [{k8sService: {serviceName: web}}, {k8sServiceSelector: {selector: {}}}]
  egressDeny: [{toEntities: [all]}]
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: some}
specs:
- {endpointSelector: {}, ingress: [{}], egress: [{toEndpoints: [{}]}]}
- {nodeSelector: {}, ingress: [{fromEntities: [cluster]}]}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumCIDRGroup
metadata: {name: some, labels: {role: partner}}
spec: {externalCIDRs: [198.51.100.0/24]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: security.some}
spec:
  tier: security
  order: 10
  selector: app == "web"
  types: [Ingress, Egress]
  serviceAccountSelector: all()
  ingress:
  - action: Allow
    ipVersion: 4
    protocol: TCP
    source: {nets: [10.0.0.0/8], notNets: [10.1.0.0/16], serviceAccounts: {names: [a]}}
    destination: {ports: [80, '90:100', http], notPorts: [95]}
  - {action: Log, protocol: ICMP, icmp: {type: 8, code: 0}, notICMP: {type: 3}}
  - {action: Pass, source: {services: {name: web}}}
  egress:
  - {action: Deny, notProtocol: 47, destination: {notSelector: has(x), namespaceSelector: global()}}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: some}
spec: {namespaceSelector: all(), doNotTrack: true, applyOnForward: true, order: 0.5}
---
apiVersion: projectcalico.org/v3
kind: NetworkSet
metadata: {name: some}
spec: {nets: [10.0.0.0/8]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: some}
spec: {nets: ['fd00::/8']}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: some}
spec: {order: 10, defaultAction: Pass}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool}
spec:
  {cidr: 10.9.0.0/16, blockSize: 28, natOutgoing: true, vxlanMode: CrossSubnet,
   nodeSelector: all()}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 64600, nodeToNodeMeshEnabled: true, serviceClusterIPs: [{cidr: 10.96.0.0/16}]}
---
apiVersion: crd.projectcalico.org/v1
kind: BGPPeer
metadata: {name: tor}
spec:
  {nodeSelector: all(), peerIP: 172.18.0.1, asNumber: 65000, numAllowedLocalASNumbers: 1,
   filters: [tor], maxRestartTime: 30s}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: tor}
spec:
  exportV4:
  - {action: Accept, matchOperator: In, cidr: 10.9.0.0/16, prefixLength: {min: 26, max: 32},
     operations: [{addCommunity: {value: '65000:120'}}, {prependASPath: {prefix: [65001]}}]}
  - {action: Reject, source: RemotePeers, peerType: eBGP, interface: '*.calico'}
  importV6: [{action: Reject, communities: {values: ['1:2:3']}, asPathPrefix: [65000]}]
---
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
name: demo
nodes:
- role: worker
  name: n1
  labels: {a: b}
  extraPortMappings: [{containerPort: 80, hostPort: 8080}]
  image: x
networking:
  podSubnet: 10.1.0.0/16
  cni: {type: bridge, layout: routed}
  kubeProxyMode: none
  apiServerPort: 1
fabric: {topology: switched, links: [{node: n1, mtu: 9000, rate: 1gbit, delay: 1ms, loss: 1%}]}
external: [{name: c, address: 198.51.100.10, ports: [443]}]
featureGates: {A: true}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {a: b}}
spec: {finalizers: [kubernetes]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a}
addressType: IPv4
endpoints:
- addresses: [10.0.0.1]
  conditions: {ready: true}
  targetRef: {kind: Pod, name: a}
  hints: {forZones: [{name: a}]}
ports: [{name: http, port: 80, protocol: TCP, appProtocol: null}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: a}
subsets: [{addresses: [{ip: 10.0.0.1, nodeName: n1}], ports: [{port: 80}]}]
---
apiVersion: v1
kind: ReplicationController
metadata: {name: a}
spec:
  replicas: 2
  selector: {a: b}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: a, ownerReferences: [{apiVersion: v1, kind: Pod, name: a, uid: "1"}]}
spec:
  selector: {matchExpressions: [{key: a, operator: In, values: [b]}]}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: a}
spec:
  serviceName: a
  updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 1}}
  ordinals: {start: 1}
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}
  volumeClaimTemplates: [{metadata: {name: data}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: a}
spec:
  updateStrategy: {rollingUpdate: {maxUnavailable: 10%}}
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: a}
spec:
  completions: 2
  parallelism: 1
  template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}
---
apiVersion: v1
kind: Node
metadata: {name: worker, labels: {zone: a}}
spec: {unschedulable: true, podCIDR: 10.244.7.0/24, taints: [{key: a, value: b, effect: NoExecute}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
data: {a: b}
binaryData: {c: ZA==}
---
apiVersion: v1
kind: Secret
metadata: {name: a}
type: Opaque
data: {a: Yg==}
stringData: {c: d}
---
"""
PROBES = (
    ", ports: [{containerPort: 80}], readinessProbe: {httpGet: {port: http, httpHeaders: "
    "[{name: a}]}}, env: [{name: A, value: b}]"
)
PLACES = (
    ", tolerations: [{key: a, operator: Exists}], dnsConfig: {nameservers: [1.1.1.1], options: "
    "[{name: ndots, value: '2'}]}"
    ", affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
    "{nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}},"
    " podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: a, "
    "labelSelector: {matchLabels: {a: b}}}]}}"
)


def documents(text: str | bytes) -> list[Any]:
    """Return the documents of a manifest."""
    found, problems = read_documents("test.yaml", text.encode() if isinstance(text, str) else text)
    assert problems == []
    return [document.value for document in found]


WHOLE = documents(EVERYTHING + deployment() + service() + pod("web", PLACES, container=PROBES))
"""The documents."""
