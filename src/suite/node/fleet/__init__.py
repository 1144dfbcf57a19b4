"""Several nodes as one fleet: what they know of each other, and who serves which request (ADR 57)."""
