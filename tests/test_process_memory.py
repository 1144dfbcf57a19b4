"""The memory of a process and its helpers: from recorded files, and of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from suite.process_memory import ProcessMemory, process_memory
from support.cgroups import written

MIB = 1 << 20

HELD = """
import subprocess, sys
held = b"x" * (40 << 20)
command = "held = b'x' * (30 << 20); print('held', flush=True); input()"
helper = subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
helper.stdout.readline()
print("held", flush=True)
input()
"""
"""A process that holds 40 MiB, with a helper that holds 30 MiB."""


def test_files_of_helpers_do_not_count_again(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        {
            "7/status": "Name:\tm\nVmHWM:\t  900 kB\nRssAnon:\t300 kB\nRssFile:\t400 kB\nRssShmem:\t8 kB\n",
            "7/task/7/children": "",
            "7/task/8/children": "9 ",
            "9/status": "RssAnon:\t  50 kB\nRssFile:\t  60 kB\n",
            "9/smaps_rollup": "00-ff ---p 00:00 0 [rollup]\nPss_Anon:  20 kB\n",
            "9/task/9/children": "10",
            "10/status": "RssAnon:\t  5 kB\n",  # its kernel has no shares
        },
    )
    assert process_memory(7, root) == ProcessMemory(
        anonymous_bytes=(308 + 20 + 5) << 10, file_bytes=400 << 10, peak_bytes=(900 + 25) << 10
    )
    assert process_memory(99, root) == ProcessMemory()


def test_a_real_process_counts_with_its_helper() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        memory = process_memory(process.pid)
        process.communicate(b"\n")
    assert 70 * MIB < memory.anonymous_bytes < 110 * MIB
    assert memory.resident_bytes <= memory.peak_bytes
    assert process_memory(os.getpid()).file_bytes > 0
