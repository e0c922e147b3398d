"""Which models are in this node's memory: fit, load, evict, keep alive, restart."""
