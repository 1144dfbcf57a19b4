"""The log: every fact in one JetStream stream, appended once and read without gaps."""

from suite.log.delivery import Expectation
from suite.log.log import Log

__all__ = ["Expectation", "Log"]
