"""A fleet of local GGUF models behind NATS, with every event in one log.

Connect to a running service, and use its models::

    import asyncio
    import suite

    async def main() -> None:
        async with suite.connect() as client:
            async for chunk in client.generate("SmolLM2-135M-Instruct.Q4_1", "Once upon a time"):
                print(chunk.text, end="", flush=True)

    asyncio.run(main())

`connect` finds the service, `Client` has a method for each action, and every refusal is raised as a class of
`suite.errors`. The command line is `suite`, and `suite serve` starts a service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from suite.version import __version__ as __version__

if TYPE_CHECKING:
    from suite.client import Client, Generation, GenerationOptions, connect

__all__ = ["Client", "Generation", "GenerationOptions", "connect"]


def __getattr__(name: str) -> object:
    # Imported when asked for: processes of the suite that are no clients do not pay for it.
    if name in __all__:
        import suite.client

        return getattr(suite.client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # for `help(suite)` and completion
