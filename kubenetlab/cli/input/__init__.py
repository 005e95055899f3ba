"""Input of commands: options, object names, manifests, and shell completion."""
