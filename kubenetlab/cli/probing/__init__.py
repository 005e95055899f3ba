"""Commands that send packets or read the kernel: ping, check, inspect, diff."""
