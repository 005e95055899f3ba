# Common beginning of the scripts; to be sourced.
#
# It changes to the directory of the checkout and defines the functions `programs` and
# `environment`.
# shellcheck shell=bash
# shellcheck disable=SC2034 # the scripts that source this file use the lists
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${KUBENETLAB_VENV:-.venv}

# Lists of COMMAND=PACKAGE, with the names of Debian's packages:
#   shown        for the built-in lab
#   provisioned  for all labs of a machine
#   tested       for the tests
#   emulated     for the tests on a second kernel
#   contained    for the tests in containers
#   compiled     for the BPF programs
shown=(nft=nftables ip=iproute2 ping=iputils-ping python3=python3)
provisioned=("${shown[@]}" iptables-nft-restore=iptables ipset=ipset bird=bird2
  /usr/lib/cni/bridge=containernetworking-plugins tcpdump=tcpdump curl=curl)
tested=("${shown[@]}" iptables-nft-restore=iptables ipset=ipset bird=bird2 ss=iproute2 ps=procps
  sysctl=procps nsenter=util-linux newuidmap=uidmap tcpdump=tcpdump
  /usr/lib/cni/bridge=containernetworking-plugins)
emulated=(qemu-system-x86_64=qemu-system-x86 busybox=busybox-static depmod=kmod)
contained=(podman=podman runc=runc mmdebstrap=mmdebstrap)
compiled=(clang-14=clang-14 llvm-strip-14=llvm-14)

# install_packages PACKAGE…: install Debian packages as root, or with sudo.
# Recommended packages are left out, and policy-rc.d(8) keeps packages such as bird2 from starting a
# service.
install_packages() {
  local as=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      echo "cannot install packages without root or sudo; please install: $*" >&2
      return 1
    }
    as=(sudo)
  fi
  command -v apt-get >/dev/null || {
    echo "cannot install packages without apt-get; please install: $*" >&2
    return 1
  }
  echo "installing $*"
  local policy=/usr/sbin/policy-rc.d is_ours=
  if [ ! -e $policy ]; then
    is_ours=1
    printf '#!/bin/sh\nexit 101\n' | "${as[@]}" tee $policy >/dev/null
    "${as[@]}" chmod 755 $policy
  fi
  local install=("${as[@]}" env DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q --no-install-recommends "$@")
  local status=0
  "${install[@]}" >/dev/null || {
    "${as[@]}" apt-get update -q >/dev/null && "${install[@]}" >/dev/null
  } || status=$?
  [ -z "$is_ours" ] || "${as[@]}" rm -f $policy
  return $status
}

# programs COMMAND=PACKAGE…: install the packages of the commands that are missing.
programs() {
  local pair missing=()
  for pair in "$@"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

# environment REQUIREMENT: install REQUIREMENT (`.` or `.[dev]`) into the virtual environment, and
# put its commands on the PATH. Installs again only if the requirement or a version has changed.
environment() {
  local stamp="$venv/installed" versions installed
  versions=$(cat pyproject.toml constraints.txt | sha256sum)
  installed=$(cat "$stamp" 2>/dev/null || true)
  if [ "$installed" != "$1 $versions" ] && [ "$installed" != ".[dev] $versions" ]; then
    echo "installing kubenetlab into $venv"
    if [ ! -x "$venv/bin/pip" ]; then
      python3 -c 'import ensurepip' 2>/dev/null || programs kubenetlab-needs-venv=python3-venv
      python3 -m venv "$venv"
    fi
    "$venv/bin/pip" install -q --disable-pip-version-check -c constraints.txt -e "$1"
    echo "$1 $versions" >"$stamp"
  fi
  # With PYTHONDONTWRITEBYTECODE, Python does not write bytecode itself.
  "$venv/bin/python" -m compileall -q kubenetlab
  PATH="$(realpath "$venv")/bin:$PATH:/usr/sbin:/sbin"
  export PATH
}
