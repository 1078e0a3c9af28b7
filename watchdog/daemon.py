r"""The daemon: puts the threads together, starts them, and stops them in order within a deadline.

scheduler pool --burst, memory--> judge thread --commit--> outbox threads (one per notifier)
                                               \-commit--> recycle desk (a thread per episode)
web thread: only reads
"""

from __future__ import annotations

import gc
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import structlog
import uvicorn

from alerts import delivery_store, recycle_store
from alerts import store as alert_store
from alerts.incident import OPEN, retire
from alerts.outbox import DeliveryResult, Outbox
from alerts.recycle_desk import RecycleDesk
from alerts.recycling import Recycling
from baselines import retention
from baselines.database import Database, DatabaseError
from probes.messages import Burst, MemorySample
from probes.taint import OwnDelay
from watchdog.bootstrap import (
    build_metrics,
    build_routes,
    build_targets,
    build_transport,
    lock_path,
    new_episode_id,
    retention_of,
)
from watchdog.config import Config, ConfigError
from watchdog.effects import Effects
from watchdog.judge_thread import JudgeThread
from watchdog.pipeline import Pipeline
from watchdog.provisional import Provisional
from watchdog.schedule import Schedule
from watchdog.status import is_watched
from watchdog.turns import Occupied, hold
from watchdog.web.app import Liveness, create_app

STOP_DEADLINE_S = 10.0
LOCK_WAIT_S = 2.0  # a predecessor that was told to stop may still be at it
SWITCH_INTERVAL_S = 0.0005  # how long a probe's thread may wait for the interpreter; Python's default is 5 ms

log = structlog.get_logger("daemon")


class Daemon:
    """One running watchdog on one database."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database
        self._stopping = threading.Event()
        self._own_delay = OwnDelay(monotonic=time.monotonic)
        self._targets = build_targets(config, database, sleep=self._stopping.wait, own_delay_s=self._own_delay)
        self._transport = build_transport()
        self._metrics = build_metrics(config)
        routes = build_routes(config, self._transport)
        self._judge = JudgeThread(on_error=self._count_error)
        self._effects = Effects(
            self._targets, routes, self._metrics, now=time.time, new_id=new_episode_id, changed=self._wake
        )
        self._pipeline = Pipeline(database, self._targets, self._effects, now=time.time)
        self._provisional = Provisional(database, self._targets, now=time.time)
        self._outbox = Outbox(database, [r.notifier for r in routes], now=time.time, on_result=self._count_delivery)
        recycling = Recycling(
            database,
            tell=self._effects.tell_recycle,
            now=time.time,
            monotonic=time.monotonic,
            wait=self._stopping.wait,
        )
        self._desk = RecycleDesk(
            database, recycling, self._targets, on_end=self._effects.recycle_ended, on_error=self._count_error
        )
        self._schedule = Schedule(
            self._targets,
            now=time.time,
            monotonic=time.monotonic,
            wait=self._stopping.wait,
            busy=recycling.acting,
            on_burst=self._on_burst,
            on_memory=self._on_memory,
            on_tick=lambda: self._judge.put(self._pipeline.tick),
            on_retention=lambda: self._judge.put(self._prune),
            on_late=self._metrics.lateness.observe,
            on_error=self._count_error,
        )
        app = create_app(
            database,
            config,
            self._metrics.registry,
            now=time.time,
            liveness=self._liveness,
            draining=recycling.acting,
        )
        self._metrics.queue.set_function(self._judge.waiting)
        self._web = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
                lifespan="off",
            )
        )

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises DatabaseError when another daemon serves this database."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        try:
            with (
                hold(lock_path(self._database), wait_s=LOCK_WAIT_S, monotonic=time.monotonic, sleep=time.sleep),
                _listen(self._config) as listener,
            ):
                self._start(listener)
                self._stopping.wait()
                self._stop()
        except Occupied:
            raise DatabaseError(f"another watchdog is already running on {self._database.path}") from None

    def _start(self, listener: socket.socket) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._own_delay.start()
        self._take_up()
        self._outbox.start()
        self._judge.start()
        self._desk.start()
        self._web_thread = threading.Thread(target=self._web.run, args=([listener],), name="web", daemon=True)
        self._web_thread.start()
        gc.freeze()  # what start-up made is never garbage; collections stay short
        self._schedule.start()
        log.info(
            "watching",
            targets=list(self._targets),
            web=f"http://{self._config.web.listen}/",
            database=str(self._database.path),
        )

    def _stop(self) -> None:
        """No new probes, judge what is measured, finish the delivery under way, leave episodes to be resumed."""
        began = time.monotonic()
        left: Callable[[], float] = lambda: max(0.1, STOP_DEADLINE_S - (time.monotonic() - began))  # noqa: E731
        log.info("stopping")
        self._schedule.stop()
        self._judge.stop(left())
        self._desk.stop(left())
        self._outbox.stop(deadline_s=left())
        self._web.should_exit = True
        self._web_thread.join(left())
        for target in self._targets.values():
            target.close()
        self._transport.close()
        self._own_delay.stop()
        log.info("stopped", seconds=round(time.monotonic() - began, 2))

    def _wake(self) -> None:
        self._outbox.wake()
        self._desk.wake()

    def _on_burst(self, burst: Burst) -> None:
        self._metrics.observe_burst(burst)
        self._judge.put(partial(self._pipeline.take_burst, burst))
        self._judge.put(partial(self._provisional.consider, burst))

    def _on_memory(self, target: str, samples: Sequence[MemorySample]) -> None:
        self._metrics.observe_memory(target, samples)
        if samples:
            self._judge.put(partial(self._pipeline.take_memory, target, samples))

    def _prune(self) -> None:
        with self._database.write() as connection:
            deleted = retention.prune(connection, retention_of(self._config.store), now=time.time())
            deleted += alert_store.prune(connection, now=time.time())
            deleted += recycle_store.cap_episodes(connection)
        if deleted:
            log.info("retention", deleted=deleted)

    def _take_up(self) -> None:
        """Go on where the last run ended; close what is about what is watched no longer."""
        sections = {section.name: section for section in self._config.target}
        now = time.time()
        with self._database.write(durable=True) as connection:
            for incident in alert_store.list_incidents(connection, only_open=True, limit=1000):
                section = sections.get(incident.target)
                known = section is not None and is_watched(section, incident.subject)
                if incident.state in OPEN and not known:
                    self._effects.apply(connection, incident, retire(incident, now=now))
            delivery_store.bury_orphans(connection, [n.name for n in self._config.notifier])
            self._effects.restore(connection)
            for target in self._targets.values():
                for canary in target.canaries:
                    target.load_baseline(connection, canary)

    def _count_error(self, where: str) -> None:
        self._metrics.errors.labels(where).inc()

    def _count_delivery(self, notifier: str, result: DeliveryResult) -> None:
        self._metrics.deliveries.labels(notifier, result).inc()

    def _liveness(self) -> Liveness:
        ended = None if self._judge.is_alive() else "the judge thread has ended; restart the daemon"
        problems = (ended, self._judge.problem, self._schedule.problem())
        return Liveness(problems=tuple(p for p in problems if p))


def _listen(config: Config) -> socket.socket:
    """The web side's socket. Raises ConfigError: found out now, not by a thread that dies later."""
    family = socket.AF_INET6 if ":" in config.web.host else socket.AF_INET
    try:
        return socket.create_server((config.web.host, config.web.port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise ConfigError([f"web.listen: cannot listen on {config.web.listen}: {error}"]) from error
