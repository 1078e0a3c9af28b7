r"""The daemon: puts the threads together, starts them, and stops them in order within a deadline.

scheduler pool --burst, memory--> judge thread --commit--> outbox threads (one per notifier)
                                       |       \-commit--> recycle desk (a thread per episode)
reload thread --a changed configuration-/                  web thread: reads
"""

from __future__ import annotations

import gc
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from alerts.notifiers.delivery import Notifier
from alerts.notifiers.transport import SharedTransport
from alerts.outbox import DeliveryResult, Outbox
from alerts.recycle_desk import RecycleDesk
from alerts.recycle_store import Episode
from alerts.recycling import Recycling
from baselines.database import Database, DatabaseError
from probes.taint import OwnDelay
from watchdog.backlog import BacklogWatch
from watchdog.bootstrap import (
    Shared,
    build_gpu,
    build_metrics,
    canaries_of,
    lock_path,
    new_episode_id,
    recycled_of,
)
from watchdog.config import Config, ConfigError, LogSection
from watchdog.couriers import Couriers
from watchdog.effects import Effects
from watchdog.health import Health
from watchdog.housekeeping import keep_house
from watchdog.intake import Intake
from watchdog.judge_thread import JudgeThread
from watchdog.orders import Order, Orders
from watchdog.pipeline import Pipeline
from watchdog.policies import retention_of
from watchdog.provisional import Provisional
from watchdog.rebuild import build_watch
from watchdog.reload import Reload
from watchdog.schedule import Schedule
from watchdog.taking_up import take_up
from watchdog.turns import Occupied, hold
from watchdog.watch import Change, Current, Watch
from watchdog.web.app import create_app
from watchdog.web.server import new_server

STOP_DEADLINE_S = 10.0
LOCK_WAIT_S = 2.0  # a predecessor that was told to stop may still be at it
SWITCH_INTERVAL_S = 0.0005  # how long a probe's thread may wait for the interpreter; Python's default is 5 ms

log = structlog.get_logger("daemon")


class Daemon:
    """One running watchdog on one database.

    load: reads the configuration again, for SIGHUP. use_log: sets the logging up as a configuration says.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        *,
        load: Callable[[], Config],
        use_log: Callable[[LogSection], None] = lambda _section: None,
    ) -> None:
        self._database = database
        self._use_log = use_log
        self._started_at = time.time()
        self._orders = Orders()
        self._stopping = threading.Event()
        self._own_delay = OwnDelay(monotonic=time.monotonic)
        self._transport = SharedTransport()
        self._gpu = build_gpu(config)
        shared = Shared(database=database, sleep=self._stopping.wait, own_delay_s=self._own_delay, gpu=self._gpu)
        self._current = Current(build_watch(config, shared, self._transport))
        targets, routes = self._current.targets, self._current.routes
        self._metrics = build_metrics(config)
        self._health = Health(database, self._metrics)
        self._judge = JudgeThread(on_error=self._health.count_error)
        self._effects = Effects(
            targets, routes, self._metrics, now=time.time, new_id=new_episode_id, changed=self._wake
        )
        self._pipeline = Pipeline(database, targets, self._effects, now=time.time)
        provisional = Provisional(database, targets, now=time.time)
        self._intake = Intake(targets, self._metrics, self._judge, self._pipeline, provisional)
        self._couriers = Couriers(self._new_outbox)
        self._backlog = BacklogWatch(database, self._metrics, notifiers=self._current.notifiers, now=time.time)
        self._recycling = Recycling(
            database,
            tell=self._effects.tell_recycle,
            now=time.time,
            monotonic=time.monotonic,
            wait=self._stopping.wait,
        )
        self._desk = RecycleDesk(
            database, self._recycling, targets, on_end=self._on_end, on_error=self._health.count_error
        )
        self._schedule = self._new_schedule()
        self._reload = Reload(
            self._current.watch,
            self._metrics,
            load=load,
            build=lambda config, before: build_watch(config, shared, self._transport, before=before),
            enqueue=self._judge.put,
            waiting=self._judge.waiting,
            adopt=self._adopt,
            settle=self._couriers.settle,
            now=time.time,
        )
        self._health.ask(
            problems=[self._judge_problem, lambda: self._judge.problem, self._schedule.problem],
            notes=[self._reload.note, self._schedule.note, self._backlog.note, self._gpu_note],
        )
        self._metrics.queue.set_function(self._judge.waiting)
        self._app: ASGIApp = self._new_app(config)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:  # a method would be no ASGI 3 to uvicorn
            await self._app(scope, receive, send)  # of the configuration that is in use as the request comes in

        self._web = new_server(serve)

    def _new_outbox(self, notifier: Notifier) -> Outbox:
        return Outbox(self._database, [notifier], now=time.time, on_result=self._count_delivery)

    def _new_schedule(self) -> Schedule:
        return Schedule(
            self._current.targets,
            now=time.time,
            monotonic=time.monotonic,
            wait=self._stopping.wait,
            busy=self._recycling.acting,
            on_burst=self._intake.put_burst,
            on_memory=self._intake.put_memory,
            on_gpu=self._intake.put_gpu,
            on_tick=self._on_tick,
            on_retention=lambda: self._judge.put(self._keep_house),
            on_late=self._metrics.lateness.observe,
            on_error=self._health.count_error,
        )

    def _new_app(self, config: Config) -> ASGIApp:
        return create_app(
            self._database,
            config,
            self._metrics.registry,
            now=time.time,
            liveness=self._health.liveness,
            draining=self._recycling.acting,
            started_at=self._started_at,
        )

    # --- start and stop -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP reads the configuration again.

        Raises DatabaseError when another daemon serves this database, or once its file was found corrupt or gone.
        """
        self._orders.listen()
        try:
            with (
                hold(lock_path(self._database), wait_s=LOCK_WAIT_S, monotonic=time.monotonic, sleep=time.sleep),
                _listen(self._current.watch.config) as listener,
            ):
                self._start(listener)
                while self._orders.wait() is not Order.STOP:
                    self._reload.ask()
                self._stop()
        except Occupied:
            raise DatabaseError(f"another watchdog is already running on {self._database.path}") from None
        if (found := self._database.damage.found) is not None:
            raise DatabaseError(f"{self._database.path} is {found.what}: {found.next}")

    def _start(self, listener: socket.socket) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._own_delay.start()
        self._database.damage.on_found(lambda _found: self._orders.give(Order.STOP))
        self._database.damage.look_at(self._database.path)
        if (note := self._health.look_aside()) is not None:
            log.error(note)
        self._take_up(self._current.targets)
        self._show()
        self._couriers.follow(r.notifier for r in self._current.routes)
        self._couriers.settle()
        self._judge.start()
        self._desk.start()
        self._web_thread = threading.Thread(target=self._web.run, args=([listener],), name="web", daemon=True)
        self._web_thread.start()
        gc.freeze()  # what start-up made is never garbage; collections stay short
        self._schedule.start()
        self._reload.start()
        config = self._current.watch.config
        log.info(
            "watching",
            targets=list(self._current.targets),
            web=f"http://{config.web.listen}/",
            database=str(self._database.path),
        )

    def _stop(self) -> None:
        """No new probes, judge what is measured, finish the delivery under way, leave episodes to be resumed."""
        began = time.monotonic()
        left: Callable[[], float] = lambda: max(0.1, STOP_DEADLINE_S - (time.monotonic() - began))  # noqa: E731
        log.info("stopping")
        self._stopping.set()
        self._schedule.stop()
        self._reload.stop(left())
        self._judge.stop(left())
        self._desk.stop(left())
        self._couriers.stop(deadline_s=left())
        self._web.should_exit = True
        self._web_thread.join(left())
        for target in self._current.targets.values():
            target.close()
        self._gpu.close()
        self._transport.close()
        self._own_delay.stop()
        log.info("stopped", seconds=round(time.monotonic() - began, 2))

    def _take_up(self, fresh: Iterable[str]) -> None:
        """Go on where the last run, or the last configuration, ended."""
        with self._database.write(durable=True) as connection:
            buried = take_up(
                connection,
                self._current.watch,
                self._effects,
                fresh=[self._current.targets[name] for name in fresh],
                running=self._desk.taken(),
                now=time.time(),
            )
        for notifier, count in buried.items():
            self._metrics.deliveries.labels(notifier, DeliveryResult.DEAD).inc(count)
            log.error("messages were given up: the notifier is no longer configured", notifier=notifier, count=count)

    def _show(self, rebuilt: Iterable[str] = ()) -> None:
        """Have the series of what is watched, with what stands about it."""
        self._metrics.follow(
            canaries_of(self._current.watch.config),
            notifiers=self._current.notifiers(),
            recycled=recycled_of(self._current.watch.config),
            rebuilt=frozenset(rebuilt),
        )
        with self._database.read() as connection:
            self._effects.restore(connection)

    # --- what happens meanwhile ---------------------------------------------------------------------------------------

    def _adopt(self, before: Watch, after: Watch, change: Change) -> None:
        """Exchange the configuration in use; on the judge thread, between two results."""
        app = self._new_app(after.config)
        self._current.exchange(after)
        try:
            self._take_up((*change.targets_new, *change.targets_changed))
            self._show(rebuilt=change.targets_changed)
        except BaseException:
            self._current.exchange(before)
            raise
        self._app = app
        self._use_log(after.config.log)
        self._couriers.follow(r.notifier for r in after.routes)
        self._schedule.follow()
        self._wake()

    def _wake(self) -> None:
        self._couriers.wake()
        self._desk.wake()

    def _on_tick(self) -> None:
        self._database.damage.look_at(self._database.path)
        for work in (self._pipeline.tick, self._backlog.look, self._health.look_aside):
            self._judge.put(work)

    def _on_end(self, episode: Episode) -> None:
        if episode.target in self._current.targets:
            self._effects.recycle_ended(episode)
        else:  # its counters are gone with it
            self._wake()

    def _keep_house(self) -> None:
        if keep_house(self._database, retention_of(self._current.watch.config.store), now=time.time()):
            self._judge.put(self._keep_house)  # behind the results that came in meanwhile

    def _count_delivery(self, notifier: str, result: DeliveryResult) -> None:
        self._metrics.deliveries.labels(notifier, result).inc()

    def _gpu_note(self) -> str | None:
        """Where no target may be on a GPU, NVML is not asked."""
        targets = {name: t.gpu for name, t in self._current.targets.items() if t.gpu is not None}
        notes = [f"{name}: {note}" for name, gpu in targets.items() if (note := gpu.note()) is not None]
        if targets and (note := self._gpu.note()) is not None:
            notes.insert(0, note)
        return "; ".join(notes) or None

    def _judge_problem(self) -> str | None:
        return None if self._judge.is_alive() else "the judge thread has ended; restart the daemon"


def _listen(config: Config) -> socket.socket:
    """The web side's socket. Raises ConfigError: found out now, not by a thread that dies later."""
    family = socket.AF_INET6 if ":" in config.web.host else socket.AF_INET
    try:
        return socket.create_server((config.web.host, config.web.port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise ConfigError([f"web.listen: cannot listen on {config.web.listen}: {error}"]) from error
