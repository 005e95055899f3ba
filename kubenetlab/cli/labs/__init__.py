"""Commands for whole labs: up, apply, plan, down, list, break, heal."""
