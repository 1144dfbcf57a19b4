"""Policies that say which model's memory is worth keeping: the order in which models leave when room is needed."""
