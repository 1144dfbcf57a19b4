"""GGUF files as they lie on disk: what they say of their model, and what that will take."""
