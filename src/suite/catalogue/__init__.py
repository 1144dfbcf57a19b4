"""The models in the model directories: found, inspected, watched, and identified by digest."""

from suite.catalogue.catalogue import Catalogue
from suite.catalogue.model import Changes, Model

__all__ = ["Catalogue", "Changes", "Model"]
