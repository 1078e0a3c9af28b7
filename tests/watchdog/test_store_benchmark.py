"""The benchmark of the store runs, and its short cut leaves behind what the long way does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The hours that a few hours leave behind, with all details and without, as two lines.
BOTH_WAYS = """
import sys
from pathlib import Path
from baselines import rollup_store
from baselines.database import open_database
from benchmarks.store_year import Year
from watchdog.migrations.migrate import bring_up_to_date
for thin in (False, True):
    database = open_database(f"sqlite:///{sys.argv[1]}/{thin}.db")
    bring_up_to_date(database)
    year = Year(database, ["encoder"], [], begin=1_800_000_000.0 // 3600 * 3600, days=30)
    for hour in range(4):
        year.pass_hour(hour, thin=thin)
    with database.read() as connection:
        print(
            rollup_store.rollups_since(connection, "encoder", "default", since=0, limit=9),
            rollup_store.memory_rollups_since(connection, "encoder", since=0, limit=9),
        )
    database.close()
"""


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    """Python, where the benchmarks can be imported."""
    return subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, check=False, timeout=150)


@pytest.mark.slow
def test_days_pass_and_are_reported(tmp_path: Path) -> None:
    """Every burst, sample and hour of two days is in the report; whether times met their goals is not judged here."""
    path = tmp_path / "store.json"
    ended = run("-m", "benchmarks.store", "--days", "2", "--targets", "1", "--json", str(path))
    assert ended.returncode in (0, 2), ended.stderr
    report = json.loads(path.read_text())
    rows = report["figures"]["rows_by_table"]
    assert (rows["bursts"], rows["memory_samples"]) == (2 * 1440, 2 * 5760)
    assert (rows["rollups"], rows["memory_rollups"]) == (48, 48)
    assert rows["baselines"] == rows["promotions"] == 1
    assert {"page", "judging: window of bursts", "api: incidents"} <= {q["name"] for q in report["figures"]["queries"]}
    assert report["goals"][0]["met"] is True
    layouts = report["figures"]["layouts"]
    assert layouts["a row a burst"]["bytes_a_burst"] < layouts["a row a request"]["bytes_a_burst"]


def test_the_thin_way_leaves_the_same_hours(tmp_path: Path) -> None:
    """What it skips is deleted for its age before anybody looks; what outlives it is the same to the last bucket."""
    ended = run("-c", BOTH_WAYS, str(tmp_path))
    whole, thin = ended.stdout.splitlines()
    assert whole == thin
    assert whole.count("MemoryRollup(") == 4
