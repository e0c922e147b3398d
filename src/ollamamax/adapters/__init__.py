"""One file, one outside thing. Adapters do not import each other."""
