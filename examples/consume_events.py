"""Everything that happened, and happens, in plain nats-py: sequence, type and body of each event.

    pip install nats-py
    python examples/consume_events.py DATA_DIR [COUNT]

DATA_DIR is the one of `suite serve`, where `connection.json` says how to reach it. After COUNT events it
ends, otherwise it goes on for ever. The server remembers what was acknowledged under the durable name, so
that the next run goes on where this one stopped.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path

import nats

DURABLE = "example-consumer"
BATCH = 100


async def main(data_dir: Path, count: int | None) -> None:
    found = json.loads((data_dir / "connection.json").read_text())
    root = found.get("subject_root", "suite")
    # Who reads the log is another user than who sends actions.
    reader = found.get("reader", found)
    # By default it gives up after 60 attempts: a restart of the service may take longer.
    nc = await nats.connect(
        found["url"], user=reader.get("user"), password=reader.get("password"), max_reconnect_attempts=-1
    )
    # suite.event.> is everything; suite.event.usage.> would be the generations alone.
    events = await nc.jetstream().pull_subscribe(f"{root}.event.>", durable=DURABLE, stream=root.upper())
    while count is None or count > 0:
        try:
            messages = await events.fetch(BATCH if count is None else min(BATCH, count), timeout=2)
        except TimeoutError:
            continue  # nothing happened meanwhile, or the service is being started again
        for message in messages:
            headers = message.headers or {}
            print(message.metadata.sequence.stream, headers["ce-type"], message.data.decode(), flush=True)
            # Only now: what is not acknowledged comes again. headers["ce-id"] tells what came twice.
            await message.ack()
        if count is not None:
            count -= len(messages)
    await nc.drain()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: consume_events.py DATA_DIR [COUNT]")
    with suppress(KeyboardInterrupt):
        asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
