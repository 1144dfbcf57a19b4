"""Pure deciders: ``decide(state, command) -> event``, ``evolve(state, event) -> state``; no I/O, no clock."""
