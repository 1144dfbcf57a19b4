"""The files that any Python process reads: the interpreter, libraries, what the system tells."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LIBRARIES: Final = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/local/cuda",
    "/opt/intel",
    "/opt/rocm",
    "/nix/store",
    "/gnu/store",
)
_SYSTEM: Final = (
    "/usr/share",
    "/proc",  # of other processes no memory, no variables and no files: Landlock forbids it as ptrace
    "/sys",
    "/run/systemd/resolve",
    "/etc/OpenCL",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/pki",
    "/etc/resolv.conf",
    "/etc/ssl",
    "/etc/vulkan",
)
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_OTHER_LIBRARIES: Final = ("LD_LIBRARY_PATH", "LLAMA_CPP_LIB_PATH", "CUDA_HOME", "CUDA_PATH", "ROCM_PATH")
_CERTIFICATES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_is_loader: Final = re.compile(r"(/\S*/ld-[^/\s]*\.so[^/\s]*)$", re.MULTILINE).search


def read() -> Iterator[Path]:
    """What it reads. Not all of it exists everywhere."""
    yield from map(Path, (*_LIBRARIES, *_SYSTEM))
    yield Path(__file__).parents[1]
    for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix}:
        yield from (Path(prefix, name) for name in ("lib", "lib64", "pyvenv.cfg"))
    # The first entry is the directory that the process was started in, which may be anybody's home.
    yield from map(Path, filter(None, sys.path[0 if sys.flags.safe_path else 1 :]))
    for name in (*_OTHER_LIBRARIES, *_CERTIFICATES):
        yield from map(Path, filter(None, os.environ.get(name, "").split(os.pathsep)))


def run() -> Iterator[Path]:
    """What is run when it starts another Python: the interpreter, and the loader of its libraries."""
    yield from (Path(sys.executable), Path("/proc/self/exe"))
    loader = _is_loader(Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape"))
    if loader is not None:
        yield Path(loader[1])
