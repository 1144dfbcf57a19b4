"""Faults under load, and whether the service kept its promises: `make faults`, and `tests/faults`.

    .venv/bin/python -m support.durability --rounds 100 --seed 1      # with tests/ on PYTHONPATH

`system` is the service whose parts die, `workload` its clients, `history` what these were told, `attacks`
what is done to it, `checker` judges afterwards, `rounds` does it again and again, `table` prints what came of
it.
"""
