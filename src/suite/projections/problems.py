"""What can come between a read model and the log, and what to do, in words for operators."""

from __future__ import annotations

from pathlib import Path

from suite.projections.connection import is_outside
from suite.projections.file_lock import InUse


def without_log(name: str, why: str) -> str:
    """The log cannot be reached, or is gone."""
    return (
        f"the read model {name} cannot follow the log ({why}): queries are answered from what there is, and "
        "it follows again by itself"
    )


def without_file(name: str, path: Path, error: Exception) -> str:
    """The file cannot be written, or the fold fails."""
    if isinstance(error, InUse):
        return (
            f"the read model {name} cannot be written: {path} is in use by another process; give this one a "
            "path of its own (sqlite_db_path), or stop the other"
        )
    if is_outside(error):
        return (
            f"the read model {name} cannot be written ({error}): see to space and rights of {path}; nothing "
            "is lost, it follows the log again by itself"
        )
    return (
        f"the read model {name} does not go on ({error!r}), although it was folded anew: nothing is lost, "
        f"please report this; `suite rebuild {name}` folds it anew once more"
    )


def foreign(path: Path, kept: Path) -> str:
    """Somebody else's database was where the file belongs."""
    return (
        f"{path} was not written by this service: it is kept as {kept}; `suite import-legacy` brings the "
        "rows of an older service's database into the log"
    )
