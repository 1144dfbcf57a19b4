"""The log: every fact in one JetStream stream, appended once and read without gaps."""

from suite.log.log import Log
from suite.log.publisher import Expectation

__all__ = ["Expectation", "Log"]
