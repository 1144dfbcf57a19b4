"""Messages for operators: why a read model cannot follow the log or write its file, and what to do."""

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
    """The file cannot be written, or folding fails."""
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


def of_another_log(path: Path, kept: Path) -> str:
    """The stream was deleted and created again."""
    return (
        f"{path} is of another log, for the stream was made anew: it is kept as {kept.name}, and the read "
        "model begins again"
    )


def longer_than_the_log(path: Path, kept: Path, seq: int, last_seq: int) -> str:
    """The log has lost its newest events."""
    return (
        f"the log has lost events: it ends at event {last_seq}, and {path} was at event {seq}; that file is "
        f"kept as {kept.name}, and the read model is rebuilt from what there is: restore the store of NATS "
        "from a backup if there is one"
    )


def more_than_the_log(path: Path, kept: Path, due: int, found: int) -> str:
    """A file that an older version wrote contains events that the log has lost."""
    return (
        f"the log has lost events: it has {found} of the {due} that are in {path}, which an older version "
        f"wrote; that file is kept as {kept.name}, and the read model is rebuilt from what there is"
    )


def would_lose(name: str, due: int, lost: int) -> str:
    """A rebuilt read model would contain fewer events than the current one."""
    return (
        f"the read model {name} has {due} events that have not expired, and the log has lost {lost} of them: "
        "it stays as it is; restore the store of NATS from a backup, or rebuild with `--force` (field force) "
        "to have what the log has; the file that is there is then kept under another name"
    )


def foreign(path: Path, kept: Path) -> str:
    """A database that this service did not write is at the path of the file."""
    return (
        f"{path} was not written by this service: it is kept as {kept}; `suite import-legacy` brings the "
        "rows of an older service's database into the log"
    )
