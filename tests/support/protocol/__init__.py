"""A model of the queue's protocol: the product's own functions in any interleaving, against a small reference."""
