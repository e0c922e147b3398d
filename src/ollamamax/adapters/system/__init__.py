"""Clock, dice, memory, locks."""
