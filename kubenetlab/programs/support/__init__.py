"""What several programs need: arguments, HTTP, TLS, and how they end."""
