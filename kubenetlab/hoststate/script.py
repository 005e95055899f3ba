"""script: a whole HostState as a shell script of ip, bridge, sysctl and nft, to be read from top to bottom, and to be run.

    head        what it is, which namespaces there will be, what its words mean; how to remove it all
    sections    namespace by namespace, under the name of the component that wants what follows
    foot        what to try

Every command is what the object itself says, rules are nft's own text; here are only the words between them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_interface
from typing import Final

from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.object import Key, Origin, Word
from kubenetlab.hoststate.rules.rulesets import dialect
from kubenetlab.hoststate.sandbox import Sysctl
from kubenetlab.hoststate.sections import Section, common_settings, sections
from kubenetlab.hoststate.state import Contents, HostState
from kubenetlab.names import run_netns_name

WIDTH: Final = 120

_HEAD = """\
#!/bin/sh
# The lab {lab} by hand: what `kubenetlab up` makes by netlink, as the commands that one would type.
#
#   sh lab.sh          makes it, as root; stops at the first command that fails
#   sh lab.sh down     removes it, also what was made only in part
#
# Needed are iproute2, nftables and procps. Nothing in the machine's own network is touched: everything is in namespaces that are made
# here. For names that begin otherwise, as beside kubenetlab's own lab {lab}: LAB=other sh lab.sh
#
# Services lead to the pods that are ready; in a lab that was not up when this was written, all of them are.
# Left out are hostnames, which live in namespaces of another kind, and programs: where one would run, a remark says what would listen.
# A remark before commands, such as `# fabric`, names the component of the cluster that wants them.
#
# The namespaces, in the order in which they are made, and their addresses:
#
{contents}
#
# What comes again and again:
#
{words}

set -eu
LAB=${{LAB:-{lab}}}

down() {{
    for file in {files}; do
        if [ -e "$file" ] && [ ! -L "$file" ]; then ip netns del "${{file##*/}}"; fi
    done
}}

if [ "${{1:-up}}" = down ]; then
    down
    exit
fi
"""

_WORDS: Final = (
    (
        " type veth ",
        "type veth peer name X netns Y",
        "a cable: one end is here, the other is X in Y; then X is plugged into Y's bridge",
    ),
    (" alias ", "alias '…'", "a remark that `ip link` shows: who wants the link, for whom"),
    (
        "queues 1",
        "numtxqueues 1 numrxqueues 1",
        "one queue is enough; the kernel would make one for each processor",
    ),
    (
        "mcast_snooping 0",
        "mcast_snooping 0",
        "the bridge sends multicast to all its ports, without finding out who listens",
    ),
    (
        "hairpin on",
        "hairpin on",
        "the bridge may send a frame back to where it came from: a pod that reaches itself by its Service",
    ),
    (
        "noprefixroute",
        "scope link noprefixroute",
        "an address that is never the source of what leaves, and brings no route of its own",
    ),
    ("preferred_lft 0", "preferred_lft 0", "the same for an IPv6 address"),
    (" src ", "src ADDRESS", "what this machine itself sends that way bears this address"),
    (
        "bridge-nf-call-iptables=1",
        "net.bridge.bridge-nf-call-iptables=1",
        "what a bridge switches passes the rules, too; where there is no such setting: modprobe br_netfilter",
    ),
    (
        "nodad",
        "nodad",
        "the IPv6 address is used at once, without asking whether somebody else has it",
    ),
    (
        "nud permanent",
        "nud permanent",
        "the neighbour's MAC is written down: nobody has to ask for it",
    ),
    (
        "proto static",
        "proto static",
        "a mark: `ip route show proto static` shows what was made here, and not what the kernel added",
    ),
)
"""(what to look for in the script, how the head shows it, what it means)"""

_SETTINGS = """
# settings NAMESPACE [SETTING…]: those named, then those that every namespace here has, since a new one takes over some of the machine's.
settings() {{
    netns=$1
    shift
{body}}}
"""

_FOOT = """
cat <<EOF
lab $LAB is up; try, and then: sh $0 down
{tries}
EOF
"""


def script(state: HostState, lab: str) -> str:
    """The whole script. `lab` is what the names of its namespaces begin with, where LAB says nothing else."""
    found = list(sections(state))
    common = common_settings(found)
    body = _settings_function(common) if common else ""
    body += "".join(f"{line}\n" for section in found for line in _section(section, common))
    kinds = dict.fromkeys(section.sandbox.netns.partition("/")[0] for section in found)
    head = _HEAD.format(
        lab=lab,
        contents="\n".join(_contents(state, lab, found)),
        words="\n".join(_words(body)),
        files=" ".join(f'/run/netns/"$LAB"_{kind}_*' for kind in kinds),
    )
    return head + body + _FOOT.format(tries="\n".join(f"  {line}" for line in _tries(state, found)))


def _contents(state: HostState, lab: str, found: Iterable[Section]) -> Iterator[str]:
    rows = [
        (
            run_netns_name(lab, section.sandbox.netns),
            section.title,
            ", ".join(_addresses(state[section.sandbox.netns])),
        )
        for section in found
        if not section.sandbox.shares
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for name, title, addresses in rows:
        yield f"#   {name:{widths[0]}}   {title:{widths[1]}}   {addresses}".rstrip()


def _words(body: str) -> Iterator[str]:
    found = [(shown, meaning) for part, shown, meaning in _WORDS if part in body]
    width = max((len(shown) for shown, _ in found), default=0)
    return (f"#   {shown:{width}}   {meaning}" for shown, meaning in found)


def _settings_function(common: Sequence[Sysctl]) -> str:
    regular = [setting.assignment for setting in common if not setting.is_optional]
    optional = [setting.assignment for setting in common if setting.is_optional]
    body = f'    ip netns exec "$netns" sysctl -qw "$@"{_continued(regular, 8)}\n'
    body += f'    ip netns exec "$netns" sysctl -qew{_continued(optional, 8)}\n' if optional else ""
    return _SETTINGS.format(body=body)


def _continued(words: Sequence[str], indent: int = 4) -> str:
    """Words behind a command: one on its line, more on lines of their own."""
    if len(words) < 2:
        return "".join(f" {word}" for word in words)
    lines = textwrap.wrap(
        " ".join(words), WIDTH - indent - len(" \\"), break_long_words=False, break_on_hyphens=False
    )
    return "".join(f" \\\n{' ' * indent}{line}" for line in lines)


def _section(section: Section, common: Sequence[Sysctl]) -> Iterator[str]:
    sandbox, word = section.sandbox, _word(section.sandbox.netns)
    yield ""
    yield f"# === {section.title} ".ljust(WIDTH, "=")
    if sandbox.shares:
        yield f"# hostNetwork: it shares the namespace {_name(sandbox.shares)} and has none of its own."
    else:
        yield f"NS={_name(sandbox.netns)}"
        yield from (
            f"{command}  # hostname: {sandbox.hostname}" for command in sandbox.commands(word)
        )
        yield from _settings(section.settings, common, word)
        for up in section.ups:
            yield from up.commands(word)
        for group in section.groups:
            yield from _remarks([group.origin], section)
            for obj in group.objects:
                yield from obj.commands(word)
        for ruleset in section.rulesets:
            if commands := list(dialect(ruleset.dialect).commands(ruleset.objects)):
                yield from _remarks([ruleset.origin], section)
                yield from (f'ip netns exec "$NS" {command}' for command in commands)
    for program in section.programs:
        yield f"# not run here: {program}"


def _settings(settings: Sequence[Sysctl], common: Sequence[Sysctl], word: Word) -> Iterator[str]:
    shared: set[Key] = {setting.key for setting in common}
    own = [setting for setting in settings if setting.key not in shared]
    if common:
        yield f'settings "$NS"{_continued([setting.assignment for setting in own if not setting.is_optional])}'
    for setting in own:
        if setting.is_optional or not common:
            yield from setting.commands(word)


def _tries(state: HostState, found: Iterable[Section]) -> Iterator[str]:
    """From the last pod to the first, or where no two are, whoever has an address; and the first node's rules."""
    homes = [section.sandbox.netns for section in found if _addresses(state[section.sandbox.netns])]
    pods = [netns for netns in homes if netns.startswith("pod/")]
    places = pods if len(pods) > 1 else homes
    for netns in places[-1:]:
        yield f"ip netns exec {_name(netns)} ping -c 3 {_addresses(state[places[0]])[0]}"
        yield f"ip netns exec {_name(netns)} ip neighbor"
    for netns in [section.sandbox.netns for section in found if section.rulesets][:1]:
        yield f"ip netns exec {_name(netns)} nft list ruleset"


def _remarks(origins: Iterable[Origin | None], section: Section) -> Iterator[str]:
    """Whose the next commands are; whom they are for is said where it is not the section's own subject."""
    return (
        f"# {str(origin).removesuffix(f', for {section.title}')}"
        for origin in origins
        if origin is not None
    )


def _addresses(contents: Contents) -> list[str]:
    found = [ip_interface(obj.address).ip for obj in contents.values() if isinstance(obj, Address)]
    return [str(address) for address in found if not address.is_link_local]


def _word(netns: str) -> Word:
    """How namespaces are called in the section of one."""
    return lambda other: '"$NS"' if other == netns else f'"{_name(other)}"'


def _name(netns: str) -> str:
    return run_netns_name("${LAB}", netns)
