"""Takes from a process, by what the kernel offers, every right that it does not need (ADR 68)."""
