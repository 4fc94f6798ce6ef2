"""Readers that query in a loop while days are published: never a wrong or a doubled row."""

import os
import subprocess
import threading
import time

import duckdb
import pandas
import polars
import pytest

PROGRAM = os.path.abspath(os.environ["DEX_ARCHIVE"])
ACCOUNT = "01a7362d577a6c3019a474fd6f485823"
SECONDS = 8


def run(*args):
    subprocess.run([PROGRAM, *args], check=True, capture_output=True)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """An archive, and files that change none of its rows when they are imported again."""
    folder = tmp_path_factory.mktemp("busy")
    dump, root = folder / "states.ndjson", str(folder / "archive")
    run("simulate", "--dump", str(dump), "--devices", "20", "--ticks", "40")
    run("--archive", root, "import", "--account", ACCOUNT, str(dump))
    return root, str(dump)


def duckdb_counts(root):
    sql = f"SELECT count(*), count(DISTINCT (device_id, timestamp)) FROM '{root}/device_state/*/*.parquet'"
    return duckdb.connect().execute(sql).fetchall()[0]


def pandas_counts(root):
    frame = pandas.read_parquet(f"{root}/device_state", columns=["device_id", "timestamp"])
    return len(frame), len(frame.drop_duplicates(["device_id", "timestamp"]))


def polars_counts(root):
    frame = polars.scan_parquet(f"{root}/device_state/*/*.parquet").select("device_id", "timestamp").collect()
    return frame.height, frame.unique().height


@pytest.mark.parametrize("count", [duckdb_counts, pandas_counts, polars_counts])
def test_a_query_during_publishes_is_right_or_clean(published, count):
    root, dump = published
    expected, ended, publishes = count(root), time.monotonic() + SECONDS, []
    assert expected[0] == expected[1] > 0

    def publish():
        while time.monotonic() < ended:
            run("--archive", root, "import", "--account", ACCOUNT, dump)
            publishes.append(1)

    writer = threading.Thread(target=publish)
    writer.start()
    queries = missing = 0
    while time.monotonic() < ended:
        try:
            assert count(root) == expected
        except AssertionError:
            raise
        except Exception as error:  # each reader has its own class for a file that is gone
            assert "No such file" in str(error) or "os error 2" in str(error), error
            missing += 1
        queries += 1
    writer.join()
    assert count(root) == expected
    assert queries - missing > 10 and len(publishes) > 5
    print(f"{count.__name__}: {queries} queries, {missing} met a day that was gone, {len(publishes)} publishes")
