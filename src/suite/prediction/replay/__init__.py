"""Runs a history through the deciders of the service in virtual time, to compare policies and budgets."""
