"""The async shells: read ports, step core, run its effects."""
