"""Metrics, logs, traces, audit."""
