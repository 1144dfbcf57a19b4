"""Ollama's API: ``/api/chat``, ``/api/generate``, ``/api/tags`` and what else its clients ask for."""
