"""Commands for objects, compatible with kubectl."""
