# What the scripts begin with; to be sourced. Gives `programs` and `environment`; the checkout is the working directory.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${KUBENETLAB_VENV:-.venv}
# Commands and their Debian packages: what the built-in lab takes, what a machine is given to run labs, what the tests call, what the
# second kernel takes, what makes the programs of BPF, and what builds and runs containers. No recommendations are installed: nothing here may start a service.
shown=(nft=nftables ip=iproute2 ping=iputils-ping python3=python3)
provisioned=("${shown[@]}" iptables-nft-restore=iptables ipset=ipset tcpdump=tcpdump curl=curl)
tested=("${shown[@]}" iptables-nft-restore=iptables ipset=ipset ss=iproute2 ps=procps sysctl=procps nsenter=util-linux newuidmap=uidmap tcpdump=tcpdump)
emulated=(qemu-system-x86_64=qemu-system-x86 busybox=busybox-static depmod=kmod)
contained=(podman=podman runc=runc debootstrap=debootstrap)
compiled=(clang-14=clang-14 llvm-strip-14=llvm-14)

# programs COMMAND=PACKAGE…: installs the Debian packages of the commands that are missing, when root or sudo can.
programs() {
  local pair missing=()
  for pair in "$@"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  local as=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "please install: ${missing[*]} (neither root nor sudo here)" >&2; return 1; }
    as=(sudo)
  fi
  command -v apt-get >/dev/null || { echo "please install: ${missing[*]} (no apt-get here)" >&2; return 1; }
  echo "installing ${missing[*]}"
  "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null || {
    "${as[@]}" apt-get update -q >/dev/null
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
  }
}

# environment WHAT: the checkout's virtual environment with WHAT (`.` or `.[dev]`) installed, made anew only when that changed.
environment() {
  local stamp="$venv/installed" versions have
  versions=$(cat pyproject.toml constraints.txt | sha256sum)
  have=$(cat "$stamp" 2>/dev/null || true)
  if [ "$have" != "$1 $versions" ] && [ "$have" != ".[dev] $versions" ]; then
    echo "installing kubenetlab into $venv"
    if [ ! -x "$venv/bin/pip" ]; then
      python3 -c 'import ensurepip' 2>/dev/null || programs kubenetlab-needs-venv=python3-venv
      python3 -m venv "$venv"
    fi
    "$venv/bin/pip" install -q --disable-pip-version-check -c constraints.txt -e "$1"
    echo "$1 $versions" >"$stamp"
  fi
  "$venv/bin/python" -m compileall -q kubenetlab # bytecode is not written by itself where PYTHONDONTWRITEBYTECODE is set
  PATH="$(realpath "$venv")/bin:$PATH:/usr/sbin:/sbin"
  export PATH
}
