#!/bin/sh
# The lab ipvs as shell commands, equivalent to the netlink messages that `kubenetlab up` sends.
#
#   sh lab.sh          creates the lab, as root; stops at the first command that fails
#   sh lab.sh down     removes the lab, also after a failure
#
# Required packages: iproute2, nftables and procps. The script works only in network namespaces that
# it creates, and changes nothing in the machine's own network. Namespace names begin with the name
# of the lab. To run it while kubenetlab's own lab ipvs is up, choose another: LAB=other sh lab.sh
#
# Services have the pods that are ready as endpoints; if the lab was not up when this script was
# written, these are all their pods. The script sets no hostnames, because they belong to UTS
# namespaces, and runs no programs: comments say which program would listen on which ports.
# A comment before commands, such as `# fabric`, names the component of the cluster they belong to.
#
# Namespaces in order of creation, with their addresses:
#
#   ipvs_fabric_switch                              the wire between the nodes
#   ipvs_fabric_internet                            the internet
#   ipvs_fabric_router                              the router                                 172.18.0.1, 198.51.100.1
#   ipvs_ext_client                                 external host client                       198.51.100.10
#   ipvs_node_control-plane                         Node control-plane                         172.18.0.2, 10.244.0.1, 10.96.0.1, 10.96.0.10, 10.96.54.115, 10.96.244.102, 10.96.34.120, 10.96.0.77, 10.96.159.188, 192.0.2.50, 10.96.230.180, 203.0.113.77
#   ipvs_pod_kube-system_coredns-66699bc8fc-cvqf5   Pod kube-system/coredns-66699bc8fc-cvqf5   10.244.0.2
#   ipvs_pod_kube-system_coredns-66699bc8fc-bhvmm   Pod kube-system/coredns-66699bc8fc-bhvmm   10.244.0.3
#   ipvs_pod_default_web-59b86ff799-mrsh6           Pod default/web-59b86ff799-mrsh6           10.244.0.4
#   ipvs_pod_default_web-59b86ff799-qlzzw           Pod default/web-59b86ff799-qlzzw           10.244.0.5
#   ipvs_pod_default_web-59b86ff799-9bhk8           Pod default/web-59b86ff799-9bhk8           10.244.0.6
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
LAB=${LAB:-ipvs}

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
        net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.default.arp_ignore=0 \
        net.ipv4.conf.all.accept_local=0 net.ipv4.conf.default.accept_local=0 net.ipv4.conf.all.proxy_arp=0 \
        net.ipv4.conf.default.proxy_arp=0 net.ipv4.conf.all.route_localnet=0 net.ipv4.conf.default.route_localnet=0 \
        net.ipv4.ip_default_ttl=64 'net.ipv4.ping_group_range=0 0'
    ip netns exec "$netns" sysctl -qew net.ipv6.conf.all.disable_ipv6=1
}

# === the wire between the nodes =======================================================================================
NS=${LAB}_fabric_switch
ip netns add "$NS"  # hostname: switch
settings "$NS" \
    net.ipv4.ip_forward=0 net.ipv4.conf.all.arp_ignore=0
ip -n "$NS" link set lo up
# fabric
ip -n "$NS" link add br0 address 0a:58:00:00:00:01 mtu 1500 type bridge mcast_snooping 0
ip -n "$NS" link set br0 alias 'fabric: switch' up

# === the internet =====================================================================================================
NS=${LAB}_fabric_internet
ip netns add "$NS"  # hostname: internet
settings "$NS" \
    net.ipv4.ip_forward=0 net.ipv4.conf.all.arp_ignore=0
ip -n "$NS" link set lo up
# fabric
ip -n "$NS" link add br0 address 0a:58:00:00:00:02 mtu 1500 type bridge mcast_snooping 0
ip -n "$NS" link set br0 alias 'fabric: internet' up

# === the router =======================================================================================================
NS=${LAB}_fabric_router
ip netns add "$NS"  # hostname: router
settings "$NS" \
    net.ipv4.ip_forward=1 net.ipv4.conf.all.arp_ignore=0 net.ipv4.icmp_ratemask=0 net.ipv4.conf.all.send_redirects=0 \
    net.ipv4.conf.all.arp_announce=2 net.ipv4.conf.default.send_redirects=0 net.ipv4.conf.default.arp_announce=2 \
    net.ipv4.fib_multipath_hash_policy=1
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
    net.ipv4.ip_forward=0 net.ipv4.conf.all.arp_ignore=0
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
    net.ipv4.vs.conntrack=1 net.ipv4.vs.expire_nodest_conn=1 net.ipv4.vs.expire_quiescent_template=1 \
    net.ipv4.conf.all.arp_ignore=1
ip -n "$NS" link set lo up
# fabric
ip -n "$NS" link add eth0 address 0a:58:ac:12:00:02 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name control-plane netns "${LAB}_fabric_switch" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'fabric: control-plane' up
ip -n "${LAB}_fabric_switch" link set control-plane master br0 address 0a:59:ac:12:00:02 alias 'fabric: control-plane' up
ip -n "$NS" address add 172.18.0.2/16 dev eth0
ip -n "$NS" neighbor add 172.18.0.1 lladdr 0a:58:ac:12:00:01 dev eth0 nud permanent protocol static
ip -n "$NS" route add default via 172.18.0.1 dev eth0 proto static
# kube-proxy ipvs
ip -n "$NS" link add kube-ipvs0 address 0a:58:ac:12:00:02 type dummy
ip -n "$NS" link set kube-ipvs0 alias 'kube-proxy ipvs: the addresses of Services'
ip -n "$NS" address add 10.96.0.1/32 dev kube-ipvs0 scope link
ip -n "$NS" address add 10.96.0.10/32 dev kube-ipvs0 scope link
ip -n "$NS" address add 10.96.54.115/32 dev kube-ipvs0 scope link
ip -n "$NS" address add 10.96.244.102/32 dev kube-ipvs0 scope link
ip -n "$NS" address add 10.96.34.120/32 dev kube-ipvs0 scope link
ip -n "$NS" address add 10.96.0.77/32 dev kube-ipvs0 scope link
ip -n "$NS" address add 10.96.159.188/32 dev kube-ipvs0 scope link
ip -n "$NS" address add 192.0.2.50/32 dev kube-ipvs0 scope link
ip -n "$NS" address add 10.96.230.180/32 dev kube-ipvs0 scope link
ip -n "$NS" address add 203.0.113.77/32 dev kube-ipvs0 scope link
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
# kube-proxy ipvs
ip netns exec "$NS" ipset restore <<'EOF'
create KUBE-LOOP-BACK hash:ip,port,ip family inet
create KUBE-CLUSTER-IP hash:ip,port family inet
create KUBE-EXTERNAL-IP hash:ip,port family inet
create KUBE-EXTERNAL-IP-LOCAL hash:ip,port family inet
create KUBE-LOAD-BALANCER hash:ip,port family inet
create KUBE-LOAD-BALANCER-FW hash:ip,port family inet
create KUBE-LOAD-BALANCER-LOCAL hash:ip,port family inet
create KUBE-LOAD-BALANCER-SOURCE-IP hash:ip,port,ip family inet
create KUBE-LOAD-BALANCER-SOURCE-CIDR hash:ip,port,net family inet
create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
create KUBE-NODE-PORT-LOCAL-TCP bitmap:port range 0-65535
create KUBE-NODE-PORT-UDP bitmap:port range 0-65535
create KUBE-NODE-PORT-LOCAL-UDP bitmap:port range 0-65535
create KUBE-NODE-PORT-SCTP-HASH hash:ip,port family inet
create KUBE-NODE-PORT-LOCAL-SCTP-HASH hash:ip,port family inet
create KUBE-HEALTH-CHECK-NODE-PORT bitmap:port range 0-65535
create KUBE-IPVS-IPS hash:ip family inet
add -exist KUBE-CLUSTER-IP 10.96.0.1,tcp:443
add -exist KUBE-IPVS-IPS 10.96.0.1
add -exist KUBE-LOOP-BACK 10.244.0.2,udp:53,10.244.0.2
add -exist KUBE-LOOP-BACK 10.244.0.3,udp:53,10.244.0.3
add -exist KUBE-CLUSTER-IP 10.96.0.10,udp:53
add -exist KUBE-LOOP-BACK 10.244.0.2,tcp:53,10.244.0.2
add -exist KUBE-LOOP-BACK 10.244.0.3,tcp:53,10.244.0.3
add -exist KUBE-CLUSTER-IP 10.96.0.10,tcp:53
add -exist KUBE-LOOP-BACK 10.244.0.2,tcp:9153,10.244.0.2
add -exist KUBE-LOOP-BACK 10.244.0.3,tcp:9153,10.244.0.3
add -exist KUBE-CLUSTER-IP 10.96.0.10,tcp:9153
add -exist KUBE-IPVS-IPS 10.96.0.10
add -exist KUBE-LOOP-BACK 10.244.0.4,tcp:8080,10.244.0.4
add -exist KUBE-LOOP-BACK 10.244.0.5,tcp:8080,10.244.0.5
add -exist KUBE-LOOP-BACK 10.244.0.6,tcp:8080,10.244.0.6
add -exist KUBE-CLUSTER-IP 10.96.54.115,tcp:80
add -exist KUBE-LOOP-BACK 10.244.0.4,udp:8081,10.244.0.4
add -exist KUBE-LOOP-BACK 10.244.0.5,udp:8081,10.244.0.5
add -exist KUBE-LOOP-BACK 10.244.0.6,udp:8081,10.244.0.6
add -exist KUBE-CLUSTER-IP 10.96.54.115,udp:81
add -exist KUBE-IPVS-IPS 10.96.54.115
add -exist KUBE-CLUSTER-IP 10.96.244.102,tcp:80
add -exist KUBE-IPVS-IPS 10.96.244.102
add -exist KUBE-CLUSTER-IP 10.96.34.120,tcp:80
add -exist KUBE-IPVS-IPS 10.96.34.120
add -exist KUBE-CLUSTER-IP 10.96.0.77,tcp:80
add -exist KUBE-NODE-PORT-TCP 30077
add -exist KUBE-IPVS-IPS 10.96.0.77
add -exist KUBE-CLUSTER-IP 10.96.159.188,tcp:80
add -exist KUBE-EXTERNAL-IP-LOCAL 192.0.2.50,tcp:80
add -exist KUBE-NODE-PORT-TCP 30080
add -exist KUBE-NODE-PORT-LOCAL-TCP 30080
add -exist KUBE-IPVS-IPS 10.96.159.188
add -exist KUBE-IPVS-IPS 192.0.2.50
add -exist KUBE-CLUSTER-IP 10.96.230.180,tcp:80
add -exist KUBE-LOAD-BALANCER 203.0.113.77,tcp:80
add -exist KUBE-NODE-PORT-TCP 30081
add -exist KUBE-LOAD-BALANCER-FW 203.0.113.77,tcp:80
add -exist KUBE-LOAD-BALANCER-SOURCE-CIDR 203.0.113.77,tcp:80,198.51.100.0/24
add -exist KUBE-IPVS-IPS 10.96.230.180
add -exist KUBE-IPVS-IPS 203.0.113.77
EOF
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
# kube-proxy ipvs
ip netns exec "$NS" iptables-restore --noflush <<'EOF'
*nat
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A KUBE-LOAD-BALANCER -m comment --comment "Kubernetes service load balancer ip + port with externalTrafficPolicy=local" -m set --match-set KUBE-LOAD-BALANCER-LOCAL dst,dst -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
-A KUBE-LOAD-BALANCER -m comment --comment "Kubernetes service load balancer ip + port with externalTrafficPolicy=local" -m set --match-set KUBE-LOAD-BALANCER-LOCAL dst,dst -j RETURN
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-NODE-PORT -p tcp -m comment --comment "Kubernetes nodeport TCP port with externalTrafficPolicy=local" -m set --match-set KUBE-NODE-PORT-LOCAL-TCP dst -j RETURN
-A KUBE-NODE-PORT -p tcp -m comment --comment "Kubernetes nodeport TCP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-NODE-PORT -p udp -m comment --comment "Kubernetes nodeport UDP port with externalTrafficPolicy=local" -m set --match-set KUBE-NODE-PORT-LOCAL-UDP dst -j RETURN
-A KUBE-NODE-PORT -p udp -m comment --comment "Kubernetes nodeport UDP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-UDP dst -j KUBE-MARK-MASQ
-A KUBE-NODE-PORT -p sctp -m comment --comment "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'" -m set --match-set KUBE-NODE-PORT-LOCAL-SCTP-HASH dst,dst -j RETURN
-A KUBE-NODE-PORT -p sctp -m comment --comment "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'" -m set --match-set KUBE-NODE-PORT-SCTP-HASH dst,dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m comment --comment "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose" -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SERVICES -s 127.0.0.0/8 -j RETURN
-A KUBE-SERVICES -m comment --comment "Kubernetes service lb portal" -m set --match-set KUBE-LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER
-A KUBE-SERVICES -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set KUBE-CLUSTER-IP dst,dst ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port for masquerade and filter purpose" -m set --match-set KUBE-EXTERNAL-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port for masquerade and filter purpose" -m set --match-set KUBE-EXTERNAL-IP dst,dst -m addrtype --dst-type LOCAL -j ACCEPT
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port with externalTrafficPolicy=local" -m set --match-set KUBE-EXTERNAL-IP-LOCAL dst,dst -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port with externalTrafficPolicy=local" -m set --match-set KUBE-EXTERNAL-IP-LOCAL dst,dst -m addrtype --dst-type LOCAL -j ACCEPT
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-SERVICES -m comment --comment "Kubernetes service lb portal" -m set --match-set KUBE-LOAD-BALANCER dst,dst -j ACCEPT
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-IPVS-OUT-FILTER - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-IPVS-FILTER -m comment --comment "Kubernetes service lb portal" -m set --match-set KUBE-LOAD-BALANCER dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set KUBE-CLUSTER-IP dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m comment --comment "Kubernetes service external ip + port for masquerade and filter purpose" -m set --match-set KUBE-EXTERNAL-IP dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m comment --comment "Kubernetes service external ip + port with externalTrafficPolicy=local" -m set --match-set KUBE-EXTERNAL-IP-LOCAL dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m comment --comment "Kubernetes health check node port" -m set --match-set KUBE-HEALTH-CHECK-NODE-PORT dst -j RETURN
-A KUBE-IPVS-FILTER -p icmp -m icmp --icmp-type echo-request -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m comment --comment "Kubernetes addresses on kube-ipvs0" -m set --match-set KUBE-IPVS-IPS dst -j REJECT
-A KUBE-IPVS-OUT-FILTER -s 203.0.113.77 -m ipvs --vaddr 203.0.113.77 --vproto tcp --vport 80 -j DROP
-A KUBE-NODE-PORT -m comment --comment "Kubernetes health check node port" -m set --match-set KUBE-HEALTH-CHECK-NODE-PORT dst -j ACCEPT
-A KUBE-PROXY-FIREWALL -m comment --comment "Kubernetes service load balancer ip + port for load balancer with sourceRange" -m set --match-set KUBE-LOAD-BALANCER-FW dst,dst -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -m comment --comment "Kubernetes service load balancer ip + port + source cidr for packet filter purpose" -m set --match-set KUBE-LOAD-BALANCER-SOURCE-CIDR dst,dst,src -j RETURN
-A KUBE-SOURCE-RANGES-FIREWALL -m comment --comment "Kubernetes service load balancer ip + port + source IP for packet filter purpose" -m set --match-set KUBE-LOAD-BALANCER-SOURCE-IP dst,dst,src -j RETURN
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
-I OUTPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-OUT-FILTER
-I INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT
-I INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-I INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I FORWARD -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
COMMIT
EOF
# kube-proxy ipvs
ip netns exec "$NS" ipvsadm -R <<'EOF'
-A -t 10.96.0.1:443 -s rr
-A -u 10.96.0.10:53 -s rr
-a -u 10.96.0.10:53 -r 10.244.0.2:53 -m -w 1
-a -u 10.96.0.10:53 -r 10.244.0.3:53 -m -w 1
-A -t 10.96.0.10:53 -s rr
-a -t 10.96.0.10:53 -r 10.244.0.2:53 -m -w 1
-a -t 10.96.0.10:53 -r 10.244.0.3:53 -m -w 1
-A -t 10.96.0.10:9153 -s rr
-a -t 10.96.0.10:9153 -r 10.244.0.2:9153 -m -w 1
-a -t 10.96.0.10:9153 -r 10.244.0.3:9153 -m -w 1
-A -t 10.96.54.115:80 -s rr
-a -t 10.96.54.115:80 -r 10.244.0.4:8080 -m -w 1
-a -t 10.96.54.115:80 -r 10.244.0.5:8080 -m -w 1
-a -t 10.96.54.115:80 -r 10.244.0.6:8080 -m -w 1
-A -u 10.96.54.115:81 -s rr
-a -u 10.96.54.115:81 -r 10.244.0.4:8081 -m -w 1
-a -u 10.96.54.115:81 -r 10.244.0.5:8081 -m -w 1
-a -u 10.96.54.115:81 -r 10.244.0.6:8081 -m -w 1
-A -t 10.96.244.102:80 -s rr -p 10800
-a -t 10.96.244.102:80 -r 10.244.0.4:8080 -m -w 1
-a -t 10.96.244.102:80 -r 10.244.0.5:8080 -m -w 1
-a -t 10.96.244.102:80 -r 10.244.0.6:8080 -m -w 1
-A -t 10.96.34.120:80 -s rr
-a -t 10.96.34.120:80 -r 10.244.0.4:8080 -m -w 1
-a -t 10.96.34.120:80 -r 10.244.0.5:8080 -m -w 1
-a -t 10.96.34.120:80 -r 10.244.0.6:8080 -m -w 1
-A -t 10.96.0.77:80 -s rr
-A -t 172.18.0.2:30077 -s rr
-A -t 10.244.0.1:30077 -s rr
-A -t 10.96.159.188:80 -s rr
-a -t 10.96.159.188:80 -r 10.244.0.4:8080 -m -w 1
-a -t 10.96.159.188:80 -r 10.244.0.5:8080 -m -w 1
-a -t 10.96.159.188:80 -r 10.244.0.6:8080 -m -w 1
-A -t 192.0.2.50:80 -s rr
-a -t 192.0.2.50:80 -r 10.244.0.4:8080 -m -w 1
-a -t 192.0.2.50:80 -r 10.244.0.5:8080 -m -w 1
-a -t 192.0.2.50:80 -r 10.244.0.6:8080 -m -w 1
-A -t 172.18.0.2:30080 -s rr
-a -t 172.18.0.2:30080 -r 10.244.0.4:8080 -m -w 1
-a -t 172.18.0.2:30080 -r 10.244.0.5:8080 -m -w 1
-a -t 172.18.0.2:30080 -r 10.244.0.6:8080 -m -w 1
-A -t 10.244.0.1:30080 -s rr
-a -t 10.244.0.1:30080 -r 10.244.0.4:8080 -m -w 1
-a -t 10.244.0.1:30080 -r 10.244.0.5:8080 -m -w 1
-a -t 10.244.0.1:30080 -r 10.244.0.6:8080 -m -w 1
-A -t 10.96.230.180:80 -s rr
-a -t 10.96.230.180:80 -r 10.244.0.4:8080 -m -w 1
-a -t 10.96.230.180:80 -r 10.244.0.5:8080 -m -w 1
-a -t 10.96.230.180:80 -r 10.244.0.6:8080 -m -w 1
-A -t 203.0.113.77:80 -s rr
-a -t 203.0.113.77:80 -r 10.244.0.4:8080 -m -w 1
-a -t 203.0.113.77:80 -r 10.244.0.5:8080 -m -w 1
-a -t 203.0.113.77:80 -r 10.244.0.6:8080 -m -w 1
-A -t 172.18.0.2:30081 -s rr
-a -t 172.18.0.2:30081 -r 10.244.0.4:8080 -m -w 1
-a -t 172.18.0.2:30081 -r 10.244.0.5:8080 -m -w 1
-a -t 172.18.0.2:30081 -r 10.244.0.6:8080 -m -w 1
-A -t 10.244.0.1:30081 -s rr
-a -t 10.244.0.1:30081 -r 10.244.0.4:8080 -m -w 1
-a -t 10.244.0.1:30081 -r 10.244.0.5:8080 -m -w 1
-a -t 10.244.0.1:30081 -r 10.244.0.6:8080 -m -w 1
EOF

# === Pod kube-system/coredns-66699bc8fc-cvqf5 =========================================================================
NS=${LAB}_pod_kube-system_coredns-66699bc8fc-cvqf5
ip netns add "$NS"  # hostname: coredns-66699bc8fc-cvqf5
settings "$NS" \
    net.ipv4.ip_forward=0 net.ipv4.conf.all.arp_ignore=0
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
    net.ipv4.ip_forward=0 net.ipv4.conf.all.arp_ignore=0
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
    net.ipv4.ip_forward=0 net.ipv4.conf.all.arp_ignore=0
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
    net.ipv4.ip_forward=0 net.ipv4.conf.all.arp_ignore=0
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
    net.ipv4.ip_forward=0 net.ipv4.conf.all.arp_ignore=0
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
