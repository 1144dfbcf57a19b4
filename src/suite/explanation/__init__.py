"""Turns what the log says about memory into sentences: pure functions of events (ADR 46)."""
