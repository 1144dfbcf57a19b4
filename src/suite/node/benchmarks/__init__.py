"""Benchmarks of models: jobs of a node, which it goes on with after a restart (ADR 72)."""
