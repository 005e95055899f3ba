"""Example of a store with objects of every kind, as a file of the current format.

`python -m tests.unit.lab.store.example` writes it to `formats/N` of this folder, for format N. Run
it before a change increments `FORMAT`: the examples of older formats are never written again.
"""

from __future__ import annotations

from pathlib import Path

from kubenetlab.api.core import Taint
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.lab import LabSecret, NodeSettings, Termination, Uplink
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.plugins.allocations import AddressBlock, ClusterPoolState, RingState
from kubenetlab.api.plugins.cni_agents import KnownNode, StoppedAgent
from kubenetlab.api.plugins.policy_snapshots import PolicySnapshot
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.datapath import faults
from kubenetlab.lab.store import store_file
from kubenetlab.lab.store.formats import FORMAT
from kubenetlab.lab.store.store_file import StoreFile
from tests.clusters import NOW, ONLINK, applied, deployment, running, service, settled, store
from tests.clusters import web_pods as pods

FORMATS = Path(__file__).with_name("formats")
MANIFEST = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
name: example
networking: {ipFamily: dual}
nodes: [{role: control-plane}, {role: worker}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {mode: fast}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {password: secret}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 1
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: agnhost, args: [netexec]}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: agent, image: agnhost, args: [netexec]}]}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 1
  selector: {app: old}
  template:
    metadata: {labels: {app: old}}
    spec: {containers: [{name: old, image: agnhost, args: [netexec]}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: work}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: agnhost, args: [connect, "db:5432"]}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: outside}
subsets: [{addresses: [{ip: 198.51.100.10}], ports: [{port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: deny}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {podSelector: {}}}
  egress:
  - action: Deny
    to: [{networks: [198.51.100.0/24]}]
    protocols: [{tcp: {destinationPort: {number: 80}}}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: pass}
spec:
  priority: 10
  subject: {namespaces: {}}
  ingress: [{action: Pass, from: [{namespaces: {}}], ports: [{namedPort: http}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {}}], ports: [{portNumber: {port: 80}}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {'k8s:app': web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts: [{ports: [{port: '80', protocol: TCP}]}]
  ingressDeny: [{fromEntities: [world]}]
  egress: [{toFQDNs: [{matchPattern: '*.example.com'}]}]
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: deny}
specs: [{endpointSelector: {}, egressDeny: [{toCIDRSet: [{cidr: 10.0.0.0/8}]}]}]
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: partners, labels: {role: x}}
spec: {externalCIDRs: [198.51.100.0/24]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web}
spec: {order: 10, selector: app == "web", ingress: [{action: Log}, {action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.deny}
spec: {tier: security, egress: [{action: Deny, destination: {selector: role == "x"}}]}
---
apiVersion: projectcalico.org/v3
kind: NetworkSet
metadata: {name: some}
spec: {nets: [10.0.0.0/8]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: some, labels: {role: x}}
spec: {nets: ['fd00::/8']}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 0.5, defaultAction: Pass}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool}
spec: {cidr: 10.244.0.0/16}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 64600}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 172.18.0.1, asNumber: 65000}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: tor}
spec: {exportV4: [{action: Reject, matchOperator: In, cidr: 10.9.0.0/24}]}
---
"""


def example() -> Cluster:
    """Return a running lab with objects of every kind, and with a fault."""
    balanced = service(type="LoadBalancer", externalTrafficPolicy="Local")
    cluster = running(store(MANIFEST + deployment("web", 2) + balanced))
    stopped = {"node": "worker", "how": "stopped"}
    termination = Termination(ObjectMeta("old-1", "default"), "uid-of-old-1", ("old",))
    settings = NodeSettings(
        ObjectMeta("worker"), (Taint(key="dedicated", value="db", effect="NoSchedule"),)
    )
    cluster = settled(
        cluster.with_changes(
            [
                ONLINK,
                Uplink(machine=("192.0.2.1",), router=("192.0.2.2",)),
                settings,
                *faults.break_changes(cluster, "kube-proxy", stopped, NOW),
            ]
        )
    )
    block = AddressBlock(ObjectMeta("10-244-64-0-26"), "10.244.64.0/26", "worker", "pool")
    ring = RingState(ObjectMeta("weave-ipv4"), ((0, "worker"),), {"worker": "10.32.0.1"})
    ranges = ClusterPoolState(ranges={"worker": ("10.244.1.0/24",)})
    node = cluster.node("worker")
    assert node is not None
    known = KnownNode(node, (("10.244.1.0/24",),), ({},))
    stopped_agent = StoppedAgent(
        ObjectMeta("worker"), nodes=(known,), pods=("pod-uid",), policies="0123456789ab"
    )
    namespace: JsonMapping = {"metadata": {"name": "shop"}}
    snapshot = PolicySnapshot(ObjectMeta("0123456789ab"), (("Namespace", namespace),))
    return cluster.with_changes(
        [termination, block, ring, ranges, LabSecret(seed="5eed" * 16), stopped_agent, snapshot]
    )


def changed(cluster: Cluster) -> Cluster:
    """Return the store after a change that a journal records: new, changed and deleted objects."""
    cluster = applied(cluster, service("late"))
    return settled(cluster.with_changes(deletion_changes(pods(cluster)[0], NOW)))


def write(directory: Path) -> Cluster:
    """Write the example, with a journal, to a directory; return the store that the files hold."""
    path = directory / "store.json"
    store_file.save(cluster := example(), path)
    StoreFile(path, cluster).save(after := changed(cluster))
    return after


if __name__ == "__main__":
    store_file.MIN_STORE_BYTES = 0  # type: ignore[misc]
    target = FORMATS / str(FORMAT)
    target.mkdir(parents=True, exist_ok=True)
    write(target)
    print(f"wrote {target}")
