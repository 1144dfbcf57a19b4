"""The log takes no event, or does not have one any more; read models and backups of it."""

from __future__ import annotations

from suite.errors.base import SuiteError
from suite.errors.connection import Unavailable


class TraceNotFound(SuiteError):
    """No span that is kept here and no event of the log belongs to this trace."""

    code = "trace_not_found"
    status = 404


class Conflict(SuiteError):
    """Somebody else wrote to this aggregate first: read it again and decide again."""

    code = "conflict"
    status = 409


class UnknownOutcome(SuiteError):
    """The connection was lost while storing an event: look for the event by its id, or send it again."""

    code = "unknown_outcome"
    status = 504


class LogNotWritable(SuiteError):
    """The log takes no events at the moment, so nothing was stored: the service's health says why."""

    code = "log_not_writable"
    status = 507


class LogGone(Unavailable):
    """The stream that holds the log was deleted, or is another one now: start the node again."""

    code = "log_gone"


class NoLeader(Unavailable):
    """Too few servers of the log are there, so nothing was stored: the service's health names the missing."""

    code = "no_leader"


class NotADecision(SuiteError):
    """This event decides nothing about memory: explain a model to see the events that do."""

    code = "not_a_decision"
    status = 400


class EventGone(SuiteError):
    """This event is not in the log any more: it has expired, or was removed."""

    code = "event_gone"
    status = 410


class TimeBeforeLog(SuiteError):
    """The log knows nothing of this time: ask for one after its beginning."""

    code = "time_before_log"
    status = 404


class ReadModelBehind(SuiteError):
    """The read model does not have this event yet: try again, or ask without min_seq."""

    code = "read_model_behind"
    status = 503


class ReadModelUnavailable(SuiteError):
    """The read model cannot be read: the service's health says why."""

    code = "read_model_unavailable"
    status = 503


class RebuildWouldLose(SuiteError):
    """The log has lost events that the read model has: rebuild with force to have what the log has."""

    code = "rebuild_would_lose"
    status = 409


class BackupUnusable(SuiteError):
    """The file is no backup of the log, or it was cut off or altered: take another one."""

    code = "backup_unusable"


class BackupDiffers(SuiteError):
    """The read models of the service are not those that its backup gives: see `suite health`."""

    code = "backup_differs"


class LogExists(SuiteError):
    """There is a log already, and nothing was changed: restore into an empty directory or another NATS."""

    code = "log_exists"
