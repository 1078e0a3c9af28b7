"""The SQLite file, its two engines and its transactions, with other threads and processes on it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from builders import DEADLINE_S, NOW, make_burst
from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError

from baselines import burst_store, schema
from baselines.database import Database, DatabaseError, open_database, path_of

HOLD_THE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("INSERT INTO lives VALUES ('chat', 'theirs', 0, 1, 1)")
connection.execute("COMMIT")
"""


def count(database: Database, table=schema.bursts) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


class TestOpening:
    @pytest.mark.parametrize(
        ("url", "advice"),
        [
            ("sqlite:////no/such/folder/w.db", "the folder /no/such/folder does not exist"),
            ("postgresql://host/w", "only a SQLite file is supported; allowed: sqlite:///FILE"),
            ("sqlite://", "only a SQLite file is supported"),
            ("sqlite:///:memory:", "only a SQLite file is supported"),
            ("watchdog.db", "is not a database URL; allowed: sqlite:///FILE"),
            ("", "is not a database URL"),
        ],
        ids=["no folder", "another kind", "no file", "in memory", "no URL", "empty"],
    )
    def test_what_cannot_be_used_says_what_to_do(self, url: str, advice: str) -> None:
        """One line with the key, the value and what is allowed."""
        with pytest.raises(DatabaseError, match=r"store\.url") as error:
            open_database(url)
        assert advice in str(error.value)

    @pytest.mark.parametrize(
        ("url", "path"), [("sqlite:///w.db", "w.db"), ("sqlite:////var/lib/w.db", "/var/lib/w.db")]
    )
    def test_path_of_a_url(self, url: str, path: str) -> None:
        """Three slashes are relative, four absolute."""
        assert path_of(url) == Path(path)

    def test_each_engine_keeps_its_promise_on_every_connection(self, database: Database) -> None:
        """NORMAL (1) for samples, FULL (2) for what must not be lost; WAL and foreign keys on both."""
        for engine, synchronous in ((database.fast, 1), (database.durable, 2)):
            with engine.connect() as first, engine.connect() as second:
                for connection in (first, second):
                    said = [
                        connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                        for name in ("synchronous", "journal_mode", "foreign_keys")
                    ]
                    assert said == [synchronous, "wal", 1]

    def test_foreign_keys_hold(self, database: Database) -> None:
        """A promotion of a baseline that is not there is refused."""
        with pytest.raises(IntegrityError), database.write() as connection:
            connection.execute(
                insert(schema.promotions).values(
                    target="chat", canary="default", baseline_id=9, at=NOW, by="ana", why=""
                )
            )
        assert count(database, schema.promotions) == 0


class TestWriting:
    @pytest.mark.parametrize("durable", [False, True], ids=["fast", "durable"])
    def test_both_engines_see_what_either_committed(self, database: Database, durable: bool) -> None:
        """One file, two promises."""
        with database.write(durable=durable) as connection:
            burst_store.add_burst(connection, make_burst())
        for engine in (database.fast, database.durable):
            with engine.connect() as connection:
                assert burst_store.last_good_at(connection, "chat", "default") == NOW

    @pytest.mark.parametrize("durable", [False, True], ids=["fast", "durable"])
    @pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
    def test_an_exception_takes_the_whole_transaction_back(
        self, database: Database, exception: type[BaseException], durable: bool
    ) -> None:
        """All statements or none, whatever went wrong between them; and the lock is free again."""

        def half() -> None:
            with database.write(durable=durable) as connection:
                burst_store.add_burst(connection, make_burst())
                burst_store.add_burst(connection, make_burst(at=NOW + 1))
                raise exception

        with pytest.raises(exception):
            half()
        assert count(database) == count(database, schema.rollups) == 0
        with database.write() as connection:
            burst_store.add_burst(connection, make_burst())
        assert count(database) == 1

    def test_the_lock_is_held_from_the_first_statement(self, database: Database) -> None:
        """Two that read before they write never work on the same reading: the second waits for the first."""
        seen: list[int] = []
        begun, go_on = threading.Event(), threading.Event()

        def add(wait: bool) -> None:
            with database.write() as connection:
                seen.append(connection.execute(select(func.count()).select_from(schema.bursts)).scalar_one())
                begun.set()
                if wait:
                    assert go_on.wait(DEADLINE_S)
                burst_store.add_burst(connection, make_burst())

        first = threading.Thread(target=add, args=(True,))
        first.start()
        assert begun.wait(DEADLINE_S)
        second = threading.Thread(target=add, args=(False,))
        second.start()
        second.join(0.1)
        assert second.is_alive()
        assert seen == [0]
        go_on.set()
        for thread in (first, second):
            thread.join(DEADLINE_S)
        assert seen == [0, 1]

    def test_the_lock_of_another_process_is_waited_for(self, database: Database) -> None:
        """The command line may hold it for a commit: that is no error."""
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD_THE_LOCK, database.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdin is not None
        assert child.stdout is not None
        with child:
            assert child.stdout.readline() == b"held\n"

            def add() -> None:
                with database.write(durable=True) as connection:
                    connection.exec_driver_sql("INSERT INTO lives VALUES ('chat', 'ours', 0, 1, 1)")

            ours = threading.Thread(target=add)
            ours.start()
            ours.join(0.1)
            assert ours.is_alive()
            child.stdin.write(b"go\n")
            child.stdin.flush()
            ours.join(DEADLINE_S)
        with database.read() as connection:
            rows = connection.exec_driver_sql("SELECT life FROM lives ORDER BY rowid").scalars().all()
        assert rows == ["theirs", "ours"]


class TestReading:
    def test_a_read_is_one_moment(self, database: Database) -> None:
        """What is committed meanwhile is seen by the next."""
        with database.read() as connection:
            assert burst_store.last_good_at(connection, "chat", "default") is None
            with database.write() as other:
                burst_store.add_burst(other, make_burst())
            assert burst_store.last_good_at(connection, "chat", "default") is None
        with database.read() as connection:
            assert burst_store.last_good_at(connection, "chat", "default") == NOW

    def test_a_writer_holds_up_no_reader(self, database: Database) -> None:
        """The status page answers while a result is being stored."""
        with database.write(durable=True) as writing:
            burst_store.add_burst(writing, make_burst())
            assert count(database) == 0
        assert count(database) == 1
