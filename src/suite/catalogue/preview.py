"""Says which id a file will have, without a word to the service that gives it."""

from __future__ import annotations

import os
from pathlib import Path

from suite import data_directory
from suite.catalogue.directories import Directories
from suite.catalogue.ids import Ids
from suite.config import Settings


def id_of(path: Path, directory: Path, settings: Settings) -> str | None:
    """The id of a model's file for a service with these settings that serves `directory`, too.

    None if it would not serve the file. Only reads. Blocks.
    """
    served = list(settings.models_directories)
    if not any(directory.absolute().is_relative_to(each.absolute()) for each in served):
        served.append(directory)
    directories = Directories(served, Ids(settings.data_dir / data_directory.IDS), settings.follow_links)
    listing = directories.listing(settings.models)
    place = Path(os.path.abspath(path))  # noqa: PTH100
    return next((id for id, file in listing.files.items() if file.path == place), None)
