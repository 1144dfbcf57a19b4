"""Two nodes whose clocks are an hour apart work as one fleet: nothing is decided by the time of another."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import anyio

from suite.bus.embedded import EmbeddedServer
from suite.config import NatsSettings, Settings
from suite.identity import utc_now
from suite.messages.events import Generated, NodeLost
from suite.node.startup import running_node
from support.models import tiny_model
from support.nats import mirrored_nats, operator_of
from support.service import history


def settings(server: EmbeddedServer, directory: Path, name: str) -> Settings:
    own = server.access
    return Settings(
        node=name,
        data_dir=directory / name,
        models_directories=(directory / f"models-{name}",),
        standby=False,
        nats=NatsSettings(url=own.url, user=own.user, password=own.password, inbox_prefix=own.inbox_prefix),
    )


def an_hour_late() -> datetime:
    return utc_now() - timedelta(hours=1)


async def test_nodes_with_clocks_an_hour_apart_serve_each_others_requests(tmp_path: Path) -> None:
    for name in ("box1", "box2"):
        (tmp_path / f"models-{name}").mkdir()
        tiny_model(tmp_path / f"models-{name}" / "common.gguf")
        tiny_model(tmp_path / f"models-{name}" / f"of-{name}.gguf")
    async with (
        mirrored_nats(tmp_path) as server,
        running_node(settings(server, tmp_path, "box1")) as box1,
        running_node(settings(server, tmp_path, "box2"), now=an_hour_late) as box2,
        operator_of(server) as client,
    ):
        with anyio.fail_after(20):
            while not (box1.fleet.others and box2.fleet.others):
                await anyio.sleep(0.02)
        for model_id in ("of-box1", "of-box2", "common") * 6:
            await client.generate_text(model_id, "Once", max_tokens=1)
        events = await history(client)
        served = {(each.data.model_id, each.data.node) for each in events if isinstance(each.data, Generated)}
        assert served >= {("of-box1", "box1"), ("of-box2", "box2")}
        assert len({node for model_id, node in served if model_id == "common"}) == 1, "it is loaded once"
        assert not [each for each in events if isinstance(each.data, NodeLost)]
        assert not box1.fleet.draining and not box2.fleet.draining
