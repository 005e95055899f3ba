"""Text of manifests: YAML and JSON documents, and typed objects from them."""
