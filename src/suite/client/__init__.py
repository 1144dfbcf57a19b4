"""The Python client of the suite::

    import suite

    async with suite.connect() as client:
        await client.load_model("SmolLM2-135M-Instruct.Q4_1")
        async for chunk in client.generate("SmolLM2-135M-Instruct.Q4_1", "Once upon a time"):
            print(chunk.text, end="", flush=True)

Errors of the service are raised as classes of `suite.errors`.
"""

from suite.client.access import connect
from suite.client.generation import Generation, GenerationOptions
from suite.client.session import Client

__all__ = ["Client", "Generation", "GenerationOptions", "connect"]
