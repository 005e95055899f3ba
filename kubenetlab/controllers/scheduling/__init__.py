"""The scheduler, and evictions by taints."""
