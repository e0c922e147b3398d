"""Where a node remembers what operators told it."""
