"""A model manager's client: choose a model, load it, chat with it, ask what will be needed next, unload it.

    suite serve --models-dir ~/models &
    python examples/model_manager.py [DATA_DIR]

DATA_DIR is the one of `suite serve`; its `connection.json` says how to reach it. Left out: the usual one.
"""

from __future__ import annotations

import asyncio
import sys

import suite
from suite.errors import SuiteError

QUESTIONS = ("What is photosynthesis? Answer in one sentence.", "Why does it matter?")


async def main(data_dir: str | None) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        for model in (await client.list_models()).models:
            print(f"{model.model_id}: {model.architecture}, {model.quantization}, {model.status}")

        # One that is loaded is preferred to one that is not, then the most trusted.
        choice = await client.select_model("chat")
        loaded = await client.load_model(choice.model_id)
        print(f"\n{loaded.message} after {loaded.load_ms:.0f} ms, {loaded.resident_bytes / 2**20:.1f} MiB")

        messages: list[dict[str, str]] = []
        for question in QUESTIONS:
            print(f"\n> {question}")
            messages.append({"role": "user", "content": question})
            answer = client.generate(
                loaded.model_id, messages=messages, max_tokens=64, conversation_id="model-manager-example"
            )
            async for chunk in answer:  # leaving the loop early cancels on the server
                print(chunk.text, end="", flush=True)
            reply = answer.reply
            # The whole chat is sent each time; what is still in memory is not computed again.
            messages.append({"role": "assistant", "content": reply.text})
            print(f"\n[{reply.usage.completion_tokens} tokens, {reply.usage.reused_tokens} reused]")

        # With min_seq the answer counts what was just generated, though it comes from a read model.
        predicted = await client.predict_models(min_seq=reply.seq)
        print(f"\nlikely to be used next: {', '.join(predicted.predicted_models)} ({predicted.policy})")

        unloaded = await client.unload_model(loaded.model_id)
        print(f"{unloaded.message}, {unloaded.freed_bytes / 2**20:.1f} MiB freed")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
    except SuiteError as error:  # each cause has its class and its code
        sys.exit(f"error {error.code}: {error.message}")
