"""Grammars, followed in a process of their own."""
