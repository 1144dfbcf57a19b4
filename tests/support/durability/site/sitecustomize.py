"""Python runs this in every process of a service under test, before anything else."""

from support.durability import inside

inside.prepare()
