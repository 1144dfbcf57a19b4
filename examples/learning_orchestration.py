"""A learning orchestrator's client: log how models did, cycle by cycle, and compare them by what is known.

    python examples/learning_orchestration.py [DATA_DIR]

DATA_DIR is the one of `suite serve`; its `connection.json` says how to reach it. Left out: the usual one.
Evaluations are facts and stay in the log: these are of models called `example-...`, which need not exist.
"""

from __future__ import annotations

import asyncio
import sys
import uuid

import suite
from suite.client import Client
from suite.errors import SuiteError

AGENT = "learning-example"
MODELS = ("example-fast", "example-careful")
# What each cycle found of each model: trust score, accuracy, F1 score, and how many ms some answers took.
CYCLES = (
    {
        "example-fast": (0.70, 0.71, 0.68, (40, 45, 52)),
        "example-careful": (0.80, 0.82, 0.80, (210, 190, 260)),
    },
    {
        "example-fast": (0.95, 0.97, 0.96, (38, 41, 47)),
        "example-careful": (0.85, 0.86, 0.84, (200, 180, 220)),
    },
)


async def main(data_dir: str | None) -> None:
    run = uuid.uuid4().hex[:8]
    async with suite.connect(data_dir=data_dir) as client:
        seq = 0
        for number, found in enumerate(CYCLES, start=1):
            for model, (trust_score, accuracy, f1_score, answers_ms) in found.items():
                for answer_ms in answers_ms:
                    await client.log_performance_metric(
                        AGENT, "answer_ms", answer_ms, context={"model": model}
                    )
                logged = await client.log_model_evaluation(
                    model,
                    f"{run}-{number}",
                    trust_score,
                    accuracy=accuracy,
                    f1_score=f1_score,
                    avg_latency_ms=sum(answers_ms) / len(answers_ms),
                    # With an id of its own it is stored once, however often it is sent.
                    evaluation_id=f"{run}-{number}-{model}",
                )
                seq = logged.seq

        # Whoever asks with the sequence of a write sees that write, and all before it.
        page = await client.get_performance_metrics(agent_name=AGENT, limit=3, min_seq=seq)
        print("newest samples:", ", ".join(f"{metric.value:g} ms" for metric in page.metrics))
        async for each in client.model_evaluations(cycle_id=f"{run}-2", min_seq=seq):
            print(f"evaluation {each.evaluation_id}: {each.trust_score:.2f}")
        total = (await client.summary("answer_ms", agent_name=AGENT, min_seq=seq)).total
        if total is not None:
            print(f"answer_ms: {total.count} samples, mean {total.mean:.1f}, p95 {total.p95:.1f}")

        await compare(client, seq)
        # The fast one had seen the questions of the second cycle before: what was found does not count.
        retracted = await client.retract_model_evaluation(f"{run}-2-example-fast", reason="test set leaked")
        print(f"\n{retracted.message}")
        await compare(client, retracted.seq)


async def compare(client: Client, min_seq: int) -> None:
    """Show the models side by side, the most trusted first."""
    print("\nmodel            trust  change  accuracy  latency")
    for model in (await client.compare_models(MODELS, min_seq=min_seq)).models:
        scores = model.scores
        change = "first " if model.change.trust is None else f"{model.change.trust:+.3f}"
        print(
            f"{model.model_name:15}  {scores.trust:.3f}  {change}     {scores.accuracy:.3f}"
            f"  {scores.avg_latency_ms:4.0f} ms"
        )


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
    except SuiteError as error:  # each cause has its class and its code
        sys.exit(f"error {error.code}: {error.message}")
