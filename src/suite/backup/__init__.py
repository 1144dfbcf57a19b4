"""Backups of the log: taken while the service runs, checked by folding them, and restored where none is."""
