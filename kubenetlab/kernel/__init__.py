"""Making it so: the only package that talks to Linux."""
