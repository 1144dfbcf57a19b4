"""The suite from Python::

    import suite

    async with suite.connect() as client:
        await client.load_model("smollm2")
        async for chunk in client.generate("smollm2", "Once upon a time"):
            print(chunk.text, end="", flush=True)

What the service refuses is raised as its class of `suite.errors`.
"""

from suite.client.access import connect
from suite.client.generation import Generation, GenerationOptions
from suite.client.session import Client

__all__ = ["Client", "Generation", "GenerationOptions", "connect"]
