"""Makes the parts of a node from its settings."""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import anyio
import anyio.abc
import anyio.to_thread

from suite import machine
from suite.bus.claims import Claims
from suite.bus.connection import Connection
from suite.bus.service import terminate
from suite.catalogue import Catalogue
from suite.cgroups import Cgroups
from suite.config import Settings
from suite.config.settings import RetentionSettings
from suite.domain.footprint import Footprint
from suite.domain.residency import Residency
from suite.domain.turn_answer import limit_setting
from suite.domain.turns import Turns
from suite.gpus import Gpus
from suite.identity import Clock, NewId, Now
from suite.log import Log
from suite.memory_limits import footprint_of, memory_limits, warnings
from suite.messages.subjects import Subjects
from suite.node.actor_client import ActorClient
from suite.node.aliases import Aliases
from suite.node.appraisal import Appraisals
from suite.node.benchmarks.asking import Asking
from suite.node.benchmarks.benchmarks import Benchmarks
from suite.node.benchmarks.job import Job
from suite.node.benchmarks.others import Others
from suite.node.breakers import Breakers
from suite.node.cluster import ClusterWatch
from suite.node.confinement import ModelConfinement
from suite.node.cores import NodeCores
from suite.node.dispatcher import Dispatcher
from suite.node.drain import Drain
from suite.node.fleet.fleet import Fleet
from suite.node.fleet.generation_ids import CLAIM_SECONDS, GenerationIds
from suite.node.foreign_messages import ForeignMessages
from suite.node.gateway import GatewayProcess
from suite.node.generations import Generations
from suite.node.integrity import EVENTS_LOST, Integrity
from suite.node.journal import Journal
from suite.node.launcher import Launcher
from suite.node.learning import Learning
from suite.node.memory_kills import MemoryKills
from suite.node.nats_server import Nats
from suite.node.node import Node, actor_spec
from suite.node.past import Past
from suite.node.pictures.web_files import WebFiles
from suite.node.pictures.web_pictures import WebPictures
from suite.node.pins import Pins
from suite.node.quarantine import Quarantine
from suite.node.reporter import Reporter
from suite.node.sizes import ModelSizes
from suite.node.standby import Standby
from suite.node.supervisor import Supervisor
from suite.node.transfers.transfers import Transfers
from suite.node.versions import Names, VersionBook
from suite.prediction.frequency import MostUsedLastHour
from suite.projections.projections import Projections
from suite.units import size

logger = logging.getLogger("suite.node")


class Environment(NamedTuple):
    """What every part of a node is put together from."""

    settings: Settings
    subjects: Subjects
    nats: Nats
    connection: Connection
    log: Log
    tasks: anyio.abc.TaskGroup
    gateway: GatewayProcess | None
    breakers: Breakers
    new_id: NewId
    now: Now
    clock: Clock


def make_supervisor(
    env: Environment,
    journal: Journal,
    catalogue: Catalogue,
    past: Past,
    limits: Footprint,
    gpus: Gpus,
    learning: Learning,
    versions: VersionBook,
) -> Supervisor:
    """What loads models and ends them. `limits`: what all of them may have of each memory."""
    settings, connection = env.settings, env.connection
    cores, cgroups = NodeCores(machine.processors), Cgroups()
    memory_kills = MemoryKills(cgroups.out_of_memory_kills)
    standby = Standby(
        [cores.table.descriptor],
        partial(cores.seat, None),
        exports_spans=settings.tracing.mode == "otlp",
    )
    return Supervisor(
        settings.node,
        journal,
        turns=Turns(
            residency=Residency(limit_bytes=limits),
            queue_limit=settings.queue_limit,
            turn_seconds=settings.turn_seconds,
        ),
        quarantine=Quarantine(
            past.experience, node=settings.node, catalogue=catalogue, journal=journal, now=env.now
        ),
        sizes=ModelSizes(settings.node, limits),
        machine_memory=machine.memory(),
        available_memory=partial(machine.available_memory, cgroups=cgroups),
        gpus=gpus.read,
        launcher=Launcher(
            partial(actor_spec, settings, env.nats.access, catalogue, cores, limits),
            standby=standby,
            cores=cores,
            memory_kills=memory_kills,
            clock=env.clock,
        ),
        standby=standby,
        keeps_standby=settings.standby and settings.enable_gguf_management,
        terminate=lambda lease, error: terminate(
            connection, lease.reply, error, stream=lease.stream, node=settings.node
        ),
        cores=cores,
        memory_kills=memory_kills,
        confinement=ModelConfinement.of(is_on=settings.confinement),
        appraise=Appraisals(learning.appraiser, now=env.now),
        version_of=versions.number,
        new_id=env.new_id,
        now=env.now,
        clock=env.clock,
    )


def make_pins(
    env: Environment,
    reporter: Reporter,
    journal: Journal,
    catalogue: Catalogue,
    past: Past,
    supervisor: Supervisor,
) -> Pins:
    """The models that stay loaded: at first those that were pinned before."""
    return Pins(
        past.pinned,
        journal=journal,
        node=env.settings.node,
        catalogue=catalogue,
        supervisor=supervisor,
        report=reporter.report,
        new_id=env.new_id,
        clock=env.clock,
    )


def make_node(
    env: Environment,
    reporter: Reporter,
    catalogue: Catalogue,
    journal: Journal,
    projections: Projections,
    learning: Learning,
    supervisor: Supervisor,
    pins: Pins,
    versions: VersionBook,
) -> Node:
    """What every action gets."""
    settings, connection, log, clock = env.settings, env.connection, env.log, env.clock
    names = Names(versions, catalogue)
    fleet = Fleet(
        settings.node,
        journal.epoch,
        connection=connection,
        subjects=env.subjects,
        log=log,
        catalogue=catalogue,
        names=names,
        supervisor=supervisor,
        tasks=env.tasks,
        new_id=env.new_id,
        clock=clock,
        has_models=settings.enable_gguf_management,
    )
    fleet.own.pins = lambda: pins.movable
    claims = Claims(
        connection,
        f"{env.subjects.stream}_GENERATIONS",
        seconds=CLAIM_SECONDS,
        replicas=settings.nats.wanted_replicas,
    )
    ids = GenerationIds(claims, settings.node, journal.epoch, fleet.others, clock=clock)
    actors = ActorClient(connection, env.subjects, settings.node, clock)
    generations = Generations(settings.node, supervisor, actors, env.tasks, clock, ids=ids)
    pictures = WebPictures(connection, WebFiles(settings.pictures.hosts))
    generations.on_end = pictures.let_go
    aliases = Aliases(log, env.subjects, versions, names, fleet, projections, now=env.now, new_id=env.new_id)
    return Node(
        settings,
        cluster=ClusterWatch(
            connection, env.subjects, replicas=settings.nats.wanted_replicas, new_id=env.new_id
        ),
        connection=connection,
        server=env.nats.server,
        catalogue=catalogue,
        log=log,
        journal=journal,
        projections=projections,
        foreign=ForeignMessages(log, projections, settings.node),
        integrity=Integrity(
            connection,
            log,
            projections,
            shortest_retention=_shortest(settings.retention),
            clock=clock,
            on_problem=partial(reporter.report, EVENTS_LOST),
        ),
        policy=MostUsedLastHour(),
        learning=learning,
        supervisor=supervisor,
        actors=actors,
        generations=generations,
        dispatcher=Dispatcher(supervisor, actors, generations, clock),
        pictures=pictures,
        pins=pins,
        versions=versions,
        names=names,
        aliases=aliases,
        fleet=fleet,
        drain=Drain(
            settings.node,
            fleet=fleet,
            supervisor=supervisor,
            journal=journal,
            tasks=env.tasks,
            clock=clock,
        ),
        transfers=Transfers(
            settings,
            connection,
            env.subjects,
            catalogue,
            supervisor,
            tasks=env.tasks,
            breakers=env.breakers,
            new_id=env.new_id,
            clock=clock,
        ),
        benchmarks=make_benchmarks(env, catalogue, versions, projections, fleet, supervisor, generations),
        breakers=env.breakers,
        gateway=env.gateway,
        new_id=env.new_id,
        now=env.now,
        clock=clock,
    )


def make_benchmarks(
    env: Environment,
    catalogue: Catalogue,
    versions: VersionBook,
    projections: Projections,
    fleet: Fleet,
    supervisor: Supervisor,
    generations: Generations,
) -> Benchmarks:
    """The benchmarks of this node's models."""
    asking = Asking(
        env.settings.node,
        connection=env.connection,
        subjects=env.subjects,
        fleet=fleet,
        generations=generations,
        new_id=env.new_id,
    )
    others = Others(supervisor, generations, is_own=asking.is_own, clock=env.clock)
    generations.on_begin = others.begins
    job = partial(
        Job,
        node=env.settings.node,
        asking=asking,
        others=others,
        log=env.log,
        subjects=env.subjects,
        catalogue=catalogue,
        versions=versions,
        evaluation=projections.evaluation,
        now=env.now,
        clock=env.clock,
    )
    return Benchmarks(env.settings.node, projections.evaluation, job=job)


async def scanned_catalogue(settings: Settings, limits: Footprint) -> Catalogue:
    """The models in the configured directories, as far as their drives answer."""
    catalogue = Catalogue.open(
        settings.models_directories,
        settings.models,
        settings.data_dir,
        limits=limits,
        follow_links=settings.follow_links,
    )
    await catalogue.scan_first()
    return catalogue


def _shortest(retention: RetentionSettings) -> timedelta | None:
    """The shortest retention of any kind of event; None if no event expires."""
    seconds = [each for each in retention.seconds().values() if each]
    return timedelta(seconds=min(seconds)) if seconds else None


async def limits_of_memories(settings: Settings, gpus: Gpus) -> Footprint:
    """What all models may have of each memory; warns of what this machine cannot fulfil."""
    found = await anyio.to_thread.run_sync(gpus.read)
    for warning in warnings(settings, found):
        logger.warning("%s", warning)
    return footprint_of(memory_limits(settings, found))


def warn_of_small_limit(supervisor: Supervisor, catalogue: Catalogue) -> None:
    """Say so if no model of the catalogue fits into the limit."""
    needs = [supervisor.need_bytes(each) for each in catalogue.models.values() if each.error is None]
    limits = supervisor.residency.limit_bytes
    if needs and not any(each.is_within(limits) for each in needs):
        smallest = min(needs, key=lambda each: each.total)
        memory = smallest.beyond(limits).largest
        logger.warning(
            "no model fits into the memory limit of %s, the smallest needs %s: raise %s",
            size(limits[memory]),
            size(smallest[memory]),
            limit_setting(memory),
        )
