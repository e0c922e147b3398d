"""An in-memory twin of every port, for tests and simulation."""
