"""A fleet of local GGUF models behind NATS, with every fact in one log."""

__version__ = "0.1.0"
