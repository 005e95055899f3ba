"""Render a HostState as a shell script of ip, bridge, sysctl and nft commands.

    header      purpose, namespaces, recurring options, the function that removes the lab
    sections    one for each namespace; comments name the component that wants the next commands
    footer      commands to try

Objects provide their own commands, and rules are nft's own text; this module provides the rest.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_interface
from typing import Final

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.daemons import Daemon
from kubenetlab.hoststate.object import Key, Origin, ShellName
from kubenetlab.hoststate.rules.rulesets import rule_backend
from kubenetlab.hoststate.sandbox import Sysctl
from kubenetlab.hoststate.sections import Section, common_settings, sections
from kubenetlab.hoststate.state import Contents, HostState
from kubenetlab.names import run_netns_name

WIDTH: Final = 120

_HEADER = """\
#!/bin/sh
# The lab {lab} as shell commands, equivalent to the netlink messages that `kubenetlab up` sends.
#
#   sh lab.sh          creates the lab, as root; stops at the first command that fails
#   sh lab.sh down     removes the lab, also after a failure
#
# Required packages: iproute2, nftables and procps. The script works only in network namespaces that
# it creates, and changes nothing in the machine's own network. Namespace names begin with the name
# of the lab. To run it while kubenetlab's own lab {lab} is up, choose another: LAB=other sh lab.sh
#
# Services have the pods that are ready as endpoints; if the lab was not up when this script was
# written, these are all their pods. The script sets no hostnames, because they belong to UTS
# namespaces, and runs no programs: comments say which program would listen on which ports.
# A comment before commands, such as `# fabric`, names the component of the cluster they belong to.
#
# Namespaces in order of creation, with their addresses:
#
{contents}
#
# Recurring options:
#
{terms}

set -eu
LAB=${{LAB:-{lab}}}
{variables}
down() {{
    for file in {files}; do
        if [ -e "$file" ] && [ ! -L "$file" ]; then {removal} fi
    done
{cleanup}}}

if [ "${{1:-up}}" = down ]; then
    down
    exit
fi
"""

_TERMS: Final = (
    (
        " type veth ",
        "type veth peer name X netns Y",
        "a veth pair: one end is here, the other end is X in namespace Y, a port of Y's bridge",
    ),
    (
        " alias ",
        "alias '…'",
        "a description that `ip link` shows: component and subject of the link",
    ),
    (
        "queues 1",
        "numtxqueues 1 numrxqueues 1",
        "one queue is enough; by default the kernel creates one for each processor",
    ),
    (
        "mcast_snooping 0",
        "mcast_snooping 0",
        "the bridge forwards multicast to all ports, whether or not they joined the group",
    ),
    (
        "hairpin on",
        "hairpin on",
        "the bridge may send a frame back to its port: a pod reaches itself by its Service",
    ),
    (
        "noprefixroute",
        "scope link noprefixroute",
        "the address is not selected as source address, and gets no route to its prefix",
    ),
    (
        "preferred_lft 0",
        "preferred_lft 0",
        "an IPv6 address that is not selected as source address",
    ),
    (" src ", "src ADDRESS", "source address of packets that this machine sends by the route"),
    (
        "bridge-nf-call-iptables=1",
        "net.bridge.bridge-nf-call-iptables=1",
        "netfilter rules apply to bridged packets; if it does not exist: modprobe br_netfilter",
    ),
    (
        "nodad",
        "nodad",
        "no duplicate address detection: the IPv6 address can be used at once",
    ),
    (
        "wg set ",
        "wg set LINK …",
        "WireGuard's keys and peers (package wireguard-tools); the script makes its own keys",
    ),
    (
        "nud permanent",
        "nud permanent",
        "the MAC address is configured: no ARP, no neighbor discovery",
    ),
    (
        "proto static",
        "proto static",
        "`ip route show proto static` lists the script's routes, but not the kernel's own",
    ),
)
"""(pattern in the script, its term in the header, meaning of the term)"""

_SETTINGS = """
# settings NAMESPACE [SETTING…]: write these sysctls and those that all namespaces have in common.
# A new namespace inherits some sysctls from the machine.
settings() {{
    netns=$1
    shift
{body}}}
"""

_FILES = """
# write NAMESPACE PATH MODE: write standard input to a file that only daemons of the namespace see.
write() {
    mkdir -p "$FILES/$1${2%/*}"
    cat >"$FILES/$1$2"
    chmod "$3" "$FILES/$1$2"
}
"""

_DAEMONS = """
# daemon NAMESPACE NAME COMMAND…: run a command in a namespace, in the background. It has a /run of
# its own, and the files of the namespace in place of the machine's.
daemon() {
    netns=$1
    name=$2
    shift 2
    ip netns exec "$netns" unshare --mount sh -c '
        tree=$1
        shift
        mount -t tmpfs tmpfs /run
        for directory in "$tree"/*/*/; do
            target=${directory#"$tree"}
            case $target in /run/*) mkdir -p "$target" ;; esac
            mount --bind "$directory" "$target"
        done
        exec "$@"
    ' sh "$FILES/$netns" "$@" </dev/null >"$FILES/$netns.$name.log" 2>&1 &
}
"""

_FOOTER = """
cat <<EOF
lab $LAB is up. To remove it: sh $0 down. Try:
{suggestions}
EOF
"""


_FILES_VARIABLE: Final = """\
FILES=/var/tmp/kubenetlab-$LAB  # files of the namespaces, and output of daemons
"""
_REMOVAL: Final = 'ip netns del "${file##*/}";'
_REMOVAL_WITH_DAEMONS: Final = f"""
            ip netns pids "${{file##*/}}" | xargs -r kill
            {_REMOVAL}
       """


def script(state: HostState, lab: str) -> str:
    """Return the script. `lab` is the default of its variable LAB, which begins namespace names."""
    all_sections = list(sections(state))
    common = common_settings(all_sections)
    files = [obj for section in all_sections for group in section.files for obj in group.objects]
    has_daemons = any(isinstance(obj, Daemon) for obj in files)
    body = _settings_function(common) if common else ""
    body += _FILES if files else ""
    body += _DAEMONS if has_daemons else ""
    body += "".join(f"{line}\n" for section in all_sections for line in _section(section, common))
    kinds = dict.fromkeys(section.sandbox.netns.partition("/")[0] for section in all_sections)
    header = _HEADER.format(
        lab=lab,
        contents="\n".join(_contents(state, lab, all_sections)),
        terms="\n".join(_terms(body)),
        files=" ".join(f'/run/netns/"$LAB"_{kind}_*' for kind in kinds),
        variables=_FILES_VARIABLE if files else "",
        removal=_REMOVAL_WITH_DAEMONS if has_daemons else _REMOVAL,
        cleanup='    rm -rf "$FILES"\n' if files else "",
    )
    return (
        header
        + body
        + _FOOTER.format(
            suggestions="\n".join(f"  {line}" for line in _suggestions(state, all_sections))
        )
    )


def _contents(state: HostState, lab: str, all_sections: Iterable[Section]) -> Iterator[str]:
    rows = [
        (
            run_netns_name(lab, section.sandbox.netns),
            section.title,
            ", ".join(_addresses(state[section.sandbox.netns])),
        )
        for section in all_sections
        if not section.sandbox.shares
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for name, title, addresses in rows:
        yield f"#   {name:{widths[0]}}   {title:{widths[1]}}   {addresses}".rstrip()


def _terms(body: str) -> Iterator[str]:
    terms = [(term, meaning) for pattern, term, meaning in _TERMS if pattern in body]
    width = max((len(term) for term, _ in terms), default=0)
    return (f"#   {term:{width}}   {meaning}" for term, meaning in terms)


def _settings_function(common: Sequence[Sysctl]) -> str:
    regular = [setting.assignment for setting in common if not setting.is_optional]
    optional = [setting.assignment for setting in common if setting.is_optional]
    body = f'    ip netns exec "$netns" sysctl -qw "$@"{_continued(regular, 8)}\n'
    body += f'    ip netns exec "$netns" sysctl -qew{_continued(optional, 8)}\n' if optional else ""
    return _SETTINGS.format(body=body)


def _continued(words: Sequence[str], indent: int = 4) -> str:
    """Return arguments of a command: a single one on its line, more on continuation lines."""
    if len(words) < 2:
        return "".join(f" {word}" for word in words)
    lines = textwrap.wrap(
        " ".join(words), WIDTH - indent - len(" \\"), break_long_words=False, break_on_hyphens=False
    )
    return "".join(f" \\\n{' ' * indent}{line}" for line in lines)


def _section(section: Section, common: Sequence[Sysctl]) -> Iterator[str]:
    sandbox, shell_name = section.sandbox, _shell_name(section.sandbox.netns)
    yield ""
    yield f"# === {section.title} ".ljust(WIDTH, "=")
    if sandbox.shares:
        yield f"# hostNetwork: shares the network namespace {_name(sandbox.shares)}"
    else:
        yield f"NS={_name(sandbox.netns)}"
        yield from (
            f"{command}  # hostname: {sandbox.hostname}" for command in sandbox.commands(shell_name)
        )
        yield from _settings(section.settings, common, shell_name)
        for link in section.existing_links:
            yield from link.commands(shell_name)
        for group in section.groups:
            yield from _origin_comments([group.origin], section)
            for obj in group.objects:
                yield from obj.commands(shell_name)
        for ruleset in section.rulesets:
            if commands := list(rule_backend(ruleset.backend).commands(ruleset.objects)):
                yield from _origin_comments([ruleset.origin], section)
                yield from (f'ip netns exec "$NS" {command}' for command in commands)
        for group in section.files:
            yield from _origin_comments([group.origin], section)
            for obj in group.objects:
                yield from obj.commands(shell_name)
    for program in section.programs:
        yield f"# not run here: {program}"


def _settings(
    settings: Sequence[Sysctl], common: Sequence[Sysctl], shell_name: ShellName
) -> Iterator[str]:
    common_keys: set[Key] = {setting.key for setting in common}
    own = [setting for setting in settings if setting.key not in common_keys]
    if common:
        required = [setting.assignment for setting in own if not setting.is_optional]
        yield f'settings "$NS"{_continued(required)}'
    for setting in own:
        if setting.is_optional or not common:
            yield from setting.commands(shell_name)


def _suggestions(state: HostState, all_sections: Iterable[Section]) -> Iterator[str]:
    """Suggest a ping from the last pod to the first, and a look at the rules of the first node.

    With fewer than two pods the ping is between any namespaces that have addresses.
    """
    addressed = [
        section.sandbox.netns
        for section in all_sections
        if _addresses(state[section.sandbox.netns])
    ]
    pods = [netns for netns in addressed if netns.startswith("pod/")]
    targets = pods if len(pods) > 1 else addressed
    for netns in targets[-1:]:
        yield f"ip netns exec {_name(netns)} ping -c 3 {_addresses(state[targets[0]])[0]}"
        yield f"ip netns exec {_name(netns)} ip neighbor"
    for netns in [section.sandbox.netns for section in all_sections if section.rulesets][:1]:
        yield f"ip netns exec {_name(netns)} nft list ruleset"


def _origin_comments(origins: Iterable[Origin | None], section: Section) -> Iterator[str]:
    """Yield comments with the origins of the next commands, without the section's own subject."""
    return (
        f"# {str(origin).removesuffix(f', for {section.title}')}"
        for origin in origins
        if origin is not None
    )


def _addresses(contents: Contents) -> list[str]:
    addresses = [
        ip_interface(obj.address).ip for obj in contents.values() if isinstance(obj, Address)
    ]
    return [str(address) for address in addresses if not address.is_link_local]


def _shell_name(netns: str) -> ShellName:
    """Return the function that names namespaces in the section of `netns`."""
    return lambda other: '"$NS"' if other == netns else f'"{_name(other)}"'


def _name(netns: str) -> str:
    return run_netns_name("${LAB}", netns)
