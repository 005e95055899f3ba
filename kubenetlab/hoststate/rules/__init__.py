"""Rules as data, one module for each rule backend."""
