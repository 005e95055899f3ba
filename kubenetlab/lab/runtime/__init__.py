"""Containers of pods: built-in programs, commands of this machine, CoreDNS, limits and logs."""
