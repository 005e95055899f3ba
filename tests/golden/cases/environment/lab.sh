#!/bin/sh
# The lab environment as shell commands, equivalent to the netlink messages that `kubenetlab up` sends.
#
#   sh lab.sh          creates the lab, as root; stops at the first command that fails
#   sh lab.sh down     removes the lab, also after a failure
#
# Required packages: iproute2, nftables and procps. The script works only in network namespaces that
# it creates, and changes nothing in the machine's own network. Namespace names begin with the name
# of the lab. To run it while kubenetlab's own lab environment is up, choose another: LAB=other sh lab.sh
#
# Services have the pods that are ready as endpoints; if the lab was not up when this script was
# written, these are all their pods. The script sets no hostnames, because they belong to UTS
# namespaces, and runs no programs: comments say which program would listen on which ports.
# A comment before commands, such as `# fabric`, names the component of the cluster they belong to.
#
# Namespaces in order of creation, with their addresses:
#
#   environment_fabric_switch                              the wire between the nodes
#   environment_fabric_internet                            the internet
#   environment_fabric_router                              the router                                 172.18.0.1, 198.51.100.1
#   environment_ext_client                                 external host client                       198.51.100.10
#   environment_node_control-plane                         Node control-plane                         172.18.0.2, 10.244.0.1
#   environment_pod_default_echo                           Pod default/echo                           10.244.0.2
#   environment_pod_kube-system_coredns-66699bc8fc-cvqf5   Pod kube-system/coredns-66699bc8fc-cvqf5   10.244.0.3
#   environment_pod_kube-system_coredns-66699bc8fc-bhvmm   Pod kube-system/coredns-66699bc8fc-bhvmm   10.244.0.4
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
#   proto static                           `ip route show proto static` lists the script's routes, but not the kernel's own

set -eu
LAB=${LAB:-environment}

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
        net.ipv4.conf.all.proxy_arp=0 net.ipv4.conf.default.proxy_arp=0 net.ipv4.conf.all.route_localnet=0 \
        net.ipv4.conf.default.route_localnet=0 net.ipv4.ip_default_ttl=64 'net.ipv4.ping_group_range=0 0'
    ip netns exec "$netns" sysctl -qew net.ipv6.conf.all.disable_ipv6=1
}

# === the wire between the nodes =======================================================================================
NS=${LAB}_fabric_switch
ip netns add "$NS"  # hostname: switch
settings "$NS" net.ipv4.ip_forward=0
ip -n "$NS" link set lo up
# fabric
ip -n "$NS" link add br0 address 0a:58:00:00:00:01 mtu 1500 type bridge mcast_snooping 0
ip -n "$NS" link set br0 alias 'fabric: switch' up

# === the internet =====================================================================================================
NS=${LAB}_fabric_internet
ip netns add "$NS"  # hostname: internet
settings "$NS" net.ipv4.ip_forward=0
ip -n "$NS" link set lo up
# fabric
ip -n "$NS" link add br0 address 0a:58:00:00:00:02 mtu 1500 type bridge mcast_snooping 0
ip -n "$NS" link set br0 alias 'fabric: internet' up

# === the router =======================================================================================================
NS=${LAB}_fabric_router
ip netns add "$NS"  # hostname: router
settings "$NS" \
    net.ipv4.ip_forward=1 net.ipv4.icmp_ratemask=0 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.all.arp_announce=2 \
    net.ipv4.conf.default.send_redirects=0 net.ipv4.conf.default.arp_announce=2
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

# === external host client =============================================================================================
NS=${LAB}_ext_client
ip netns add "$NS"  # hostname: client
settings "$NS" net.ipv4.ip_forward=0
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
    net.ipv4.conf.default.send_redirects=0 net.ipv4.conf.default.arp_announce=2 net.bridge.bridge-nf-call-iptables=1
ip -n "$NS" link set lo up
# fabric
ip -n "$NS" link add eth0 address 0a:58:ac:12:00:02 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name control-plane netns "${LAB}_fabric_switch" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'fabric: control-plane' up
ip -n "${LAB}_fabric_switch" link set control-plane master br0 address 0a:59:ac:12:00:02 alias 'fabric: control-plane' up
ip -n "$NS" address add 172.18.0.2/16 dev eth0
ip -n "$NS" route add default via 172.18.0.1 dev eth0 proto static
# cni bridge
ip -n "$NS" link add cbr0 address 0a:58:0a:f4:00:01 mtu 1500 type bridge mcast_snooping 0
ip -n "$NS" link set cbr0 alias 'cni bridge: pods of control-plane' up
ip -n "$NS" address add 10.244.0.1/24 dev cbr0 scope link noprefixroute
ip -n "$NS" route add 10.244.0.0/24 dev cbr0 scope link src 172.18.0.2 proto static
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
# kube-proxy nftables
ip netns exec "$NS" nft -f - <<'EOF'
add table ip kube-proxy { comment "rules for kube-proxy" ; }
add chain ip kube-proxy firewall-check
add chain ip kube-proxy service-endpoints-check
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy cluster-ips-check
add chain ip kube-proxy services
add chain ip kube-proxy mark-for-masquerade
add chain ip kube-proxy masquerading
add chain ip kube-proxy reject-chain { comment "helper for @no-endpoint-services / @no-endpoint-nodeports" ; }
add chain ip kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }
add chain ip kube-proxy filter-input { type filter hook input priority 0 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
add chain ip kube-proxy filter-output { type filter hook output priority 0 ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add chain ip kube-proxy service-FY5PMXPG-kube-system/kube-dns/udp/dns { comment "kube-system/kube-dns:dns" ; }
add chain ip kube-proxy endpoint-SHKW4FT7-kube-system/kube-dns/udp/dns__10.244.0.3/53 { comment "kube-system/kube-dns:dns" ; }
add chain ip kube-proxy endpoint-VWYSKC3H-kube-system/kube-dns/udp/dns__10.244.0.4/53 { comment "kube-system/kube-dns:dns" ; }
add chain ip kube-proxy service-NWBZK7IH-kube-system/kube-dns/tcp/dns-tcp { comment "kube-system/kube-dns:dns-tcp" ; }
add chain ip kube-proxy endpoint-BAVBYS25-kube-system/kube-dns/tcp/dns-tcp__10.244.0.3/53 { comment "kube-system/kube-dns:dns-tcp" ; }
add chain ip kube-proxy endpoint-5ZODOYIN-kube-system/kube-dns/tcp/dns-tcp__10.244.0.4/53 { comment "kube-system/kube-dns:dns-tcp" ; }
add chain ip kube-proxy service-AS2KJYAD-kube-system/kube-dns/tcp/metrics { comment "kube-system/kube-dns:metrics" ; }
add chain ip kube-proxy endpoint-G34R7BNP-kube-system/kube-dns/tcp/metrics__10.244.0.3/9153 { comment "kube-system/kube-dns:metrics" ; }
add chain ip kube-proxy endpoint-UIZQ3LM6-kube-system/kube-dns/tcp/metrics__10.244.0.4/9153 { comment "kube-system/kube-dns:metrics" ; }
add chain ip kube-proxy service-2GUAAQIC-default/echo/tcp/http { comment "default/echo:http" ; }
add chain ip kube-proxy endpoint-ZCMDT35X-default/echo/tcp/http__10.244.0.2/5678 { comment "default/echo:http" ; }
add set ip kube-proxy cluster-ips { type ipv4_addr ; comment "Active ClusterIPs" ; }
add set ip kube-proxy nodeport-ips { type ipv4_addr ; comment "IPs that accept NodePort traffic" ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; comment "ClusterIP, ExternalIP and LoadBalancer IP traffic" ; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; comment "NodePort traffic" ; }
add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; comment "destinations that are subject to LoadBalancerSourceRanges" ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; comment "vmap to drop or reject packets to services with no endpoints" ; }
add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; comment "vmap to drop or reject packets to service nodeports with no endpoints" ; }
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
add rule ip kube-proxy cluster-ips-check ip daddr { 10.96.0.0/16 } drop comment "Drop traffic to unallocated ClusterIPs"
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000
add rule ip kube-proxy masquerading mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading mark set mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
add rule ip kube-proxy reject-chain reject
add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy service-FY5PMXPG-kube-system/kube-dns/udp/dns ip daddr 10.96.0.10 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
add rule ip kube-proxy service-FY5PMXPG-kube-system/kube-dns/udp/dns numgen random mod 2 vmap { 0 : goto endpoint-SHKW4FT7-kube-system/kube-dns/udp/dns__10.244.0.3/53, 1 : goto endpoint-VWYSKC3H-kube-system/kube-dns/udp/dns__10.244.0.4/53 }
add rule ip kube-proxy endpoint-SHKW4FT7-kube-system/kube-dns/udp/dns__10.244.0.3/53 ip saddr 10.244.0.3 jump mark-for-masquerade
add rule ip kube-proxy endpoint-SHKW4FT7-kube-system/kube-dns/udp/dns__10.244.0.3/53 meta l4proto udp dnat to 10.244.0.3:53
add rule ip kube-proxy endpoint-VWYSKC3H-kube-system/kube-dns/udp/dns__10.244.0.4/53 ip saddr 10.244.0.4 jump mark-for-masquerade
add rule ip kube-proxy endpoint-VWYSKC3H-kube-system/kube-dns/udp/dns__10.244.0.4/53 meta l4proto udp dnat to 10.244.0.4:53
add rule ip kube-proxy service-NWBZK7IH-kube-system/kube-dns/tcp/dns-tcp ip daddr 10.96.0.10 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
add rule ip kube-proxy service-NWBZK7IH-kube-system/kube-dns/tcp/dns-tcp numgen random mod 2 vmap { 0 : goto endpoint-BAVBYS25-kube-system/kube-dns/tcp/dns-tcp__10.244.0.3/53, 1 : goto endpoint-5ZODOYIN-kube-system/kube-dns/tcp/dns-tcp__10.244.0.4/53 }
add rule ip kube-proxy endpoint-BAVBYS25-kube-system/kube-dns/tcp/dns-tcp__10.244.0.3/53 ip saddr 10.244.0.3 jump mark-for-masquerade
add rule ip kube-proxy endpoint-BAVBYS25-kube-system/kube-dns/tcp/dns-tcp__10.244.0.3/53 meta l4proto tcp dnat to 10.244.0.3:53
add rule ip kube-proxy endpoint-5ZODOYIN-kube-system/kube-dns/tcp/dns-tcp__10.244.0.4/53 ip saddr 10.244.0.4 jump mark-for-masquerade
add rule ip kube-proxy endpoint-5ZODOYIN-kube-system/kube-dns/tcp/dns-tcp__10.244.0.4/53 meta l4proto tcp dnat to 10.244.0.4:53
add rule ip kube-proxy service-AS2KJYAD-kube-system/kube-dns/tcp/metrics ip daddr 10.96.0.10 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
add rule ip kube-proxy service-AS2KJYAD-kube-system/kube-dns/tcp/metrics numgen random mod 2 vmap { 0 : goto endpoint-G34R7BNP-kube-system/kube-dns/tcp/metrics__10.244.0.3/9153, 1 : goto endpoint-UIZQ3LM6-kube-system/kube-dns/tcp/metrics__10.244.0.4/9153 }
add rule ip kube-proxy endpoint-G34R7BNP-kube-system/kube-dns/tcp/metrics__10.244.0.3/9153 ip saddr 10.244.0.3 jump mark-for-masquerade
add rule ip kube-proxy endpoint-G34R7BNP-kube-system/kube-dns/tcp/metrics__10.244.0.3/9153 meta l4proto tcp dnat to 10.244.0.3:9153
add rule ip kube-proxy endpoint-UIZQ3LM6-kube-system/kube-dns/tcp/metrics__10.244.0.4/9153 ip saddr 10.244.0.4 jump mark-for-masquerade
add rule ip kube-proxy endpoint-UIZQ3LM6-kube-system/kube-dns/tcp/metrics__10.244.0.4/9153 meta l4proto tcp dnat to 10.244.0.4:9153
add rule ip kube-proxy service-2GUAAQIC-default/echo/tcp/http ip daddr 10.96.104.221 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
add rule ip kube-proxy service-2GUAAQIC-default/echo/tcp/http numgen random mod 1 vmap { 0 : goto endpoint-ZCMDT35X-default/echo/tcp/http__10.244.0.2/5678 }
add rule ip kube-proxy endpoint-ZCMDT35X-default/echo/tcp/http__10.244.0.2/5678 ip saddr 10.244.0.2 jump mark-for-masquerade
add rule ip kube-proxy endpoint-ZCMDT35X-default/echo/tcp/http__10.244.0.2/5678 meta l4proto tcp dnat to 10.244.0.2:5678
add element ip kube-proxy cluster-ips { 10.96.0.1 }
add element ip kube-proxy cluster-ips { 10.96.0.10 }
add element ip kube-proxy cluster-ips { 10.96.104.221 }
add element ip kube-proxy no-endpoint-services { 10.96.0.1 . tcp . 443 comment "default/kubernetes:https" : goto reject-chain }
add element ip kube-proxy nodeport-ips { 172.18.0.2 }
add element ip kube-proxy service-ips { 10.96.0.10 . udp . 53 comment "kube-system/kube-dns:dns" : goto service-FY5PMXPG-kube-system/kube-dns/udp/dns }
add element ip kube-proxy service-ips { 10.96.0.10 . tcp . 53 comment "kube-system/kube-dns:dns-tcp" : goto service-NWBZK7IH-kube-system/kube-dns/tcp/dns-tcp }
add element ip kube-proxy service-ips { 10.96.0.10 . tcp . 9153 comment "kube-system/kube-dns:metrics" : goto service-AS2KJYAD-kube-system/kube-dns/tcp/metrics }
add element ip kube-proxy service-ips { 10.96.104.221 . tcp . 80 comment "default/echo:http" : goto service-2GUAAQIC-default/echo/tcp/http }
EOF

# === Pod default/echo =================================================================================================
NS=${LAB}_pod_default_echo
ip netns add "$NS"  # hostname: echo
settings "$NS" net.ipv4.ip_forward=0
ip -n "$NS" link set lo up
# cni bridge
ip -n "$NS" link add eth0 address 0a:58:0a:f4:00:02 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name veth0 netns "${LAB}_node_control-plane" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'cni bridge: pod default/echo' up
ip -n "${LAB}_node_control-plane" link set veth0 master cbr0 address 0a:59:0a:f4:00:02 alias 'cni bridge: pod default/echo' up
bridge -n "${LAB}_node_control-plane" link set dev veth0 hairpin on
ip -n "$NS" address add 10.244.0.2/24 dev eth0
ip -n "$NS" route add default via 10.244.0.1 dev eth0 proto static
# not run here: program http_echo for container echo, listening on 5678/tcp
# not run here: program netexec for container exec, listening on 8088/tcp, 8089/udp

# === Pod kube-system/coredns-66699bc8fc-cvqf5 =========================================================================
NS=${LAB}_pod_kube-system_coredns-66699bc8fc-cvqf5
ip netns add "$NS"  # hostname: coredns-66699bc8fc-cvqf5
settings "$NS" net.ipv4.ip_forward=0
ip -n "$NS" link set lo up
# cni bridge
ip -n "$NS" link add eth0 address 0a:58:0a:f4:00:03 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name veth1 netns "${LAB}_node_control-plane" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'cni bridge: pod kube-system/coredns-66699bc8fc-cvqf5' up
ip -n "${LAB}_node_control-plane" link set veth1 master cbr0 address 0a:59:0a:f4:00:03 alias 'cni bridge: pod kube-system/coredns-66699bc8fc-cvqf5' up
bridge -n "${LAB}_node_control-plane" link set dev veth1 hairpin on
ip -n "$NS" address add 10.244.0.3/24 dev eth0
ip -n "$NS" route add default via 10.244.0.1 dev eth0 proto static
# not run here: program coredns for container coredns, listening on 53/udp, 53/tcp, 8080/tcp, 8181/tcp, 9153/tcp

# === Pod kube-system/coredns-66699bc8fc-bhvmm =========================================================================
NS=${LAB}_pod_kube-system_coredns-66699bc8fc-bhvmm
ip netns add "$NS"  # hostname: coredns-66699bc8fc-bhvmm
settings "$NS" net.ipv4.ip_forward=0
ip -n "$NS" link set lo up
# cni bridge
ip -n "$NS" link add eth0 address 0a:58:0a:f4:00:04 mtu 1500 numtxqueues 1 numrxqueues 1 \
    type veth peer name veth2 netns "${LAB}_node_control-plane" mtu 1500 numtxqueues 1 numrxqueues 1
ip -n "$NS" link set eth0 alias 'cni bridge: pod kube-system/coredns-66699bc8fc-bhvmm' up
ip -n "${LAB}_node_control-plane" link set veth2 master cbr0 address 0a:59:0a:f4:00:04 alias 'cni bridge: pod kube-system/coredns-66699bc8fc-bhvmm' up
bridge -n "${LAB}_node_control-plane" link set dev veth2 hairpin on
ip -n "$NS" address add 10.244.0.4/24 dev eth0
ip -n "$NS" route add default via 10.244.0.1 dev eth0 proto static
# not run here: program coredns for container coredns, listening on 53/udp, 53/tcp, 8080/tcp, 8181/tcp, 9153/tcp

# === Pod kube-system/kube-proxy-zzqvk =================================================================================
# hostNetwork: shares the network namespace ${LAB}_node_control-plane
# not run here: program kube_proxy for container kube-proxy, listening on 10256/tcp, 127.0.0.1:10249/tcp

cat <<EOF
lab $LAB is up. To remove it: sh $0 down. Try:
  ip netns exec ${LAB}_pod_kube-system_coredns-66699bc8fc-bhvmm ping -c 3 10.244.0.2
  ip netns exec ${LAB}_pod_kube-system_coredns-66699bc8fc-bhvmm ip neighbor
  ip netns exec ${LAB}_node_control-plane nft list ruleset
EOF
