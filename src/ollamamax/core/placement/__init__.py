"""Where models ought to run, how many replicas of each, and what one node does next to get there."""
