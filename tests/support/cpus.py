"""Which CPUs a worker of the tests has.

Steps of llama.cpp whose threads wait for a CPU take many times as long as alone, since the other threads spin
meanwhile. So workers that run at the same time get CPUs of their own, and so do the services that they start.
Where there are more workers than CPUs, several share one: then a model has a thread, and waits for none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

ALL_CPUS = frozenset(os.sched_getaffinity(0))


def keep_to_own_cpus() -> None:
    """Have a worker, and what it starts, use its share of the CPUs. Nothing if it is the only one."""
    name, count = os.environ.get("PYTEST_XDIST_WORKER"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if name is not None:
        step = min(count, len(ALL_CPUS))
        os.sched_setaffinity(0, sorted(ALL_CPUS)[int(name.removeprefix("gw")) % step :: step])


@contextmanager
def every_cpu() -> Iterator[None]:
    """Use all CPUs in this block: for tests of how they are shared."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, ALL_CPUS)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)
