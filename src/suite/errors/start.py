"""A service or a command does not start: something is missing, taken or wrong on this machine."""

from __future__ import annotations

from suite.errors.base import SuiteError


class PortTaken(SuiteError):
    """The port is in use: choose another, or leave it out and a free one is taken."""

    code = "port_taken"


class DataDirUnusable(SuiteError):
    """The data directory cannot be written: choose another with --data-dir or mend its rights."""

    code = "data_dir_unusable"


class DataDirInUse(SuiteError):
    """Another suite serves from this data directory: stop it, or choose another with --data-dir."""

    code = "data_dir_in_use"
    status = 409


class ServeFailed(SuiteError):
    """The service did not start: the message has its last output."""

    code = "serve_failed"


class DependencyMissing(SuiteError):
    """A service that this one needs does not answer: start it, or do not wait for dependencies."""

    code = "dependency_missing"
    status = 503


class NotInstalled(SuiteError):
    """A part that is not installed is needed: the message has the command that installs it."""

    code = "not_installed"


class ServerNotFound(SuiteError):
    """There is no nats-server 2.12 or newer on the PATH: install model-manager-suite[serve]."""

    code = "server_not_found"


class ClusterFileUnusable(SuiteError):
    """The cluster file cannot be read or written: `suite cluster create` makes one."""

    code = "cluster_file_unusable"


class OpensslNotFound(SuiteError):
    """The program openssl, which makes a cluster's key, is missing: install it, or run this elsewhere."""

    code = "openssl_not_found"


class LogOfOtherKind(SuiteError):
    """The log in the data directory is a single server's, and a cluster is to be joined, or the reverse."""

    code = "log_of_other_kind"


class ServerUnsuitable(SuiteError):
    """The NATS server lacks something that the log needs."""

    code = "server_unsuitable"


class InvalidConfiguration(SuiteError):
    """The configuration is wrong: the message has the path to the value."""

    code = "invalid_configuration"
    status = 400


class LegacyDatabaseUnusable(SuiteError):
    """The file is not a model_evaluation.db of an older service, or cannot be read."""

    code = "legacy_database_unusable"
    status = 422
