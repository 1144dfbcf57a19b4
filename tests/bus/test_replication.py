"""What is known of a stream's servers, and what of it could be lost, from what its leader says."""

from __future__ import annotations

import pytest

from suite.bus.jetstream import StreamCluster, StreamInfo, StreamReplica
from suite.bus.replicas import Replication


def replica(name: str, *, current: bool = True, offline: bool = False, silent: float = 0.5) -> StreamReplica:
    return StreamReplica(name=name, current=current, offline=offline, active=int(silent * 1e9))


def replication(
    *replicas: StreamReplica, number: int = 3, wanted: int = 3, leader: str = "n1"
) -> Replication:
    cluster = StreamCluster(name="c", leader=leader, replicas=replicas)
    config = {"name": "SUITE", "num_replicas": number}
    return Replication.of(StreamInfo(config=config, cluster=cluster), wanted=wanted)


def test_three_that_are_there_survive_the_loss_of_one() -> None:
    found = replication(replica("n2"), replica("n3"))
    assert found.survives_loss and found.problem is None
    assert found.current == ("n1", "n2", "n3") and found.missing == ()


@pytest.mark.parametrize(
    "gone",
    [replica("n3", offline=True), replica("n3", current=False), replica("n3", silent=9.0)],
    ids=["offline", "catching up", "silent"],
)
def test_without_one_of_three_the_loss_of_another_is_not_survived(gone: StreamReplica) -> None:
    found = replication(replica("n2"), gone)
    assert not found.survives_loss and found.has_leader
    assert found.problem is not None and "n3" in found.problem and "would not survive" in found.problem


def test_a_leader_that_has_lost_the_others_stores_nothing_whatever_it_believes() -> None:
    found = replication(replica("n2", silent=9.0), replica("n3", silent=9.0))
    assert not found.has_leader
    assert found.problem is not None and "has no leader and stores nothing" in found.problem


def test_without_a_leader_all_its_servers_are_named() -> None:
    found = replication(*map(replica, ("n1", "n2", "n3")), leader="")
    assert not found.has_leader and not found.survives_loss
    assert found.problem is not None and "n1, n2, n3" in found.problem


def test_one_of_five_may_be_missing_and_another_be_lost() -> None:
    others = [replica(name) for name in ("n2", "n3", "n4")]
    found = replication(*others, replica("n5", offline=True), number=5, wanted=5)
    assert found.survives_loss
    assert found.problem is not None and "would not survive" not in found.problem


def test_fewer_replicas_than_wanted_are_a_problem_and_more_are_none() -> None:
    found = replication(number=1, wanted=3)
    assert (
        found.problem is not None and "1 of 3 replicas" in found.problem and "the loss of n1" in found.problem
    )
    assert replication(replica("n2"), replica("n3"), number=3, wanted=1).problem is None


def test_a_server_alone_is_no_problem_unless_more_is_wanted() -> None:
    alone = StreamInfo(config={"name": "SUITE", "num_replicas": 1})
    found = Replication.of(alone, wanted=1)
    assert found.has_leader and not found.survives_loss and found.problem is None
    asked = Replication.of(alone, wanted=3)
    assert asked.problem is not None and "NATS is a single server" in asked.problem
