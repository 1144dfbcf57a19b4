"""A fleet of 1,000 nodes, 100,000 models and 1,000,000 conversations, in virtual time.

    .venv/bin/python benchmarks/scale.py [--quick]

What one node does with what it hears of all others is real: `Peers`, `place` and `Replicas`. The other nodes
are simulated: each has memory for ten models, loads and unloads what it is given, and tells its state once a
virtual second. One node places all requests, 3,000 a second. Four fifths are turns of a conversation, each as
likely as any; the others ask for a model by a Zipf distribution, or for one that nobody had before.

Times are those of a core, without what else ran on it. Prints lines of JSON. Where there is a limit it stands
beside the figure: 1 ms for a decision, the second for what is done once a second, 99 % of turns where their
conversation is. `docs/scale.md` says what follows.
"""

from __future__ import annotations

import gc
import itertools
import random
import resource
import statistics
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from zlib import crc32

import msgspec
from msgspec.structs import replace

from harness import quick, report
from suite.domain.footprint import Footprint
from suite.domain.nodes import Hosted, Nodes, NodeView, Offered
from suite.domain.placement import Wanted, place
from suite.domain.replicas import Add, Replicas, Rule
from suite.messages.presence import PROTOCOL, HostedModel, NodeState, OfferedModel
from suite.node.fleet.peers import Peers

T = TypeVar("T")

GIB: Final = 1 << 30
LOADED = 10
SLOTS = 8
NODES, MODELS, CONVERSATIONS = 1000, 100_000, 1_000_000
REQUESTS_A_SECOND = 3000
SECONDS, QUICK_SECONDS = 20, 5
TURN_SHARE = 0.8
"""The part of the requests that go on with a conversation."""
HOT_SHARE = 0.2
"""The part of all others that ask for a model which nobody had."""
ZIPF = 1.1
DECISION_LIMIT_MS, LANDING = 1.0, 0.99
SECOND_MS, MESSAGE_KB, MEMORY_MB = 1000.0, 1000.0, 1000.0
"""What a second has, a message may have, and a process may be thought to have."""
COUNTED = ("conversation", "loaded", "fits", "evicts", "waits", "refused", "copies_added", "copies_removed")

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(NodeState).decode


def simulated_nodes(draw: random.Random, *, nodes: int, models: int, catalogues: int = 5) -> Nodes:
    """Nodes that have ten models loaded each and no memory left."""
    sizes = {model_name(number): Footprint(draw.randint(1, 16) * GIB // 2) for number in range(models)}
    offers = [
        {id: Offered(sha256=f"of {id}", footprint=size) for id, size in sizes.items()}
        for _ in range(catalogues)
    ]
    ids = list(sizes)

    def hosted(id: str) -> Hosted:
        return Hosted(
            instance_id=id,
            sha256=f"of {id}",
            holds=draw.randint(0, SLOTS),
            slots=SLOTS,
            footprint=sizes[id],
            may_leave=draw.random() < 0.7,
            loss=10 * draw.random(),
        )

    return Nodes(
        NodeView(
            node=f"node{number}",
            limits=Footprint(64 * GIB),
            hosted={id: hosted(id) for id in draw.sample(ids, LOADED)},
            offered=draw.choice(offers),
        )
        for number in range(nodes)
    )


class Node:
    """A simulated node, with memory for ten models of a size."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.models: dict[str, HostedModel] = {}
        self._used_at: dict[str, float] = {}
        self._number = 0
        self._came: list[int] = []

    def serve(self, model_id: str, conversation: int, now: float) -> None:
        """Have a request run, or wait."""
        model = self.models[model_id]
        self.models[model_id] = replace(model, holds=model.holds + 1, may_leave=False)
        self._used_at[model_id] = now
        self._came.append(conversation)

    def end(self, model_id: str) -> None:
        """Have a request end."""
        model = self.models[model_id]
        self.models[model_id] = replace(model, holds=model.holds - 1, may_leave=model.holds == 1)

    def load(self, model_id: str, now: float, *, is_replica: bool = False) -> bool:
        """Load a model, instead of the least recently used if there is no room. Returns whether it did."""
        if len(self.models) >= LOADED:
            idle = [id for id, each in self.models.items() if each.may_leave]
            if not idle:
                return False
            del self.models[min(idle, key=self._used_at.__getitem__)]
        self._used_at[model_id] = now
        self.models[model_id] = HostedModel(
            instance_id=f"{self.name}-{model_id}",
            sha256=digest(model_id),
            is_ready=True,
            slots=SLOTS,
            memory={"ram": GIB},
            may_leave=True,
            is_replica=is_replica,
            load_seconds=10.0,
        )
        return True

    def state(self, now: float) -> NodeState:
        """What it tells next."""
        self._number += 1
        came, self._came = tuple(self._came), []
        return NodeState(
            node=self.name,
            epoch=1,
            number=self._number,
            protocol=PROTOCOL,
            limits={"ram": LOADED * GIB},
            free={"ram": (LOADED - len(self.models)) * GIB},
            models={
                id: replace(each, idle_seconds=0.0 if each.holds else now - self._used_at[id])
                for id, each in self.models.items()
            },
            catalogue="all",
            conversations=came,
        )


class Simulation:
    """One real node among simulated ones."""

    def __init__(self, draw: random.Random, nodes: int, models: int, conversations: int) -> None:
        self._draw = draw
        self._now = 0.0
        self._nodes = {f"node{number}": Node(f"node{number}") for number in range(nodes)}
        self._ids = [model_name(number) for number in range(models)]
        self._weights = list(itertools.accumulate(1 / (1 + rank) ** ZIPF for rank in range(models)))
        self._ends: dict[float, list[tuple[Node, str]]] = {}
        """Which generations end at which moment."""
        self._replicas = Replicas(Rule())
        self.counts: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = {"decision": [], "hear_all": [], "replicas": []}
        self.state_bytes: list[int] = []
        before = memory_bytes()
        self._peers = Peers("node", lambda: self._now)
        offers = {id: OfferedModel(sha256=digest(id), memory={"ram": GIB}) for id in self._ids}
        self.catalogue_bytes = len(encode(offers))
        self._peers.learn_catalogue("all", offers)
        del offers
        self.bytes_of_models = memory_bytes() - before
        self._fill()
        self._homes = self._begun(conversations)
        before = memory_bytes()
        for number, (_, home) in enumerate(self._homes):
            self._peers.note_conversation(hash_of(number), home)
        self.bytes_of_conversations = memory_bytes() - before

    def run(self, seconds: int) -> None:
        """Let so many virtual seconds pass."""
        for _ in range(seconds):
            self._now += 1.0
            for node, model_id in self._ends.pop(self._now, ()):
                node.end(model_id)
            for _ in range(REQUESTS_A_SECOND):
                self._request()
            self._tell()
            self._replicate()

    # --- the beginning --------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Each node has what was asked for before."""
        for node in self._nodes.values():
            while len(node.models) < LOADED:
                if (model_id := self._popular()) not in node.models:
                    node.load(model_id, self._now)
        self._tell()

    def _begun(self, count: int) -> list[tuple[str, str]]:
        """Conversations that were all somewhere: the model and the node of each."""
        hosts: dict[str, list[str]] = {}
        for node in self._nodes.values():
            for id in node.models:
                hosts.setdefault(id, []).append(node.name)
        ids = sorted(hosts)
        homes = []
        for _ in range(count):
            model_id = self._popular()
            model_id = model_id if model_id in hosts else self._draw.choice(ids)
            home = self._draw.choice(hosts[model_id])
            homes.append((model_id, home))
        return homes

    def _asked_for(self) -> str:
        """A popular model, or the one that has become hot."""
        return self._ids[-1] if self._draw.random() < HOT_SHARE else self._popular()

    def _popular(self) -> str:
        return self._ids[bisect(self._weights, self._draw.random() * self._weights[-1])]

    # --- one second after the other -------------------------------------------------------------------------

    def _request(self) -> None:
        is_turn = self._draw.random() < TURN_SHARE
        number = self._draw.randrange(len(self._homes))
        model_id, home = self._homes[number] if is_turn else (self._asked_for(), "")
        wanted = Wanted(
            model_id=model_id,
            conversation_node=self._peers.conversation_node(hash_of(number)) if is_turn else "",
        )
        placed = self._timed("decision", lambda: place(wanted, self._views(), here="node"))
        assert placed is not None
        node = self._nodes[placed.node]
        self.counts[placed.reason] += 1
        if is_turn:
            self.counts["turns"] += 1
            self.counts["landed"] += placed.node == home
        if model_id not in node.models and not node.load(model_id, self._now):
            self.counts["refused"] += 1
            return
        node.serve(model_id, hash_of(number), self._now)
        self._homes[number] = model_id, placed.node
        self._peers.note_conversation(hash_of(number), placed.node)
        self._peers.note_sent(placed.node, model_id)
        end = self._now + self._draw.randint(1, 4)
        self._ends.setdefault(end, []).append((node, model_id))

    def _views(self) -> Nodes:
        return self._peers.views(NodeView(node="node"))

    def _tell(self) -> None:
        messages = [encode(each.state(self._now)) for each in self._nodes.values()]
        self.state_bytes += map(len, messages)

        def hear() -> None:
            for message in messages:
                self._peers.hear(decode(message))

        self._timed("hear_all", hear)

    def _replicate(self) -> None:
        views = self._views()
        decided = self._timed("replicas", lambda: self._replicas.decide(views, here="node", now=self._now))
        for each in decided:
            node = self._nodes[each.node]
            if isinstance(each, Add):
                if each.model_id not in node.models and node.load(each.model_id, self._now, is_replica=True):
                    self.counts["copies_added"] += 1
            elif node.models[each.model_id].may_leave:
                del node.models[each.model_id]
                self.counts["copies_removed"] += 1

    def _timed(self, what: str, call: Callable[[], T]) -> T:
        began = time.thread_time()
        result = call()
        self.seconds[what].append(time.thread_time() - began)
        return result


def model_name(number: int) -> str:
    return f"model-{number:06}"


def digest(model_id: str) -> str:
    return f"{model_id:0>64}"


def hash_of(conversation: int) -> int:
    return crc32(conversation.to_bytes(8)) << 16 | conversation & 0xFFFF


def memory_bytes() -> int:
    """What this process has in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def mean_ms(seconds: list[float]) -> float:
    return statistics.fmean(seconds) * 1e3


def p99_ms(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98] * 1e3


def main(short: bool) -> None:
    simulation = Simulation(random.Random("scale"), NODES, MODELS, CONVERSATIONS)
    gc.freeze()
    simulation.run(QUICK_SECONDS if short else SECONDS)
    counts, seconds = simulation.counts, simulation.seconds
    requests = len(seconds["decision"])
    for name, of in (("p99", p99_ms), ("mean", mean_ms)):
        report(
            f"scale.decision.{name}", of(seconds["decision"]), DECISION_LIMIT_MS, unit="ms", better="lower"
        )
    landed = counts["landed"] / counts["turns"]
    report("scale.conversations.landed", landed, LANDING, unit="of all turns", better="higher")
    for what in ("hear_all", "replicas"):
        report(f"scale.{what}", statistics.median(seconds[what]) * 1e3, SECOND_MS, unit="ms", better="lower")
    sizes = {
        "state": (statistics.fmean(simulation.state_bytes) / 1e3, MESSAGE_KB, "kB"),
        "catalogue": (simulation.catalogue_bytes / 1e6, MEMORY_MB, "MB"),
        "memory.models": (simulation.bytes_of_models / 1e6, MEMORY_MB, "MB"),
        "memory.conversations": (simulation.bytes_of_conversations / 1e6, MEMORY_MB, "MB"),
    }
    for name, (figure, limit, unit) in sizes.items():
        report(f"scale.{name}", figure, limit, unit=unit, better="lower")
    for what in COUNTED:
        report(f"scale.{what}", counts[what], requests, unit="of so many requests", better="higher")


if __name__ == "__main__":
    main(quick(__doc__))
