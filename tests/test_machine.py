"""What a process may use of a machine, read from recorded /proc and /sys trees, and from the real ones."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import anyio
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import suite
from suite import machine
from suite.actors import pipe
from suite.cgroups import Cgroups
from support.cgroups import V2_MOUNT, joining, real_cgroup, topology, v1_mount, written
from support.models import tiny_model
from support.service import serving

MIB = 1 << 20
HUGE = "9223372036854771712\n"
"""What version 1 says for no limit."""

EIGHT_CPUS = topology({"0,4": [0, 4], "1,5": [1, 5], "2,6": [2, 6], "3,7": [3, 7]})
HOST = psutil.virtual_memory().total

# --- cores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"),
    [
        (range(8), "max 100000", machine.Bound(4, "physical cores")),
        ([0, 4], "max 100000", machine.Bound(1, "affinity")),
        ([0, 1, 4], "max 100000", machine.Bound(2, "affinity")),
        (range(8), "300000 100000", machine.Bound(3, "CPU quota in {}/sys/fs/cgroup/cpu.max")),
        (range(8), "250000 100000", machine.Bound(2, "CPU quota in {}/sys/fs/cgroup/cpu.max")),
        (range(8), "20000 100000", machine.Bound(1, "CPU quota in {}/sys/fs/cgroup/cpu.max")),
        (range(8), "400000 100000", machine.Bound(4, "physical cores")),
        ([5], "20000 100000", machine.Bound(1, "CPU quota in {}/sys/fs/cgroup/cpu.max")),
    ],
)
def test_threads_are_the_least_of_cores_affinity_and_quota(
    tmp_path: Path, affinity: range | list[int], quota: str, expected: machine.Bound
) -> None:
    """Hyper-threads of one core are one, and a part of a CPU does not count."""
    cgroup = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2_MOUNT, "sys/fs/cgroup/cpu.max": quota}
    root = written(tmp_path, EIGHT_CPUS | cgroup)
    assert machine.cores(root, affinity) == machine.Bound(expected.value, expected.origin.format(root))


def test_a_quota_of_an_ancestor_counts_in_both_versions(tmp_path: Path) -> None:
    unit = {
        "proc/self/cgroup": "0::/apps.slice/suite.service\n",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/apps.slice/suite.service/cpu.max": "300000 100000\n",
        "sys/fs/cgroup/apps.slice/cpu.max": "200000 100000\n",
    }
    assert machine.cores(written(tmp_path / "v2", EIGHT_CPUS | unit), range(8)).value == 2
    docker = {
        "proc/self/cgroup": "3:cpu,cpuacct:/docker/abc/inner\n0::/\n",
        "proc/self/mountinfo": v1_mount("cpu,cpuacct", "/docker/abc"),
        "sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "50000\n",
    }
    root = written(tmp_path / "v1", EIGHT_CPUS | docker)
    assert machine.cores(root, range(8)) == machine.Bound(
        1, f"CPU quota in {root}/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"
    )


def test_older_names_of_the_topology_and_none_at_all(tmp_path: Path) -> None:
    old = {name.replace("core_cpus_list", "thread_siblings_list"): text for name, text in EIGHT_CPUS.items()}
    assert machine.cores(written(tmp_path / "old", old), range(8)).value == 4
    assert machine.cores(tmp_path / "nothing", [0]).value == 1


def test_the_affinity_of_a_real_process_is_heeded() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        bound = machine.cores()
        assert bound.value == 1
        if len(before) > 1:  # with one, nothing restricts it
            assert bound.origin == "affinity"
    finally:
        os.sched_setaffinity(0, before)


# --- memory -----------------------------------------------------------------------------------------------

V2 = {"proc/self/mountinfo": V2_MOUNT}
V1 = {"proc/self/mountinfo": v1_mount("memory") + V2_MOUNT.replace("/cgroup ", "/cgroup/unified ")}


@pytest.mark.parametrize(
    ("files", "limit", "file"),
    [
        pytest.param(
            V2 | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "104857600\n"},
            100,
            "memory.max",
            id="a container of version 2",
        ),
        pytest.param(
            V2
            | {
                "proc/self/cgroup": "0::/user.slice/a.service\n",
                "sys/fs/cgroup/user.slice/a.service/memory.max": "max\n",
                "sys/fs/cgroup/user.slice/a.service/memory.high": "314572800\n",
                "sys/fs/cgroup/user.slice/memory.max": "209715200\n",
                "sys/fs/cgroup/user.slice/memory.high": "max\n",
            },
            200,
            "user.slice/memory.max",
            id="an ancestor is tighter",
        ),
        pytest.param(
            V2
            | {
                "proc/self/cgroup": "0::/a\n",
                "sys/fs/cgroup/a/memory.max": "314572800\n",
                "sys/fs/cgroup/a/memory.high": "104857600\n",
            },
            100,
            "a/memory.high",
            id="throttled before it is killed",
        ),
        pytest.param(
            V1
            | {
                "proc/self/cgroup": "4:memory:/process/a\n0::/\n",
                "sys/fs/cgroup/memory/process/a/memory.limit_in_bytes": HUGE,
                "sys/fs/cgroup/memory/process/memory.limit_in_bytes": "104857600\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": HUGE,
                "sys/fs/cgroup/unified/cgroup.controllers": "hugetlb\n",
            },
            100,
            "memory/process/memory.limit_in_bytes",
            id="a hybrid, in which version 1 has the memory",
        ),
        pytest.param(
            V1
            | {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": HUGE,
                "sys/fs/cgroup/memory/memory.stat": "cache 5\nhierarchical_memory_limit 104857600\n",
            },
            100,
            "memory/memory.stat",
            id="version 1 tells of ancestors that cannot be seen",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/docker/abc\n",
                "proc/self/mountinfo": v1_mount("memory", "/docker/abc"),
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "104857600\n",
            },
            100,
            "memory/memory.limit_in_bytes",
            id="a container of version 1 sees its own group at the top",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/\n",
                "proc/self/mountinfo": V2_MOUNT.replace(" / ", " /../.. "),
                "sys/fs/cgroup/memory.max": "104857600\n",
            },
            100,
            "memory.max",
            id="a mount of another namespace",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/\n",
                "proc/self/mountinfo": V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/my\\040groups"),
                "sys/fs/my groups/memory.max": "104857600\n",
            },
            100,
            None,
            id="a mount point with a space",
        ),
    ],
)
def test_the_tightest_limit_of_a_group_and_its_ancestors_counts(
    tmp_path: Path, files: dict[str, str], limit: int, file: str | None
) -> None:
    root = written(tmp_path, files)
    found = machine.memory(root)
    assert found.value == limit * MIB
    if file is not None:
        assert found.origin == f"the limit in {root}/sys/fs/cgroup/{file}"
    assert machine.default_memory_limit(root) == machine.Bound(
        int(limit * MIB * 0.8), f"0.8 of {found.origin}"
    )


MEMINFO = {"proc/meminfo": "MemTotal:  1048576 kB\nMemFree:  1024 kB\nMemAvailable:  409600 kB\n"}


@pytest.mark.parametrize(
    ("files", "available"),
    [
        pytest.param({}, None, id="not Linux"),
        pytest.param(MEMINFO, 400, id="no group limits it"),
        pytest.param(
            MEMINFO
            | V2
            | {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{300 * MIB}\n",
                "sys/fs/cgroup/memory.current": f"{250 * MIB}\n",
                "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {20 * MIB}\nactive_file {30 * MIB}\n",
            },
            100,
            id="page cache of the group counts as free",
        ),
        pytest.param(
            MEMINFO
            | V1
            | {
                "proc/self/cgroup": "4:memory:/a\n0::/\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{300 * MIB}\n",
                "sys/fs/cgroup/memory/a/memory.usage_in_bytes": f"{200 * MIB}\n",
                "sys/fs/cgroup/memory/a/memory.stat": f"total_active_file {50 * MIB}\n",
            },
            150,
            id="version 1",
        ),
        pytest.param(
            MEMINFO | V2 | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{300 * MIB}\n"},
            400,
            id="a group that does not say what it uses",
        ),
    ],
)
def test_what_is_available_is_the_least_that_is_left(
    tmp_path: Path, files: dict[str, str], available: int | None
) -> None:
    found = machine.available_memory(written(tmp_path, files))
    assert (None if found is None else found.value) == (None if available is None else available * MIB)


def test_a_limit_over_the_machine_is_warned_of() -> None:
    whole = machine.Bound(4 << 30, "the memory of this machine")
    assert machine.warning_about_limit(4 << 30, whole) is None
    warning = machine.warning_about_limit(5 << 30, whole)
    assert warning is not None and "memory_limit_gb is 5.00 GiB, but the memory of this machine is" in warning


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({}, id="not Linux, or /proc cannot be read"),
        pytest.param({"proc/self/cgroup": "0::/a\n"}, id="nothing is mounted"),
        pytest.param(V2 | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, id="no limit"),
        pytest.param(
            V2 | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "much\n"}, id="not a number"
        ),
        pytest.param(
            V2 | {"proc/self/cgroup": "0::/../other\n", "sys/fs/cgroup/memory.max": "1048576\n"},
            id="a process beside the groups that it can see",
        ),
        pytest.param(
            V1 | {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": HUGE},
            id="the number that stands for none",
        ),
        pytest.param(
            V2 | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max/a": "5\n"}, id="a directory"
        ),
    ],
)
def test_without_a_limit_it_is_the_memory_of_the_machine(tmp_path: Path, files: dict[str, str]) -> None:
    root = written(tmp_path, files)
    assert machine.memory(root) == machine.Bound(HOST, "the memory of this machine")
    assert machine.cores(root, [0]).value == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(group=st.binary(max_size=60), mounts=st.binary(max_size=120), limit=st.binary(max_size=30))
def test_nothing_that_stands_in_these_files_is_an_error(
    tmp_path: Path, group: bytes, mounts: bytes, limit: bytes
) -> None:
    own = tmp_path / "proc/self"
    own.mkdir(parents=True, exist_ok=True)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True, exist_ok=True)
    (own / "cgroup").write_bytes(b"0::/\n4:memory:" + group)
    (own / "mountinfo").write_bytes(V2_MOUNT.encode() + b"35 31 0:32 / / - cgroup " + mounts)
    (tmp_path / "sys/fs/cgroup/memory.max").write_bytes(limit)
    assert 0 < machine.memory(tmp_path).value <= HOST
    assert machine.cores(tmp_path, [0]).value == 1
    Cgroups(tmp_path).out_of_memory_kills()


# --- kills for lack of memory -----------------------------------------------------------------------------


def test_kills_are_counted_by_the_own_group_or_else_by_the_machine(tmp_path: Path) -> None:
    machine_wide = {"proc/vmstat": "nr_free_pages 5\noom_kill 7\n"}
    own = {
        "v2": V2
        | {
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.events": "low 0\nhigh 1\nmax 9\noom 4\noom_kill 3\noom_group_kill 0\n",
        },
        "v1": V1
        | {
            "proc/self/cgroup": "4:memory:/a\n0::/\n",
            "sys/fs/cgroup/memory/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        },
    }
    for version, files in own.items():
        root = written(tmp_path / version, machine_wide | files)
        assert Cgroups(root).out_of_memory_kills() == 3
    assert Cgroups(written(tmp_path / "top", machine_wide)).out_of_memory_kills() == 7
    assert Cgroups(tmp_path / "nothing").out_of_memory_kills() == 0


# --- real processes -----------------------------------------------------------------------------------------


async def test_on_one_cpu_every_model_computes_with_one_thread_whatever_is_configured(
    tmp_path: Path,
) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    os.link(tmp_path / "tiny.gguf", tmp_path / "own.gguf")
    file = tmp_path / "suite.toml"
    file.write_text('[models."own"]\nn_threads = 3\n')
    one = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    async with (
        serving(tmp_path, tmp_path / "data", "--config", str(file), within=one) as service,
        suite.connect(data_dir=tmp_path / "data") as client,
    ):
        status = await client.get_model_status()
        assert status.models is not None
        assert {name: model.n_threads for name, model in status.models.items()} == {"tiny": 1, "own": 1}
        warning = 'models."own".n_threads is 3, but there are CPUs for 1 (affinity)'
        assert warning in service.errors.read_text()
        async with anyio.create_task_group() as tasks:
            for name in status.models:
                tasks.start_soon(partial(client.generate_text, name, "Once", max_tokens=2))


def test_without_proc_a_models_memory_is_its_peak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = pipe.resident_bytes()
    monkeypatch.setattr(pipe, "STATM", tmp_path / "statm")
    assert pipe.resident_bytes() > 0.9 * now > 1 * MIB  # the kernel counts in steps


async def test_suite_config_shows_what_real_groups_and_a_real_affinity_allow(tmp_path: Path) -> None:
    """Skipped where no cgroups of version 1 can be made; the recorded trees above run everywhere."""
    command = [sys.executable, "-m", "suite", "config", "--json", "--data-dir", str(tmp_path)]
    with (
        real_cgroup("memory", {"memory.limit_in_bytes": str(500 * MIB)}) as memory,
        real_cgroup("cpu", {"cpu.cfs_quota_us": "90000"}) as cpu,
    ):
        with anyio.fail_after(40):
            done = await anyio.run_process([*joining(memory, cpu), *command])
        in_force = json.loads(done.stdout)["in_force"]
        assert in_force["threads"] == {"value": 1, "origin": f"CPU quota in {cpu}/cpu.cfs_quota_us"}
        assert in_force["memory_limit_bytes"] == {
            "value": 400 * MIB,
            "origin": f"0.8 of the limit in {memory}/memory.limit_in_bytes",
        }
