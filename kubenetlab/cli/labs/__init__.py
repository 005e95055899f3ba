"""Commands for labs: up, apply, plan, down, list, break."""
