"""What runs in pods: built-in programs, commands of this machine, CoreDNS, and their logs."""
