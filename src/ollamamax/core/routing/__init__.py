"""Which engine answers."""
