"""Assembles a node, has it serve, and shuts it down in order."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial

import anyio
import anyio.to_thread

from suite import telemetry
from suite.actions.benchmark import cancel_benchmark, follow_benchmark, get_benchmarks, run_benchmark
from suite.actions.catalogue import get_model_status, list_models
from suite.actions.drain import drain_node
from suite.actions.embedding import embed
from suite.actions.evaluation import (
    compare_models,
    get_model_evaluation_scores,
    get_performance_metrics,
    log_model_evaluation,
    log_performance_metric,
    retract_model_evaluation,
    summary,
)
from suite.actions.explanation import explain
from suite.actions.generation import cancel_generation, clear_kv_cache, generate_text
from suite.actions.health import breakers_of, get_log_end, get_stats, health, health_check
from suite.actions.keys import create_key, list_keys, revoke_key
from suite.actions.prediction import get_predictions, predict_models, preload_models, select_model
from suite.actions.projections import get_error_groups, get_errors, get_fleet, rebuild_projection
from suite.actions.ranking import rerank
from suite.actions.replay import replay_history
from suite.actions.residency import load_model, pin_model, release_model, unload_model, unpin_model
from suite.actions.statistics import (
    get_bet_statistics,
    get_bets,
    get_metric_series,
    get_model_quality,
    get_request_statistics,
    get_residency_timeline,
    list_metrics,
)
from suite.actions.tokens import apply_template, detokenize, tokenize
from suite.actions.traces import get_trace, list_traces
from suite.actions.transfers import push_model
from suite.actions.usage import record_usage, usage
from suite.actions.versions import (
    list_aliases,
    list_versions,
    promote_alias,
    set_alias,
    take_back_alias,
)
from suite.bus import credentials
from suite.bus.connection import Connection
from suite.bus.kv import Leases
from suite.bus.service import Service
from suite.catalogue import Model
from suite.config import Settings
from suite.errors import LogNotWritable, ReadModelUnavailable
from suite.explanation.words import counted
from suite.gpus import Gpus
from suite.identity import Clock, NewId, Now
from suite.legacy.service import serve_legacy
from suite.log import Log
from suite.log.mirror import keep_mirror
from suite.messages.subjects import Subjects
from suite.node.adapters import empty_adapters
from suite.node.assembly import (
    Environment,
    limits_of_memories,
    make_node,
    make_pins,
    make_supervisor,
    scanned_catalogue,
    warn_of_small_limit,
)
from suite.node.benchmarks.takeover import Takeover
from suite.node.breakers import Breakers
from suite.node.cluster import joined_cluster
from suite.node.content import ContentWatch
from suite.node.copies import Copies
from suite.node.dependencies import wait_for_dependencies, watch_dependencies
from suite.node.ending import PROCESS_SECONDS, Ending
from suite.node.fleet.leadership import Leadership
from suite.node.gateway import GatewayProcess
from suite.node.journal import Journal
from suite.node.learning import Learning
from suite.node.membership import LEASE_SECONDS, Membership
from suite.node.metrics_endpoint import measured
from suite.node.nats_server import Nats
from suite.node.node import Node
from suite.node.observations import Condition, observing
from suite.node.past import read_past
from suite.node.pin_moves import PinMoves
from suite.node.preloader import Preloader
from suite.node.progress import RunningWork
from suite.node.promoter import Promoter, protect_serving
from suite.node.recovery import close_open_instances
from suite.node.registrar import Registrar
from suite.node.reporter import Reporter
from suite.node.snapshots import sweep_snapshots
from suite.node.storage import StorageWatch
from suite.node.users import UsersWatch
from suite.node.versions import VersionBook
from suite.projections.projections import Projections
from suite.tasks import background
from suite.version import __version__

logger = logging.getLogger("suite.node")

ACTIONS = (
    load_model,
    unload_model,
    pin_model,
    unpin_model,
    release_model,
    generate_text,
    embed,
    rerank,
    tokenize,
    detokenize,
    apply_template,
    cancel_generation,
    clear_kv_cache,
    push_model,
    list_versions,
    list_aliases,
    set_alias,
    promote_alias,
    take_back_alias,
    list_models,
    get_model_status,
    health_check,
    get_stats,
    get_log_end,
    record_usage,
    usage,
    log_performance_metric,
    get_performance_metrics,
    summary,
    log_model_evaluation,
    get_model_evaluation_scores,
    retract_model_evaluation,
    compare_models,
    run_benchmark,
    follow_benchmark,
    get_benchmarks,
    cancel_benchmark,
    predict_models,
    get_predictions,
    preload_models,
    select_model,
    get_errors,
    get_error_groups,
    get_fleet,
    get_request_statistics,
    get_residency_timeline,
    get_bet_statistics,
    get_bets,
    list_metrics,
    get_metric_series,
    get_model_quality,
    replay_history,
    explain,
    list_traces,
    get_trace,
    rebuild_projection,
    drain_node,
    create_key,
    list_keys,
    revoke_key,
)

_NEEDS_MODELS = (
    load_model,
    unload_model,
    pin_model,
    unpin_model,
    release_model,
    generate_text,
    embed,
    rerank,
    tokenize,
    detokenize,
    apply_template,
    cancel_generation,
    clear_kv_cache,
    push_model,
    promote_alias,
    preload_models,
    select_model,
    run_benchmark,
)
_NEEDS_EVALUATION = (
    log_performance_metric,
    get_performance_metrics,
    summary,
    log_model_evaluation,
    get_model_evaluation_scores,
    retract_model_evaluation,
    compare_models,
    list_metrics,
    get_metric_series,
    get_model_quality,
    run_benchmark,
    follow_benchmark,
    get_benchmarks,
    cancel_benchmark,
)

SCHEMAS = "the files of suite/schemas in the wheel, by the $id that an endpoint's metadata names"
"""Where the JSON schemas of requests and replies are, as `$SRV.INFO` says it."""


@asynccontextmanager
async def served_node(
    settings: Settings,
    nats: Nats,
    *,
    take_over: bool,
    on_step: Callable[[str], None],
    new_id: NewId,
    now: Now,
    clock: Clock,
) -> AsyncIterator[Node]:
    """A node that serves until the block ends, on this NATS. `suite.node.startup.running_node` starts one."""
    subjects = Subjects(settings.subject_root)
    breakers = Breakers(settings.node, now=now, clock=clock)
    place = str(settings.data_dir.absolute())
    with (
        telemetry.tracing(settings.tracing, node=settings.node, process="node", place=place),
        measured(settings) as metrics,
        GatewayProcess.opened(settings, breakers) as gateway,
    ):
        breakers.add(telemetry.circuit_breakers())
        async with (
            # Wait for NATS: when both are started together, the node may be up first.
            Connection.open(
                nats.access, name=f"suite-{settings.node}", wait=settings.nats.url is not None
            ) as connection,
            joined_cluster(connection, settings.nats.join),
            Log.open(
                connection,
                subjects,
                source=f"/node/{settings.node}",
                new_id=new_id,
                now=now,
                retention=settings.retention.seconds(),
                replicas=settings.nats.wanted_replicas,
            ) as log,
            background() as tasks,
        ):
            if metrics is not None:
                tasks.start_soon(metrics.serve)
            env = Environment(
                settings, subjects, nats, connection, log, tasks, gateway, breakers, new_id, now, clock
            )
            on_step("")
            reporter = await _prepare(env)
            on_step(f"inspecting the models in {', '.join(map(str, settings.models_directories))}")
            gpus = await anyio.to_thread.run_sync(Gpus.open)
            limits = await limits_of_memories(settings, gpus)
            catalogue = await scanned_catalogue(settings, limits)
            on_step(f"taking the name {settings.node}, and reading what its last run left in the log")
            learning = Learning(settings, log, limits, report=reporter.report)
            membership = Membership(connection, log, subjects, settings.node)
            epoch = await membership.enter(take_over=take_over, limits=limits)
            journal = Journal(log, subjects, settings.node, epoch, new_id)
            tasks.start_soon(journal.until_fenced)
            tasks.start_soon(journal.run)
            tasks.start_soon(breakers.run, journal)
            await close_open_instances(log, journal, subjects, settings.node)
            past = await read_past(log, subjects, settings.node, now())
            versions = VersionBook(log)
            tasks.start_soon(versions.run)
            supervisor = make_supervisor(env, journal, catalogue, past, limits, gpus, learning, versions)
            pins = make_pins(env, reporter, journal, catalogue, past, supervisor)
            leases = await Leases.open(
                connection,
                f"{subjects.stream}_NODES",
                ttl_seconds=LEASE_SECONDS,
                replicas=settings.nats.wanted_replicas,
            )
            ending = Ending(connection, log, journal, drain_seconds=settings.drain_seconds, clock=clock)
            async with (
                membership.present(leases, journal),
                Projections.running(
                    log,
                    settings.data_dir,
                    evaluation_path=settings.sqlite_db_path,
                    now=now,
                    on_problem=partial(reporter.report, ReadModelUnavailable.code),
                ) as projections,
                supervisor.running(),
            ):
                tasks.start_soon(supervisor.sizes.recall, projections.catalogue, epoch)
                await supervisor.sizes.wait_recalled()
                warn_of_small_limit(supervisor, catalogue)
                node = make_node(
                    env, reporter, catalogue, journal, projections, learning, supervisor, pins, versions
                )
                _start_background(env, node, reporter)
                await versions.reach(journal.last_seq)  # before that it is not known what names mean
                async with node.fleet.joined(), _service(env, node) as service:
                    nats.address.publish(http=None if gateway is None else gateway.url)
                    if gateway is not None:
                        tasks.start_soon(gateway.run)
                    logger.info("node %s serves %s", settings.node, counted(len(catalogue.models), "model"))
                    try:
                        yield node
                    finally:
                        nats.address.withdraw()
                        node.fleet.take_work(False)
                        node.benchmarks.stop()
                        supervisor.admission.close()
                    async with ending.draining(tasks, partial(_running_work, node, service)):
                        await node.fleet.stop()
                        await service.drain()
                        await supervisor.drain()
                        await node.fleet.settle()
                # Instances whose end is not in the log by the deadline are closed at the next start.
                with ending.all_the_rest():
                    await supervisor.stop(PROCESS_SECONDS)
            await membership.leave(leases)


async def _prepare(env: Environment) -> Reporter:
    """Start what needs only NATS and the log, and wait for other services. Returns who reports errors."""
    settings, tasks = env.settings, env.tasks
    if env.nats.mirror is not None:
        await tasks.start(
            partial(
                keep_mirror,
                env.connection,
                env.nats.mirror,
                env.subjects,
                new_id=env.new_id,
                replicas=settings.nats.wanted_replicas,
            )
        )
    if settings.wait_for_dependencies:
        await wait_for_dependencies(
            env.connection,
            settings.dependencies,
            seconds=settings.dependency_timeout_seconds,
            embedded=settings.nats.url is None,
            clock=env.clock,
        )
    if settings.dependencies and settings.nats.url is not None:  # nobody else is on a node's own server
        tasks.start_soon(watch_dependencies, env.connection, settings.dependencies, env.breakers)
    tasks.start_soon(sweep_snapshots, settings, env.now)
    await anyio.to_thread.run_sync(empty_adapters, settings)
    reporter = Reporter(env.log, settings.node, clock=env.clock)
    tasks.start_soon(reporter.run)
    if env.nats.server is not None:
        report = partial(reporter.report, LogNotWritable.code)
        watch = StorageWatch(env.nats.server, env.log.writability, clock=env.clock, on_problem=report)
        tasks.start_soon(watch.run)
        users = UsersWatch(env.nats.server, credentials.path(settings.data_dir), env.nats.address)
        tasks.start_soon(users.run)
    return reporter


def _start_background(env: Environment, node: Node, reporter: Reporter) -> None:
    """Start what a node does by itself, without a request."""
    settings, tasks = env.settings, env.tasks
    if settings.measures:
        tasks.start_soon(observing, node, partial(_condition, node))
    tasks.start_soon(node.cluster.run)
    tasks.start_soon(node.foreign.run)
    tasks.start_soon(node.integrity.run)
    tasks.start_soon(node.learning.run)
    content = ContentWatch(settings, node.catalogue, node.supervisor, tasks)
    registrar = Registrar(
        *(env.log, env.subjects, settings.node, node.catalogue),
        on_digest=content.known,
        on_refused=partial(_report_refused, reporter),
    )
    tasks.start_soon(registrar.run)
    tasks.start_soon(_follow_files, node, registrar, content)
    preloader = Preloader(node, settings.prediction_interval_seconds)
    tasks.start_soon(preloader.settlement.run)
    tasks.start_soon(node.supervisor.sweep_idle, preloader.keep_alive)
    tasks.start_soon(protect_serving, node)
    if settings.enable_gguf_management:
        tasks.start_soon(node.pins.run)
        if settings.enable_model_evaluation:
            tasks.start_soon(node.benchmarks.run, node.journal.epoch)
            tasks.start_soon(Takeover(node).run)
        tasks.start_soon(_lead, env, node, preloader)


def _report_refused(reporter: Reporter, model: Model) -> None:
    """Have it stand among the errors that a model cannot be loaded, before anybody asks for it."""
    if model.error is not None:
        reporter.report(model.error.code, model.error.message, "warning", model_id=model.model_id)


def _condition(node: Node) -> Condition:
    return Condition(len(health(node).problems), breakers_of(node))


async def _lead(env: Environment, node: Node, preloader: Preloader) -> None:
    """Do what only one node of a fleet does at a time, whenever this is the one."""
    bucket = f"{env.subjects.stream}_PREDICTOR"
    leases = partial(
        Leases.open,
        env.connection,
        bucket,
        ttl_seconds=LEASE_SECONDS,
        replicas=env.settings.nats.wanted_replicas,
    )
    is_predicting = env.settings.enable_predictive_loading
    node.fleet.own.stands_for = ("placement", "predictor") if is_predicting else ("placement",)
    async with anyio.create_task_group() as tasks:
        if is_predicting:
            predictor = Leadership("predictor", node.name, node.fleet.peers, leases, env.clock)
            tasks.start_soon(predictor.run)
            tasks.start_soon(preloader.run, predictor)
        placement = Leadership("placement", node.name, node.fleet.peers, leases, env.clock)
        tasks.start_soon(placement.run)
        tasks.start_soon(PinMoves(node, placement).run)
        tasks.start_soon(Promoter(node, placement).run)
        if env.settings.copies.enabled:
            tasks.start_soon(Copies(node, placement).run)


def _running_work(node: Node, service: Service[Node]) -> RunningWork:
    """What a stop waits for. The request of a generation runs until a model's process has it."""
    pending, held = node.generations.pending, node.supervisor.leases.running
    return RunningWork(pending + held, max(0, service.running - pending))


@asynccontextmanager
async def _service(env: Environment, node: Node) -> AsyncIterator[Service[Node]]:
    """Answer requests, those of older clients too, until the block ends."""
    settings = env.settings
    async with Service.serve(
        env.connection,
        ACTIONS,
        node,
        subjects=env.subjects,
        version=__version__,
        metadata={"node": settings.node, "schemas": SCHEMAS},
        new_id=env.new_id,
        drain_seconds=0.0,
        disabled=_disabled(settings),
        router=node.fleet.routing,
    ) as service:
        node.service = service
        await node.transfers.listen()
        await node.pictures.listen()
        await node.fleet.serve(service.receive)  # from now on others may send work here
        if settings.enable_backward_compatibility:
            await env.tasks.start(
                partial(
                    serve_legacy,
                    env.connection,
                    env.log,
                    env.subjects,
                    ACTIONS,
                    settings.legacy,
                    node=settings.node,
                    health=partial(health, node),
                )
            )
        yield service


def _disabled(settings: Settings) -> dict[str, str]:
    """The disabled actions, each with the setting that enables it."""
    groups = {"enable_gguf_management": _NEEDS_MODELS, "enable_model_evaluation": _NEEDS_EVALUATION}
    return {
        each.name: setting
        for setting, actions in groups.items()
        if not getattr(settings, setting)
        for each in actions
    }


async def _follow_files(node: Node, registrar: Registrar, content: ContentWatch) -> None:
    """Unload models whose files were removed or changed, and have the registrar record all changes."""
    drain_seconds = node.settings.drain_seconds
    async with aclosing(node.catalogue.watch()) as watched:
        async for changes in watched:
            for model_id in changes.removed:
                node.supervisor.retire(model_id, "file_removed", drain_seconds=drain_seconds)
            for model_id in changes.changed:
                content.changed(model_id)
            for model_id in (*changes.added, *changes.changed, *changes.touched, *changes.removed):
                node.supervisor.quarantine.files_changed(model_id)
                registrar.note(model_id)
