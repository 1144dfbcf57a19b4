"""Says whether this llama.cpp can use GPUs: ``python -m suite.engine.offload`` writes ``yes`` or ``no``.

It is a process of its own because a node never loads llama.cpp (`suite.gpus` starts it).
"""

from __future__ import annotations

import sys

from suite.engine.bindings import lib


def main() -> None:
    """Ask llama.cpp."""
    sys.stdout.write("yes" if lib.llama_supports_gpu_offload() else "no")


if __name__ == "__main__":
    main()
