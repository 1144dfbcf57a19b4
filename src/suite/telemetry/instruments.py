"""All metrics of the suite. Those with names of the conventions are as OpenTelemetry describes them.

The conventions for messaging (1.41) and generative AI are both in development.
"""

from __future__ import annotations

from typing import Final

from suite.telemetry.instrument import Counter, Definition, Gauge, Histogram, UpDownCounter

MODEL: Final = "gen_ai.request.model"
ERROR: Final = "error.type"
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
TOKEN_TYPE: Final = "gen_ai.token.type"
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION: Final = "messaging.operation.name"
MESSAGING_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
LLAMA_CPP: Final = "llama.cpp"
"""Who generates, as ``gen_ai.provider.name``."""
NATS: Final = "nats"
"""What carries messages, as ``messaging.system``."""
REASON: Final = "suite.reason"
OUTCOME: Final = "suite.outcome"
PHASE: Final = "suite.phase"
MEMORY: Final = "suite.memory"
PROJECTION: Final = "suite.projection.name"
PEER: Final = "suite.peer"
KIND: Final = "suite.breaker.kind"
NAME: Final = "suite.breaker.name"
KEY: Final = "suite.key.id"

_GENERATION: Final = (OPERATION, PROVIDER, MODEL, ERROR)

# More buckets than these would be more series than they tell.
_MESSAGE_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 20)
_ACTION_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1, 5, 30, 300)
_REQUEST_SECONDS: Final = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    300.0,
)
"""As the conventions for generative AI advise, and longer: a request may wait for a load, and for memory."""
_FIRST_TOKEN_SECONDS: Final = (
    *(0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0, 300.0),
)
"""The same."""
_TOKEN_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""As they advise, and shorter: small models answer faster."""
_TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
"""As they advise, as far as there are contexts."""
_LOAD_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60, 300)
_WAIT_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_AGE_SECONDS: Final = (1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400, 604_800)
_STEP_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_HTTP_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FEW: Final = (0, 1, 2, 4, 8, 16, 32, 64)
_BATCH: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)

# --- generations -------------------------------------------------------------------------------------------

SERVER_REQUEST_DURATION: Final = Histogram(
    name="gen_ai.server.request.duration",
    unit="s",
    description="From the request to its last token, with the wait for memory and the load.",
    attributes=_GENERATION,
    buckets=_REQUEST_SECONDS,
)
SERVER_TIME_TO_FIRST_TOKEN: Final = Histogram(
    name="gen_ai.server.time_to_first_token",
    unit="s",
    description="From the request to its first token, with the wait for memory and the load.",
    attributes=_GENERATION,
    buckets=_FIRST_TOKEN_SECONDS,
)
SERVER_TIME_PER_OUTPUT_TOKEN: Final = Histogram(
    name="gen_ai.server.time_per_output_token",
    unit="s",
    description="The time for each token after the first.",
    attributes=_GENERATION,
    buckets=_TOKEN_SECONDS,
)
CLIENT_OPERATION_DURATION: Final = Histogram(
    name="gen_ai.client.operation.duration",
    unit="s",
    description="How long the gateway waited for a generation of the service.",
    attributes=_GENERATION,
    buckets=_REQUEST_SECONDS,
)
CLIENT_TOKEN_USAGE: Final = Histogram(
    name="gen_ai.client.token.usage",
    unit="{token}",
    description="The tokens of the prompts and the answers that the gateway asked for.",
    attributes=(*_GENERATION, TOKEN_TYPE),
    buckets=_TOKENS,
)
GENERATION_TOKENS: Final = Counter(
    name="suite.generation.tokens",
    unit="{token}",
    description="Tokens of prompts (input), those of them that were in memory (reused), of answers (output); "
    "guesses of these (drafted), and those that were right (accepted).",
    attributes=(MODEL, TOKEN_TYPE),
)
GENERATIONS: Final = Counter(
    name="suite.generations",
    unit="{generation}",
    description="Generations that have ended.",
    attributes=(MODEL, OUTCOME),
)
GENERATIONS_RUNNING: Final = Gauge(
    name="suite.generations.running",
    unit="{generation}",
    description="Generations that run or wait in a model's process.",
    attributes=(MODEL,),
)
GENERATION_QUEUE: Final = Histogram(
    name="suite.generation.queue.duration",
    unit="s",
    description="How long a generation waited in the model's process for a slot.",
    attributes=(MODEL,),
    buckets=_WAIT_SECONDS,
)
STEP_DURATION: Final = Histogram(
    name="suite.engine.step.duration",
    unit="s",
    description="How long one step of the engine took.",
    attributes=(MODEL,),
    buckets=_STEP_SECONDS,
)
STEP_TOKENS: Final = Histogram(
    name="suite.engine.step.tokens",
    unit="{token}",
    description="Tokens in one batch.",
    attributes=(MODEL,),
    buckets=_BATCH,
)
STEP_SEQUENCES: Final = Histogram(
    name="suite.engine.step.sequences",
    unit="{sequence}",
    description="Generations in one batch.",
    attributes=(MODEL,),
    buckets=_FEW,
)
STEP_WAITING: Final = Histogram(
    name="suite.engine.step.waiting",
    unit="{generation}",
    description="Generations that waited for a slot during one step.",
    attributes=(MODEL,),
    buckets=_FEW,
)
STEP_THREADS: Final = Histogram(
    name="suite.engine.step.threads",
    unit="{thread}",
    description="The threads that the model was due, and computed a step with.",
    attributes=(MODEL,),
    buckets=_FEW,
)

# --- models in memory --------------------------------------------------------------------------------------

CACHE_REQUESTS: Final = Counter(
    name="suite.cache.requests",
    unit="{request}",
    description="Requests for a model: it was loaded (hit), was being loaded (loading), or was not (miss).",
    attributes=(MODEL, OUTCOME),
)
LOAD_DURATION: Final = Histogram(
    name="suite.load.duration",
    unit="s",
    description="How long a load took, from its decision until the model was ready.",
    attributes=(MODEL,),
    buckets=_LOAD_SECONDS,
)
LOAD_PHASE_DURATION: Final = Histogram(
    name="suite.load.phase.duration",
    unit="s",
    description="The parts of a load: wait (of its first request), reserve (its decision), evict (until "
    "others have left), inspect, spawn, map, warm_up.",
    attributes=(MODEL, PHASE),
    buckets=_LOAD_SECONDS,
)
LOAD_FAILURES: Final = Counter(
    name="suite.load.failures",
    unit="{load}",
    description="Loads that failed, by the code of the error.",
    attributes=(MODEL, ERROR),
)
UNLOADS: Final = Counter(
    name="suite.unloads",
    unit="{unload}",
    description="Models that left memory, by reason.",
    attributes=(MODEL, REASON),
)
UNLOAD_AGE: Final = Histogram(
    name="suite.unload.age",
    unit="s",
    description="For how long a model had been loaded when it left.",
    attributes=(REASON,),
    buckets=_AGE_SECONDS,
)
UNLOAD_UNUSED: Final = Histogram(
    name="suite.unload.unused",
    unit="s",
    description="For how long a model had not been used when it left.",
    attributes=(REASON,),
    buckets=_AGE_SECONDS,
)
CRASHES: Final = Counter(
    name="suite.crashes",
    unit="{crash}",
    description="Models' processes that died.",
    attributes=(MODEL, REASON),
)
SWITCHES: Final = Counter(
    name="suite.switches",
    unit="{load}",
    description="Loads for which other models had to leave.",
    attributes=(MODEL,),
)
RESERVED: Final = Gauge(
    name="suite.instance.reserved",
    unit="By",
    description="What a model counts for.",
    attributes=(MODEL, MEMORY),
)
RESIDENT: Final = Gauge(
    name="suite.instance.resident",
    unit="By",
    description="What a model's processes have.",
    attributes=(MODEL, MEMORY),
)
ESTIMATE_ERROR: Final = Gauge(
    name="suite.instance.estimate.error",
    unit="By",
    description="What a model had when it was ready, less what its file had let expect.",
    attributes=(MODEL,),
)
THREADS_DUE: Final = Gauge(
    name="suite.instance.threads",
    unit="{thread}",
    description="With how many threads a model computes now; 0: it is idle.",
    attributes=(MODEL,),
)
MEMORY_LIMIT: Final = Gauge(
    name="suite.memory.limit",
    unit="By",
    description="What all loaded models together may have.",
    attributes=(MEMORY,),
)
MEMORY_RESERVED: Final = Gauge(
    name="suite.memory.reserved",
    unit="By",
    description="What the loaded models count for.",
    attributes=(MEMORY,),
)
WAITING: Final = Gauge(
    name="suite.waiting",
    unit="{request}",
    description="Requests that wait for memory, by the model that they want.",
    attributes=(MODEL,),
)
WAIT_DURATION: Final = Histogram(
    name="suite.wait.duration",
    unit="s",
    description="How long a client's request waited for memory, and how that ended.",
    attributes=(MODEL, OUTCOME),
    buckets=_WAIT_SECONDS,
)
REFUSALS: Final = Counter(
    name="suite.refusals",
    unit="{request}",
    description="Clients' requests for a model that were refused, by the code of the error.",
    attributes=(MODEL, ERROR),
)
BETS: Final = Counter(
    name="suite.bets",
    unit="{bet}",
    description="Bets on what is used next that are settled: won (hit) or lost (waste), and why.",
    attributes=(OUTCOME, REASON),
)
BET_WASTE: Final = Counter(
    name="suite.bets.wasted",
    unit="By.s",
    description="Memory that models had because of lost bets, times how long.",
)
BET_SAVINGS: Final = Counter(
    name="suite.bets.saved",
    unit="s",
    description="Load time that requests did not wait for because of won bets.",
)

# --- messages and the log ----------------------------------------------------------------------------------

PROCESS_DURATION: Final = Histogram(
    name="messaging.process.duration",
    unit="s",
    description="How long an action took; that of a generation ends when the model's process has it.",
    attributes=(MESSAGING_SYSTEM, MESSAGING_OPERATION, MESSAGING_TYPE, DESTINATION, ERROR),
    buckets=_ACTION_SECONDS,
)
CLIENT_OPERATION: Final = Histogram(
    name="messaging.client.operation.duration",
    unit="s",
    description="How long it took until the server had a publish to the log, or a request its answer.",
    attributes=(MESSAGING_SYSTEM, MESSAGING_OPERATION, MESSAGING_TYPE, DESTINATION, ERROR),
    buckets=_MESSAGE_SECONDS,
)
SENT_MESSAGES: Final = Counter(
    name="messaging.client.sent.messages",
    unit="{message}",
    description="Messages that were published to the log.",
    attributes=(MESSAGING_SYSTEM, MESSAGING_OPERATION, MESSAGING_TYPE, DESTINATION),
)
CONSUMED_MESSAGES: Final = Counter(
    name="messaging.client.consumed.messages",
    unit="{message}",
    description="Messages of the log that were read.",
    attributes=(MESSAGING_SYSTEM, MESSAGING_OPERATION, MESSAGING_TYPE, DESTINATION),
)
APPEND_DURATION: Final = Histogram(
    name="suite.log.append.duration",
    unit="s",
    description="How long an append took, with its wait in the queue.",
    attributes=(ERROR,),
    buckets=_MESSAGE_SECONDS,
)
PROJECTION_LAG: Final = Gauge(
    name="suite.projection.lag",
    unit="{event}",
    description="Events that a read model has still to fold.",
    attributes=(PROJECTION,),
)
RECONNECTS: Final = Counter(
    name="suite.nats.reconnects",
    unit="{reconnect}",
    description="How often the connection to NATS was made again.",
)
FORWARDS: Final = Counter(
    name="suite.forwards",
    unit="{request}",
    description="Requests that another node was given.",
    attributes=(DESTINATION, PEER),
)
PROBLEMS: Final = Gauge(
    name="suite.health.problems",
    unit="{problem}",
    description="What `suite health` complains of; 0: the node is HEALTHY.",
)
BREAKER_STATE: Final = Gauge(
    name="suite.breaker.state",
    unit="",
    description="Whether something that fails again and again is used: 0 closed, 1 half open, 2 open.",
    attributes=(KIND, NAME),
)

# --- the gateway -------------------------------------------------------------------------------------------
# The names of these for Prometheus are older than OpenTelemetry's here.

GATEWAY_RUNNING: Final = UpDownCounter(
    name="suite.gateway.requests.running", unit="{request}", description="Requests being answered."
)
GATEWAY_REQUESTS: Final = Counter(
    name="suite.gateway.requests",
    unit="{request}",
    description="Requests answered.",
    attributes=("endpoint", "status"),
)
GATEWAY_SECONDS: Final = Histogram(
    name="suite.gateway.request",
    unit="s",
    description="From the head of a request to the end of its answer.",
    attributes=("endpoint",),
    buckets=_HTTP_SECONDS,
)
GATEWAY_FIRST_BYTE: Final = Histogram(
    name="suite.gateway.first_byte",
    unit="s",
    description="From the head of a request to the first byte of its answer.",
    attributes=("endpoint",),
    buckets=_HTTP_SECONDS,
)
GATEWAY_TOKENS: Final = Counter(
    name="suite.gateway.tokens",
    unit="{token}",
    description="Tokens of generations.",
    attributes=("model", "kind"),
)
GATEWAY_KEY_REQUESTS: Final = Counter(
    name="suite.gateway.key.requests",
    unit="{request}",
    description="Requests by the key that they came with.",
    attributes=(KEY, "status"),
)

ALL: Final[tuple[Definition, ...]] = tuple(
    each for each in tuple(globals().values()) if isinstance(each, Definition)
)
"""All of them, in the order in which they stand here."""


def of_messages(operation: str, kind: str, destination: str) -> dict[str, str]:
    """The attributes of what is done with messages; `kind`: as the conventions know it, such as ``send``."""
    return {
        MESSAGING_SYSTEM: NATS,
        MESSAGING_OPERATION: operation,
        MESSAGING_TYPE: kind,
        DESTINATION: destination,
    }
