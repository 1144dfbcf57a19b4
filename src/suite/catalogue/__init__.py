"""The models that lie in the model directories: found, described, watched, and told apart by digest."""

from suite.catalogue.catalogue import Catalogue
from suite.catalogue.model import Changes, Model

__all__ = ["Catalogue", "Changes", "Model"]
