"""The environment variables of the suite: one for each setting outside ``[models]``, and some others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from suite.config.layers import PREFIX, fields, suggestion, variable
from suite.config.settings import Settings

OTHERS: Final = frozenset(
    {
        "SUITE_NATS_READER_USER",  # of clients: `suite.client.access`
        "SUITE_NATS_READER_PASSWORD",
        "SUITE_DEBUG",
        "SUITE_SUITE_PASSWORD",  # of a nats-server with the configuration in deploy/nats
        "SUITE_OPERATOR_PASSWORD",
        "SUITE_CLIENT_PASSWORD",
        "SUITE_CONSUMER_PASSWORD",
        "SUITE_MIRROR_PASSWORD",
        "SUITE_TEST_MODELS",  # of the tests and benchmarks
    }
)
"""What is read from the environment and is no setting of a node."""

_KUBERNETES: Final = re.compile(
    r"SUITE_(\w+_)?(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=.*|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=.*|PORT=\w+://.*)",
    re.DOTALL,
)
"""What Kubernetes sets in each container where there is a Service with the name `suite`, or `suite-...`."""


def given(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables with the suite's prefix that have a value and were not set by Kubernetes."""
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(PREFIX) and value and not _KUBERNETES.fullmatch(f"{name}={value}")
    }


def unknown(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The names of given variables that nothing reads, each with a suggestion as the end of a sentence."""
    known = {variable(key) for key, _ in fields(Settings)} | OTHERS
    for name in sorted(given(environ).keys() - known):
        yield name, suggestion(name, known, prefix=PREFIX)
