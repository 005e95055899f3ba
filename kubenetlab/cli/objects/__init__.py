"""Commands for objects, as kubectl has them."""
