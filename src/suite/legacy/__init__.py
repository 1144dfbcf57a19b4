"""Compatibility with the older services: their clients, their error messages and their database."""
