"""Objects and annotations of CNI plugins that are no CustomResourceDefinitions."""
