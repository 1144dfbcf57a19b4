"""Policies that predict which model will be used next, from the history of usage. They read no database."""
