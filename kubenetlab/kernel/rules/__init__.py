"""Rules in a network namespace: one module for each rule backend loads and lists them."""
