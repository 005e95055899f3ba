"""What commands read: options, names, manifests, and completion of what is typed."""
