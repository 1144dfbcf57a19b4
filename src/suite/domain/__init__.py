"""Pure deciders: ``decide(state, command) -> event`` and ``evolve(state, event) -> state``; no I/O, no clock."""
