"""Folders of other programs that models are served from as they are: they are only read, never written."""

from suite.catalogue.stores.store import Store, StoredModel
from suite.catalogue.stores.recognition import store_at

__all__ = ["Store", "StoredModel", "store_at"]
