"""Who is there: suspicion, the backbone, and facts as deltas. Pure."""
