"""Constrained generation: grammars run in a process of their own."""
