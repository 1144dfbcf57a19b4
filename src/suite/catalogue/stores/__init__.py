"""Folders of other programs, whose models are served as they are: they are read, and never written."""

from suite.catalogue.stores.recognition import Store, is_of_a_store, labelled, store_at

__all__ = ["Store", "is_of_a_store", "labelled", "store_at"]
