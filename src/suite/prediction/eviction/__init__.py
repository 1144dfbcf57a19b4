"""Policies that say in which order models leave when room is needed."""
