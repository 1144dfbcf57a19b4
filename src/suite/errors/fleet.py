"""A node is gone, is leaving, or is not the only one of its name."""

from __future__ import annotations

from suite.errors.base import SuiteError


class NodeLost(SuiteError):
    """The node stopped answering: send the request again; what has an id is done only once."""

    code = "node_lost"
    status = 504


class NodeNotFound(SuiteError):
    """No node of this name is there: `suite health` shows those that are."""

    code = "node_not_found"
    status = 404


class NodeStopping(SuiteError):
    """The node is shutting down: send the request to another one, or again when it is back."""

    code = "node_stopping"
    status = 503


class Fenced(SuiteError):
    """Another process has taken over this node's name: this one stops."""

    code = "fenced"
    status = 409


class NodeNameTaken(SuiteError):
    """Another process of this node name answers: choose another --node, or pass --take-over."""

    code = "node_name_taken"
    status = 409
