#!/bin/sh
# The lab iptables as shell commands, equivalent to the netlink messages that `kubenetlab up` sends.
#
#   sh lab.sh          creates the lab, as root; stops at the first command that fails
#   sh lab.sh down     removes the lab, also after a failure
#
# Required packages: iproute2, nftables and procps. The script works only in network namespaces that
# it creates, and changes nothing in the machine's own network. Namespace names begin with the name
# of the lab. To run it while kubenetlab's own lab iptables is up, choose another: LAB=other sh lab.sh
#
# Services have the pods that are ready as endpoints; if the lab was not up when this script was
# written, these are all their pods. The script sets no hostnames, because they belong to UTS
# namespaces, and runs no programs: comments say which program would listen on which ports.
# A comment before commands, such as `# fabric`, names the component of the cluster they belong to.
#
# Namespaces in order of creation, with their addresses:
#
#   iptables_fabric_switch                              the wire between the nodes
#   iptables_fabric_internet                            the internet
#   iptables_fabric_router                              the router                                 172.18.0.1, 198.51.100.1
#   iptables_ext_client                                 external host client                       198.51.100.10
#   iptables_node_control-plane                         Node control-plane                         172.18.0.2, 10.244.0.1
#   iptables_pod_kube-system_coredns-66699bc8fc-cvqf5   Pod kube-system/coredns-66699bc8fc-cvqf5   10.244.0.2
#   iptables_pod_kube-system_coredns-66699bc8fc-bhvmm   Pod kube-system/coredns-66699bc8fc-bhvmm   10.244.0.3
#   iptables_pod_default_web-59b86ff799-mrsh6           Pod default/web-59b86ff799-mrsh6           10.244.0.4
#   iptables_pod_default_web-59b86ff799-qlzzw           Pod default/web-59b86ff799-qlzzw           10.244.0.5
#   iptables_pod_default_web-59b86ff799-9bhk8           Pod default/web-59b86ff799-9bhk8           10.244.0.6
#
# Recurring options:
#
#   type veth peer name X netns Y          a veth pair: one end is here, the other end is X in namespace Y, a port of Y's bridge
#   alias '…'                              a description that `ip link` shows: component and subject of the link
#   numtxqueues 1 numrxqueues 1            one queue is enough; by default the kernel creates one for each processor
#   mcast_snooping 0                       the bridge forwards multicast to all ports, whether or not they joined the group
#   hairpin on                             the bridge may send a frame back to its port: a pod reaches itself by its Service
#   scope link noprefixroute               the address is not selected as source address, and gets no route to its prefix
#   src ADDRESS                            source address of packets that this machine sends by the route
#   net.bridge.bridge-nf-call-iptables=1   netfilter rules apply to bridged packets; if it does not exist: modprobe br_netfilter
#   nud permanent                          the MAC address is configured: no ARP, no neighbor discovery
#   proto static                           `ip route show proto static` lists the script's routes, but not the kernel's own

set -eu
LAB=${LAB:-iptables}

down() {
    for file in /run/netns/"$LAB"_fabric_* /run/netns/"$LAB"_ext_* /run/netns/"$LAB"_node_* /run/netns/"$LAB"_pod_*; do
        if [ -e "$file" ] && [ ! -L "$file" ]; then ip netns del "${file##*/}"; fi
    done
}

if [ "${1:-up}" = down ]; then
    down
    exit
fi

# settings NAMESPACE [SETTING…]: write these sysctls and those that all namespaces have in common.
# A new namespace inherits some sysctls from the machine.
settings() {
    netns=$1
    shift
    ip netns exec "$netns" sysctl -qw "$@" \
        net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.all.arp_ignore=0 \
        net.ipv4.conf.default.arp_ignore=0 net.ipv4.conf.all.accept_local=0 net.ipv4.conf.default.accept_local=0 \
        net.ipv4.conf.all.proxy_arp=0 net.ipv4.conf.default.proxy_arp=0 net.ipv4.conf.default.route_localnet=0 \
        net.ipv4.ip_default_ttl=64 'net.ipv4.ping_group_range=0 0'
    ip netns exec "$netns" sysctl -qew net.ipv6.conf.all.disable_ipv6=1
}

# === the wire between the nodes =======================================================================================
NS=${LAB}_fabric_switch
ip netns add "$NS"  # hostname: switch
settings "$NS" \
    net.ipv4.ip_forward=0 net.ipv4.conf.all.route_localnet=0
ip -n "$NS" link set lo up
# fabric
ip -n "$NS" link add br0 address 0a:58:00:00:00:01 mtu 1500 type bridge mcast_snooping 0
ip -n "$NS" link set br0 alias 'fabric: switch' up

# === the internet =====================================================================================================
NS=${LAB}_fabric_internet
ip netns add "$NS"  # hostname: internet
settings "$NS" \
    net.ipv4.ip_forward=0 net.ipv4.conf.all.route_localnet=0
ip -n "$NS" link set lo up
# fabric
ip -n "$NS" link add br0 address 0a:58:00:00:00:02 mtu 1500 type bridge mcast_snooping 0
ip -n "$NS" link set br0 alias 'fabric: internet' up

# === the router =======================================================================================================
NS=${LAB}_fabric_router
ip netns add "$NS"  # hostname: router
settings "$NS" \
    net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=0 net.ipv4.icmp_ratemask=0 \
    net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.all.arp_announce=2 net.ipv4.conf.default.send_redirects=0 \
    net.ipv4.conf.default.arp_announce=2 net.ipv4.fib_multipath_hash_policy=1
ip -n "$NS" link set lo up
# fabric
ip -n "$NS" link add eth0 address 0a:58:ac:12:00:01 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name router netns "${LAB}_fabric_switch" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'fabric: router' up
ip -n "${LAB}_fabric_switch" link set router master br0 address 0a:59:ac:12:00:01 alias 'fabric: router' up
ip -n "$NS" link add eth1 address 0a:58:c6:33:64:01 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name router netns "${LAB}_fabric_internet" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth1 alias 'fabric: router' up
ip -n "${LAB}_fabric_internet" link set router master br0 address 0a:59:c6:33:64:01 alias 'fabric: router' up
ip -n "$NS" address add 172.18.0.1/16 dev eth0
ip -n "$NS" address add 198.51.100.1/24 dev eth1
ip -n "$NS" neighbor add 172.18.0.2 lladdr 0a:58:ac:12:00:02 dev eth0 nud permanent protocol static
# load balancer, for Services of type LoadBalancer
ip -n "$NS" nexthop add id 2 via 172.18.0.2 dev eth0 proto static
ip -n "$NS" nexthop add id 1803157638 group 2 type resilient buckets 128 proto static
ip -n "$NS" nexthop add id 1871737056 group 2 type resilient buckets 128 proto static
ip -n "$NS" route add 192.0.2.50/32 nhid 1803157638 proto static
ip -n "$NS" route add 203.0.113.77/32 nhid 1871737056 proto static

# === external host client =============================================================================================
NS=${LAB}_ext_client
ip netns add "$NS"  # hostname: client
settings "$NS" \
    net.ipv4.ip_forward=0 net.ipv4.conf.all.route_localnet=0
ip -n "$NS" link set lo up
# fabric
ip -n "$NS" link add eth0 address 0a:58:c6:33:64:0a mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name client netns "${LAB}_fabric_internet" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'fabric: client' up
ip -n "${LAB}_fabric_internet" link set client master br0 address 0a:59:c6:33:64:0a alias 'fabric: client' up
ip -n "$NS" address add 198.51.100.10/24 dev eth0
ip -n "$NS" route add default via 198.51.100.1 dev eth0 proto static

# === Node control-plane ===============================================================================================
NS=${LAB}_node_control-plane
ip netns add "$NS"  # hostname: control-plane
settings "$NS" \
    net.ipv4.ip_forward=1 net.ipv4.icmp_ratemask=0 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.all.arp_announce=2 \
    net.ipv4.conf.default.send_redirects=0 net.ipv4.conf.default.arp_announce=2 net.bridge.bridge-nf-call-iptables=1 \
    net.ipv4.conf.all.route_localnet=1
ip -n "$NS" link set lo up
# fabric
ip -n "$NS" link add eth0 address 0a:58:ac:12:00:02 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name control-plane netns "${LAB}_fabric_switch" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'fabric: control-plane' up
ip -n "${LAB}_fabric_switch" link set control-plane master br0 address 0a:59:ac:12:00:02 alias 'fabric: control-plane' up
ip -n "$NS" address add 172.18.0.2/16 dev eth0
ip -n "$NS" neighbor add 172.18.0.1 lladdr 0a:58:ac:12:00:01 dev eth0 nud permanent protocol static
ip -n "$NS" route add default via 172.18.0.1 dev eth0 proto static
# cni bridge
ip -n "$NS" link add cbr0 address 0a:58:0a:f4:00:01 mtu 1500 type bridge mcast_snooping 0
ip -n "$NS" link set cbr0 alias 'cni bridge: pods of control-plane' up
ip -n "$NS" address add 10.244.0.1/24 dev cbr0 scope link noprefixroute
ip -n "$NS" route add 10.244.0.0/24 dev cbr0 scope link src 172.18.0.2 proto static
# cni bridge, for Pod kube-system/coredns-66699bc8fc-cvqf5
ip -n "$NS" neighbor add 10.244.0.2 lladdr 0a:58:0a:f4:00:02 dev cbr0 nud permanent protocol static
# cni bridge, for Pod kube-system/coredns-66699bc8fc-bhvmm
ip -n "$NS" neighbor add 10.244.0.3 lladdr 0a:58:0a:f4:00:03 dev cbr0 nud permanent protocol static
# cni bridge, for Pod default/web-59b86ff799-mrsh6
ip -n "$NS" neighbor add 10.244.0.4 lladdr 0a:58:0a:f4:00:04 dev cbr0 nud permanent protocol static
# cni bridge, for Pod default/web-59b86ff799-qlzzw
ip -n "$NS" neighbor add 10.244.0.5 lladdr 0a:58:0a:f4:00:05 dev cbr0 nud permanent protocol static
# cni bridge, for Pod default/web-59b86ff799-9bhk8
ip -n "$NS" neighbor add 10.244.0.6 lladdr 0a:58:0a:f4:00:06 dev cbr0 nud permanent protocol static
# ip-masq-agent
ip netns exec "$NS" nft -f - <<'EOF'
add table ip ip-masq-agent { comment "masquerade what leaves the cluster" ; }
add chain ip ip-masq-agent IP-MASQ-AGENT
add chain ip ip-masq-agent postrouting { type nat hook postrouting priority 100 ; }
add rule ip ip-masq-agent IP-MASQ-AGENT ip daddr 10.244.0.0/16 return comment "ip-masq-agent: local traffic is not subject to MASQUERADE (pods)"
add rule ip ip-masq-agent IP-MASQ-AGENT ip daddr 172.18.0.0/16 return comment "ip-masq-agent: local traffic is not subject to MASQUERADE (nodes)"
add rule ip ip-masq-agent IP-MASQ-AGENT ip daddr 10.96.0.0/16 return comment "ip-masq-agent: local traffic is not subject to MASQUERADE (Services)"
add rule ip ip-masq-agent IP-MASQ-AGENT masquerade fully-random comment "ip-masq-agent: outbound traffic is subject to MASQUERADE"
add rule ip ip-masq-agent postrouting fib daddr type != local jump IP-MASQ-AGENT comment "ip-masq-agent: ensure nat POSTROUTING directs all non-LOCAL destination traffic to our chain"
EOF
# kube-proxy iptables
ip netns exec "$NS" iptables-restore --noflush <<'EOF'
*mangle
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*nat
:KUBE-EXT-AMYOSWJONJKM52OW - [0:0]
:KUBE-EXT-Q5H337C2KORZZI4N - [0:0]
:KUBE-FW-Q5H337C2KORZZI4N - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SEP-3QBMZPEAAYVYIX4P - [0:0]
:KUBE-SEP-43B5NCLWLCZB5PME - [0:0]
:KUBE-SEP-4HY4DVZLSLFCQS4V - [0:0]
:KUBE-SEP-4MQ44FHO6IXXX2EX - [0:0]
:KUBE-SEP-6E7XQMQ4RAYOWTTM - [0:0]
:KUBE-SEP-6XBP2A5E2P4VMUFV - [0:0]
:KUBE-SEP-7U6MWNJWR3SADOJA - [0:0]
:KUBE-SEP-EYEQ4IB7BFEDX7LT - [0:0]
:KUBE-SEP-F2IKNCGLE5KEU4OD - [0:0]
:KUBE-SEP-FLFUU2KJHGAEP2QV - [0:0]
:KUBE-SEP-GCGTM6P4B7F6BPKM - [0:0]
:KUBE-SEP-HB4ECCJIOWMXNKO3 - [0:0]
:KUBE-SEP-IT2ZTR26TO4XFPTO - [0:0]
:KUBE-SEP-KXZBMOXWE6K3QUCK - [0:0]
:KUBE-SEP-MQPSSF2DIKDEHI3U - [0:0]
:KUBE-SEP-N4G2XR5TDX7PQE7P - [0:0]
:KUBE-SEP-QFSL7KFA4QFJVAT5 - [0:0]
:KUBE-SEP-SYCSERSXFOAZIF4X - [0:0]
:KUBE-SEP-WBD4CCV6JIIBARLY - [0:0]
:KUBE-SEP-YEXIPB5BLXQXQ7VK - [0:0]
:KUBE-SEP-YGKOCZEFRBJZKVMP - [0:0]
:KUBE-SEP-YIL6JZP7A3QYXJU2 - [0:0]
:KUBE-SEP-ZP3FB6NMPNCO4VBJ - [0:0]
:KUBE-SEP-ZXMNUKOKXUTL2MK2 - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-AMYOSWJONJKM52OW - [0:0]
:KUBE-SVC-BJWR5DPVIKTHVKZU - [0:0]
:KUBE-SVC-CDGGSHYLG3RE2FKL - [0:0]
:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]
:KUBE-SVC-JD5MR3NA4I4DYORP - [0:0]
:KUBE-SVC-OORGQSBIFXI7NHIM - [0:0]
:KUBE-SVC-Q5H337C2KORZZI4N - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
:KUBE-SVL-AMYOSWJONJKM52OW - [0:0]
:KUBE-SVL-JP74GBMZCWWFJUWR - [0:0]
-A KUBE-EXT-AMYOSWJONJKM52OW -m comment --comment "pod traffic for default/kept external destinations" -s 10.244.0.0/16 -j KUBE-SVC-AMYOSWJONJKM52OW
-A KUBE-EXT-AMYOSWJONJKM52OW -m comment --comment "masquerade LOCAL traffic for default/kept external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
-A KUBE-EXT-AMYOSWJONJKM52OW -m comment --comment "route LOCAL traffic for default/kept external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-AMYOSWJONJKM52OW
-A KUBE-EXT-AMYOSWJONJKM52OW -j KUBE-SVL-AMYOSWJONJKM52OW
-A KUBE-EXT-Q5H337C2KORZZI4N -m comment --comment "masquerade traffic for default/fenced external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-Q5H337C2KORZZI4N -j KUBE-SVC-Q5H337C2KORZZI4N
-A KUBE-FW-Q5H337C2KORZZI4N -m comment --comment "default/fenced loadbalancer IP" -s 198.51.100.0/24 -j KUBE-EXT-Q5H337C2KORZZI4N
-A KUBE-FW-Q5H337C2KORZZI4N -m comment --comment "other traffic to default/fenced will be dropped by KUBE-PROXY-FIREWALL"
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-NODEPORTS -m comment --comment "default/fenced" -m tcp -p tcp --dport 30081 -j KUBE-EXT-Q5H337C2KORZZI4N
-A KUBE-NODEPORTS -m comment --comment "default/kept" -m tcp -p tcp --dport 30080 -j KUBE-EXT-AMYOSWJONJKM52OW
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SEP-3QBMZPEAAYVYIX4P -m comment --comment "default/kept" -s 10.244.0.5 -j KUBE-MARK-MASQ
-A KUBE-SEP-3QBMZPEAAYVYIX4P -m comment --comment "default/kept" -m tcp -p tcp -j DNAT --to-destination 10.244.0.5:8080
-A KUBE-SEP-43B5NCLWLCZB5PME -m comment --comment "default/fenced" -s 10.244.0.6 -j KUBE-MARK-MASQ
-A KUBE-SEP-43B5NCLWLCZB5PME -m comment --comment "default/fenced" -m tcp -p tcp -j DNAT --to-destination 10.244.0.6:8080
-A KUBE-SEP-4HY4DVZLSLFCQS4V -m comment --comment "default/sticky" -s 10.244.0.4 -j KUBE-MARK-MASQ
-A KUBE-SEP-4HY4DVZLSLFCQS4V -m comment --comment "default/sticky" -m recent --name KUBE-SEP-4HY4DVZLSLFCQS4V --set -m tcp -p tcp -j DNAT --to-destination 10.244.0.4:8080
-A KUBE-SEP-4MQ44FHO6IXXX2EX -m comment --comment "default/web:udp" -s 10.244.0.6 -j KUBE-MARK-MASQ
-A KUBE-SEP-4MQ44FHO6IXXX2EX -m comment --comment "default/web:udp" -m udp -p udp -j DNAT --to-destination 10.244.0.6:8081
-A KUBE-SEP-6E7XQMQ4RAYOWTTM -m comment --comment "kube-system/kube-dns:dns" -s 10.244.0.3 -j KUBE-MARK-MASQ
-A KUBE-SEP-6E7XQMQ4RAYOWTTM -m comment --comment "kube-system/kube-dns:dns" -m udp -p udp -j DNAT --to-destination 10.244.0.3:53
-A KUBE-SEP-6XBP2A5E2P4VMUFV -m comment --comment "default/near" -s 10.244.0.5 -j KUBE-MARK-MASQ
-A KUBE-SEP-6XBP2A5E2P4VMUFV -m comment --comment "default/near" -m tcp -p tcp -j DNAT --to-destination 10.244.0.5:8080
-A KUBE-SEP-7U6MWNJWR3SADOJA -m comment --comment "default/web:http" -s 10.244.0.5 -j KUBE-MARK-MASQ
-A KUBE-SEP-7U6MWNJWR3SADOJA -m comment --comment "default/web:http" -m tcp -p tcp -j DNAT --to-destination 10.244.0.5:8080
-A KUBE-SEP-EYEQ4IB7BFEDX7LT -m comment --comment "default/sticky" -s 10.244.0.5 -j KUBE-MARK-MASQ
-A KUBE-SEP-EYEQ4IB7BFEDX7LT -m comment --comment "default/sticky" -m recent --name KUBE-SEP-EYEQ4IB7BFEDX7LT --set -m tcp -p tcp -j DNAT --to-destination 10.244.0.5:8080
-A KUBE-SEP-F2IKNCGLE5KEU4OD -m comment --comment "default/kept" -s 10.244.0.4 -j KUBE-MARK-MASQ
-A KUBE-SEP-F2IKNCGLE5KEU4OD -m comment --comment "default/kept" -m tcp -p tcp -j DNAT --to-destination 10.244.0.4:8080
-A KUBE-SEP-FLFUU2KJHGAEP2QV -m comment --comment "default/near" -s 10.244.0.4 -j KUBE-MARK-MASQ
-A KUBE-SEP-FLFUU2KJHGAEP2QV -m comment --comment "default/near" -m tcp -p tcp -j DNAT --to-destination 10.244.0.4:8080
-A KUBE-SEP-GCGTM6P4B7F6BPKM -m comment --comment "default/fenced" -s 10.244.0.5 -j KUBE-MARK-MASQ
-A KUBE-SEP-GCGTM6P4B7F6BPKM -m comment --comment "default/fenced" -m tcp -p tcp -j DNAT --to-destination 10.244.0.5:8080
-A KUBE-SEP-HB4ECCJIOWMXNKO3 -m comment --comment "default/web:udp" -s 10.244.0.4 -j KUBE-MARK-MASQ
-A KUBE-SEP-HB4ECCJIOWMXNKO3 -m comment --comment "default/web:udp" -m udp -p udp -j DNAT --to-destination 10.244.0.4:8081
-A KUBE-SEP-IT2ZTR26TO4XFPTO -m comment --comment "kube-system/kube-dns:dns-tcp" -s 10.244.0.2 -j KUBE-MARK-MASQ
-A KUBE-SEP-IT2ZTR26TO4XFPTO -m comment --comment "kube-system/kube-dns:dns-tcp" -m tcp -p tcp -j DNAT --to-destination 10.244.0.2:53
-A KUBE-SEP-KXZBMOXWE6K3QUCK -m comment --comment "default/web:udp" -s 10.244.0.5 -j KUBE-MARK-MASQ
-A KUBE-SEP-KXZBMOXWE6K3QUCK -m comment --comment "default/web:udp" -m udp -p udp -j DNAT --to-destination 10.244.0.5:8081
-A KUBE-SEP-MQPSSF2DIKDEHI3U -m comment --comment "default/web:http" -s 10.244.0.4 -j KUBE-MARK-MASQ
-A KUBE-SEP-MQPSSF2DIKDEHI3U -m comment --comment "default/web:http" -m tcp -p tcp -j DNAT --to-destination 10.244.0.4:8080
-A KUBE-SEP-N4G2XR5TDX7PQE7P -m comment --comment "kube-system/kube-dns:metrics" -s 10.244.0.2 -j KUBE-MARK-MASQ
-A KUBE-SEP-N4G2XR5TDX7PQE7P -m comment --comment "kube-system/kube-dns:metrics" -m tcp -p tcp -j DNAT --to-destination 10.244.0.2:9153
-A KUBE-SEP-QFSL7KFA4QFJVAT5 -m comment --comment "default/near" -s 10.244.0.6 -j KUBE-MARK-MASQ
-A KUBE-SEP-QFSL7KFA4QFJVAT5 -m comment --comment "default/near" -m tcp -p tcp -j DNAT --to-destination 10.244.0.6:8080
-A KUBE-SEP-SYCSERSXFOAZIF4X -m comment --comment "default/fenced" -s 10.244.0.4 -j KUBE-MARK-MASQ
-A KUBE-SEP-SYCSERSXFOAZIF4X -m comment --comment "default/fenced" -m tcp -p tcp -j DNAT --to-destination 10.244.0.4:8080
-A KUBE-SEP-WBD4CCV6JIIBARLY -m comment --comment "default/web:http" -s 10.244.0.6 -j KUBE-MARK-MASQ
-A KUBE-SEP-WBD4CCV6JIIBARLY -m comment --comment "default/web:http" -m tcp -p tcp -j DNAT --to-destination 10.244.0.6:8080
-A KUBE-SEP-YEXIPB5BLXQXQ7VK -m comment --comment "default/kept" -s 10.244.0.6 -j KUBE-MARK-MASQ
-A KUBE-SEP-YEXIPB5BLXQXQ7VK -m comment --comment "default/kept" -m tcp -p tcp -j DNAT --to-destination 10.244.0.6:8080
-A KUBE-SEP-YGKOCZEFRBJZKVMP -m comment --comment "default/sticky" -s 10.244.0.6 -j KUBE-MARK-MASQ
-A KUBE-SEP-YGKOCZEFRBJZKVMP -m comment --comment "default/sticky" -m recent --name KUBE-SEP-YGKOCZEFRBJZKVMP --set -m tcp -p tcp -j DNAT --to-destination 10.244.0.6:8080
-A KUBE-SEP-YIL6JZP7A3QYXJU2 -m comment --comment "kube-system/kube-dns:dns" -s 10.244.0.2 -j KUBE-MARK-MASQ
-A KUBE-SEP-YIL6JZP7A3QYXJU2 -m comment --comment "kube-system/kube-dns:dns" -m udp -p udp -j DNAT --to-destination 10.244.0.2:53
-A KUBE-SEP-ZP3FB6NMPNCO4VBJ -m comment --comment "kube-system/kube-dns:metrics" -s 10.244.0.3 -j KUBE-MARK-MASQ
-A KUBE-SEP-ZP3FB6NMPNCO4VBJ -m comment --comment "kube-system/kube-dns:metrics" -m tcp -p tcp -j DNAT --to-destination 10.244.0.3:9153
-A KUBE-SEP-ZXMNUKOKXUTL2MK2 -m comment --comment "kube-system/kube-dns:dns-tcp" -s 10.244.0.3 -j KUBE-MARK-MASQ
-A KUBE-SEP-ZXMNUKOKXUTL2MK2 -m comment --comment "kube-system/kube-dns:dns-tcp" -m tcp -p tcp -j DNAT --to-destination 10.244.0.3:53
-A KUBE-SERVICES -m comment --comment "default/fenced cluster IP" -m tcp -p tcp -d 10.96.230.180 --dport 80 -j KUBE-SVC-Q5H337C2KORZZI4N
-A KUBE-SERVICES -m comment --comment "default/fenced loadbalancer IP" -m tcp -p tcp -d 203.0.113.77 --dport 80 -j KUBE-FW-Q5H337C2KORZZI4N
-A KUBE-SERVICES -m comment --comment "default/kept cluster IP" -m tcp -p tcp -d 10.96.159.188 --dport 80 -j KUBE-SVC-AMYOSWJONJKM52OW
-A KUBE-SERVICES -m comment --comment "default/kept external IP" -m tcp -p tcp -d 192.0.2.50 --dport 80 -j KUBE-EXT-AMYOSWJONJKM52OW
-A KUBE-SERVICES -m comment --comment "default/near cluster IP" -m tcp -p tcp -d 10.96.34.120 --dport 80 -j KUBE-SVL-JP74GBMZCWWFJUWR
-A KUBE-SERVICES -m comment --comment "default/sticky cluster IP" -m tcp -p tcp -d 10.96.244.102 --dport 80 -j KUBE-SVC-BJWR5DPVIKTHVKZU
-A KUBE-SERVICES -m comment --comment "default/web:http cluster IP" -m tcp -p tcp -d 10.96.54.115 --dport 80 -j KUBE-SVC-CDGGSHYLG3RE2FKL
-A KUBE-SERVICES -m comment --comment "default/web:udp cluster IP" -m udp -p udp -d 10.96.54.115 --dport 81 -j KUBE-SVC-OORGQSBIFXI7NHIM
-A KUBE-SERVICES -m comment --comment "kube-system/kube-dns:dns cluster IP" -m udp -p udp -d 10.96.0.10 --dport 53 -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SERVICES -m comment --comment "kube-system/kube-dns:dns-tcp cluster IP" -m tcp -p tcp -d 10.96.0.10 --dport 53 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SERVICES -m comment --comment "kube-system/kube-dns:metrics cluster IP" -m tcp -p tcp -d 10.96.0.10 --dport 9153 -j KUBE-SVC-JD5MR3NA4I4DYORP
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-AMYOSWJONJKM52OW -m comment --comment "default/kept cluster IP" -m tcp -p tcp -d 10.96.159.188 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-AMYOSWJONJKM52OW -m comment --comment "default/kept -> 10.244.0.4:8080" -m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-F2IKNCGLE5KEU4OD
-A KUBE-SVC-AMYOSWJONJKM52OW -m comment --comment "default/kept -> 10.244.0.5:8080" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-3QBMZPEAAYVYIX4P
-A KUBE-SVC-AMYOSWJONJKM52OW -m comment --comment "default/kept -> 10.244.0.6:8080" -j KUBE-SEP-YEXIPB5BLXQXQ7VK
-A KUBE-SVC-BJWR5DPVIKTHVKZU -m comment --comment "default/sticky cluster IP" -m tcp -p tcp -d 10.96.244.102 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-BJWR5DPVIKTHVKZU -m comment --comment "default/sticky -> 10.244.0.4:8080" -m recent --name KUBE-SEP-4HY4DVZLSLFCQS4V --rcheck --seconds 10800 --reap -j KUBE-SEP-4HY4DVZLSLFCQS4V
-A KUBE-SVC-BJWR5DPVIKTHVKZU -m comment --comment "default/sticky -> 10.244.0.5:8080" -m recent --name KUBE-SEP-EYEQ4IB7BFEDX7LT --rcheck --seconds 10800 --reap -j KUBE-SEP-EYEQ4IB7BFEDX7LT
-A KUBE-SVC-BJWR5DPVIKTHVKZU -m comment --comment "default/sticky -> 10.244.0.6:8080" -m recent --name KUBE-SEP-YGKOCZEFRBJZKVMP --rcheck --seconds 10800 --reap -j KUBE-SEP-YGKOCZEFRBJZKVMP
-A KUBE-SVC-BJWR5DPVIKTHVKZU -m comment --comment "default/sticky -> 10.244.0.4:8080" -m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-4HY4DVZLSLFCQS4V
-A KUBE-SVC-BJWR5DPVIKTHVKZU -m comment --comment "default/sticky -> 10.244.0.5:8080" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-EYEQ4IB7BFEDX7LT
-A KUBE-SVC-BJWR5DPVIKTHVKZU -m comment --comment "default/sticky -> 10.244.0.6:8080" -j KUBE-SEP-YGKOCZEFRBJZKVMP
-A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment "default/web:http cluster IP" -m tcp -p tcp -d 10.96.54.115 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment "default/web:http -> 10.244.0.4:8080" -m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-MQPSSF2DIKDEHI3U
-A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment "default/web:http -> 10.244.0.5:8080" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-7U6MWNJWR3SADOJA
-A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment "default/web:http -> 10.244.0.6:8080" -j KUBE-SEP-WBD4CCV6JIIBARLY
-A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "kube-system/kube-dns:dns-tcp cluster IP" -m tcp -p tcp -d 10.96.0.10 --dport 53 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "kube-system/kube-dns:dns-tcp -> 10.244.0.2:53" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-IT2ZTR26TO4XFPTO
-A KUBE-SVC-ERIFXISQEP7F7OF4 -m comment --comment "kube-system/kube-dns:dns-tcp -> 10.244.0.3:53" -j KUBE-SEP-ZXMNUKOKXUTL2MK2
-A KUBE-SVC-JD5MR3NA4I4DYORP -m comment --comment "kube-system/kube-dns:metrics cluster IP" -m tcp -p tcp -d 10.96.0.10 --dport 9153 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-JD5MR3NA4I4DYORP -m comment --comment "kube-system/kube-dns:metrics -> 10.244.0.2:9153" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-N4G2XR5TDX7PQE7P
-A KUBE-SVC-JD5MR3NA4I4DYORP -m comment --comment "kube-system/kube-dns:metrics -> 10.244.0.3:9153" -j KUBE-SEP-ZP3FB6NMPNCO4VBJ
-A KUBE-SVC-OORGQSBIFXI7NHIM -m comment --comment "default/web:udp cluster IP" -m udp -p udp -d 10.96.54.115 --dport 81 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-OORGQSBIFXI7NHIM -m comment --comment "default/web:udp -> 10.244.0.4:8081" -m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-HB4ECCJIOWMXNKO3
-A KUBE-SVC-OORGQSBIFXI7NHIM -m comment --comment "default/web:udp -> 10.244.0.5:8081" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-KXZBMOXWE6K3QUCK
-A KUBE-SVC-OORGQSBIFXI7NHIM -m comment --comment "default/web:udp -> 10.244.0.6:8081" -j KUBE-SEP-4MQ44FHO6IXXX2EX
-A KUBE-SVC-Q5H337C2KORZZI4N -m comment --comment "default/fenced cluster IP" -m tcp -p tcp -d 10.96.230.180 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-Q5H337C2KORZZI4N -m comment --comment "default/fenced -> 10.244.0.4:8080" -m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-SYCSERSXFOAZIF4X
-A KUBE-SVC-Q5H337C2KORZZI4N -m comment --comment "default/fenced -> 10.244.0.5:8080" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-GCGTM6P4B7F6BPKM
-A KUBE-SVC-Q5H337C2KORZZI4N -m comment --comment "default/fenced -> 10.244.0.6:8080" -j KUBE-SEP-43B5NCLWLCZB5PME
-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment "kube-system/kube-dns:dns cluster IP" -m udp -p udp -d 10.96.0.10 --dport 53 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment "kube-system/kube-dns:dns -> 10.244.0.2:53" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-YIL6JZP7A3QYXJU2
-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment "kube-system/kube-dns:dns -> 10.244.0.3:53" -j KUBE-SEP-6E7XQMQ4RAYOWTTM
-A KUBE-SVL-AMYOSWJONJKM52OW -m comment --comment "default/kept -> 10.244.0.4:8080" -m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-F2IKNCGLE5KEU4OD
-A KUBE-SVL-AMYOSWJONJKM52OW -m comment --comment "default/kept -> 10.244.0.5:8080" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-3QBMZPEAAYVYIX4P
-A KUBE-SVL-AMYOSWJONJKM52OW -m comment --comment "default/kept -> 10.244.0.6:8080" -j KUBE-SEP-YEXIPB5BLXQXQ7VK
-A KUBE-SVL-JP74GBMZCWWFJUWR -m comment --comment "default/near cluster IP" -m tcp -p tcp -d 10.96.34.120 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVL-JP74GBMZCWWFJUWR -m comment --comment "default/near -> 10.244.0.4:8080" -m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-FLFUU2KJHGAEP2QV
-A KUBE-SVL-JP74GBMZCWWFJUWR -m comment --comment "default/near -> 10.244.0.5:8080" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-6XBP2A5E2P4VMUFV
-A KUBE-SVL-JP74GBMZCWWFJUWR -m comment --comment "default/near -> 10.244.0.6:8080" -j KUBE-SEP-QFSL7KFA4QFJVAT5
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A KUBE-EXTERNAL-SERVICES -m comment --comment "default/nobody has no endpoints" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 30077 -j REJECT
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-PROXY-FIREWALL -m comment --comment "default/fenced traffic not accepted by KUBE-FW-Q5H337C2KORZZI4N" -m tcp -p tcp -d 203.0.113.77 --dport 80 -j DROP
-A KUBE-SERVICES -m comment --comment "default/kubernetes:https has no endpoints" -m tcp -p tcp -d 10.96.0.1 --dport 443 -j REJECT
-A KUBE-SERVICES -m comment --comment "default/nobody has no endpoints" -m tcp -p tcp -d 10.96.0.77 --dport 80 -j REJECT
-I OUTPUT -j KUBE-FIREWALL
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I INPUT -j KUBE-FIREWALL
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-I INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
COMMIT
EOF

# === Pod kube-system/coredns-66699bc8fc-cvqf5 =========================================================================
NS=${LAB}_pod_kube-system_coredns-66699bc8fc-cvqf5
ip netns add "$NS"  # hostname: coredns-66699bc8fc-cvqf5
settings "$NS" \
    net.ipv4.ip_forward=0 net.ipv4.conf.all.route_localnet=0
ip -n "$NS" link set lo up
# cni bridge
ip -n "$NS" link add eth0 address 0a:58:0a:f4:00:02 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name veth0 netns "${LAB}_node_control-plane" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'cni bridge: pod kube-system/coredns-66699bc8fc-cvqf5' up
ip -n "${LAB}_node_control-plane" link set veth0 master cbr0 address 0a:59:0a:f4:00:02 alias 'cni bridge: pod kube-system/coredns-66699bc8fc-cvqf5' up
bridge -n "${LAB}_node_control-plane" link set dev veth0 hairpin on
ip -n "$NS" address add 10.244.0.2/24 dev eth0
ip -n "$NS" neighbor add 10.244.0.1 lladdr 0a:58:0a:f4:00:01 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.3 lladdr 0a:58:0a:f4:00:03 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.4 lladdr 0a:58:0a:f4:00:04 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.5 lladdr 0a:58:0a:f4:00:05 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.6 lladdr 0a:58:0a:f4:00:06 dev eth0 nud permanent protocol static
ip -n "$NS" route add default via 10.244.0.1 dev eth0 proto static
# not run here: program coredns for container coredns, listening on 53/udp, 53/tcp, 8080/tcp, 8181/tcp, 9153/tcp

# === Pod kube-system/coredns-66699bc8fc-bhvmm =========================================================================
NS=${LAB}_pod_kube-system_coredns-66699bc8fc-bhvmm
ip netns add "$NS"  # hostname: coredns-66699bc8fc-bhvmm
settings "$NS" \
    net.ipv4.ip_forward=0 net.ipv4.conf.all.route_localnet=0
ip -n "$NS" link set lo up
# cni bridge
ip -n "$NS" link add eth0 address 0a:58:0a:f4:00:03 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name veth1 netns "${LAB}_node_control-plane" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'cni bridge: pod kube-system/coredns-66699bc8fc-bhvmm' up
ip -n "${LAB}_node_control-plane" link set veth1 master cbr0 address 0a:59:0a:f4:00:03 alias 'cni bridge: pod kube-system/coredns-66699bc8fc-bhvmm' up
bridge -n "${LAB}_node_control-plane" link set dev veth1 hairpin on
ip -n "$NS" address add 10.244.0.3/24 dev eth0
ip -n "$NS" neighbor add 10.244.0.1 lladdr 0a:58:0a:f4:00:01 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.2 lladdr 0a:58:0a:f4:00:02 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.4 lladdr 0a:58:0a:f4:00:04 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.5 lladdr 0a:58:0a:f4:00:05 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.6 lladdr 0a:58:0a:f4:00:06 dev eth0 nud permanent protocol static
ip -n "$NS" route add default via 10.244.0.1 dev eth0 proto static
# not run here: program coredns for container coredns, listening on 53/udp, 53/tcp, 8080/tcp, 8181/tcp, 9153/tcp

# === Pod default/web-59b86ff799-mrsh6 =================================================================================
NS=${LAB}_pod_default_web-59b86ff799-mrsh6
ip netns add "$NS"  # hostname: web-59b86ff799-mrsh6
settings "$NS" \
    net.ipv4.ip_forward=0 net.ipv4.conf.all.route_localnet=0
ip -n "$NS" link set lo up
# cni bridge
ip -n "$NS" link add eth0 address 0a:58:0a:f4:00:04 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name veth2 netns "${LAB}_node_control-plane" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'cni bridge: pod default/web-59b86ff799-mrsh6' up
ip -n "${LAB}_node_control-plane" link set veth2 master cbr0 address 0a:59:0a:f4:00:04 alias 'cni bridge: pod default/web-59b86ff799-mrsh6' up
bridge -n "${LAB}_node_control-plane" link set dev veth2 hairpin on
ip -n "$NS" address add 10.244.0.4/24 dev eth0
ip -n "$NS" neighbor add 10.244.0.1 lladdr 0a:58:0a:f4:00:01 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.2 lladdr 0a:58:0a:f4:00:02 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.3 lladdr 0a:58:0a:f4:00:03 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.5 lladdr 0a:58:0a:f4:00:05 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.6 lladdr 0a:58:0a:f4:00:06 dev eth0 nud permanent protocol static
ip -n "$NS" route add default via 10.244.0.1 dev eth0 proto static
# not run here: program netexec for container web, listening on 8080/tcp, 8081/udp

# === Pod default/web-59b86ff799-qlzzw =================================================================================
NS=${LAB}_pod_default_web-59b86ff799-qlzzw
ip netns add "$NS"  # hostname: web-59b86ff799-qlzzw
settings "$NS" \
    net.ipv4.ip_forward=0 net.ipv4.conf.all.route_localnet=0
ip -n "$NS" link set lo up
# cni bridge
ip -n "$NS" link add eth0 address 0a:58:0a:f4:00:05 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name veth3 netns "${LAB}_node_control-plane" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'cni bridge: pod default/web-59b86ff799-qlzzw' up
ip -n "${LAB}_node_control-plane" link set veth3 master cbr0 address 0a:59:0a:f4:00:05 alias 'cni bridge: pod default/web-59b86ff799-qlzzw' up
bridge -n "${LAB}_node_control-plane" link set dev veth3 hairpin on
ip -n "$NS" address add 10.244.0.5/24 dev eth0
ip -n "$NS" neighbor add 10.244.0.1 lladdr 0a:58:0a:f4:00:01 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.2 lladdr 0a:58:0a:f4:00:02 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.3 lladdr 0a:58:0a:f4:00:03 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.4 lladdr 0a:58:0a:f4:00:04 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.6 lladdr 0a:58:0a:f4:00:06 dev eth0 nud permanent protocol static
ip -n "$NS" route add default via 10.244.0.1 dev eth0 proto static
# not run here: program netexec for container web, listening on 8080/tcp, 8081/udp

# === Pod default/web-59b86ff799-9bhk8 =================================================================================
NS=${LAB}_pod_default_web-59b86ff799-9bhk8
ip netns add "$NS"  # hostname: web-59b86ff799-9bhk8
settings "$NS" \
    net.ipv4.ip_forward=0 net.ipv4.conf.all.route_localnet=0
ip -n "$NS" link set lo up
# cni bridge
ip -n "$NS" link add eth0 address 0a:58:0a:f4:00:06 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name veth4 netns "${LAB}_node_control-plane" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'cni bridge: pod default/web-59b86ff799-9bhk8' up
ip -n "${LAB}_node_control-plane" link set veth4 master cbr0 address 0a:59:0a:f4:00:06 alias 'cni bridge: pod default/web-59b86ff799-9bhk8' up
bridge -n "${LAB}_node_control-plane" link set dev veth4 hairpin on
ip -n "$NS" address add 10.244.0.6/24 dev eth0
ip -n "$NS" neighbor add 10.244.0.1 lladdr 0a:58:0a:f4:00:01 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.2 lladdr 0a:58:0a:f4:00:02 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.3 lladdr 0a:58:0a:f4:00:03 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.4 lladdr 0a:58:0a:f4:00:04 dev eth0 nud permanent protocol static
ip -n "$NS" neighbor add 10.244.0.5 lladdr 0a:58:0a:f4:00:05 dev eth0 nud permanent protocol static
ip -n "$NS" route add default via 10.244.0.1 dev eth0 proto static
# not run here: program netexec for container web, listening on 8080/tcp, 8081/udp

# === Pod kube-system/kube-proxy-zzqvk =================================================================================
# hostNetwork: shares the network namespace ${LAB}_node_control-plane
# not run here: program kube_proxy for container kube-proxy, listening on 10256/tcp, 127.0.0.1:10249/tcp

cat <<EOF
lab $LAB is up. To remove it: sh $0 down. Try:
  ip netns exec ${LAB}_pod_default_web-59b86ff799-9bhk8 ping -c 3 10.244.0.2
  ip netns exec ${LAB}_pod_default_web-59b86ff799-9bhk8 ip neighbor
  ip netns exec ${LAB}_node_control-plane nft list ruleset
EOF
