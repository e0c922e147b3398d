"""The pure tier: no await, clock, dice, file, socket or log. Standard library and msgspec only."""
