"""The optional parts of the distribution: a client needs none of them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final, Literal, TypeAlias

from suite.errors import NotInstalled

Extra: TypeAlias = Literal["serve", "http", "hub", "otlp", "zmq", "top"]

_MODULES: Final[dict[Extra, tuple[str, ...]]] = {
    "serve": ("aiosqlite", "ddsketch", "jinja2", "llama_cpp", "psutil", "uvloop", "watchfiles", "yaml"),
    "http": ("httptools", "opentelemetry.sdk", "prometheus_client", "starlette", "uvicorn", "uvloop"),
    "hub": ("huggingface_hub",),
    "otlp": ("opentelemetry.exporter.otlp.proto.http", "opentelemetry.exporter.otlp.proto.grpc"),
    "zmq": ("zmq",),
    "top": ("textual",),
}


def require(extra: Extra, doing: str) -> None:
    """Check that an extra is installed, without importing its modules. ``doing`` is what needs it.

    The packages that a module is in are imported: those of ``opentelemetry.exporter``.

    Raises NotInstalled, with the command that installs it.
    """
    missing = [module for module in _MODULES[extra] if not _is_installed(module)]
    if missing:
        raise NotInstalled(
            f"{doing} needs the extra [{extra}], of which {missing[0]} is not installed:"
            f" pip install 'model-manager-suite[{extra}]'"
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that it is in
        return False
