"""Which models are in this node's memory."""
