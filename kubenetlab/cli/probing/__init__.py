"""Commands that send packets or compare rules: ping, check, inspect, diff."""
