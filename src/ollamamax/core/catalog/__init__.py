"""What the cluster agrees on: records, commands, and the pure step from one to the next."""
