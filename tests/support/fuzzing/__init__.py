"""Fuzzing: inputs made at random from a seed, and what must hold whatever they are.

Each input is made from the seed and its own number alone, so one that failed can be made again without those
before it. `targets.py` says what there is to fuzz, `python -m support.fuzzing` runs the long form.
"""
