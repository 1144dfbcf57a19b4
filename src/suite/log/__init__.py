"""The log: all events in one JetStream stream, each appended once and read without gaps."""

from suite.log.attempts import Attempts
from suite.log.log import Log
from suite.log.publisher import Expectation
from suite.log.reader import Unreadable, told

__all__ = ["Attempts", "Expectation", "Log", "Unreadable", "told"]
