"""Code shared by several programs: arguments, HTTP, TLS, and the end of a program."""
