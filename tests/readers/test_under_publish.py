"""Readers that query in a loop while days are published, more than ten times a second.

Handed a list of files, every reader gets the right rows or a clean 'no such file', and the right rows
once the query is repeated. Left to list the folders itself, a reader may also lose a whole day: pyarrow
and DuckDB list a folder, then look up each name, and pass over one that a publish has replaced in
between. No writer can keep them from that; what is asserted is that they never get a doubled row or a
part of a day, and how often it happened is told.
"""

import glob
import itertools
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
SECONDS = 6
DAYS = 3
# Seconds from one round of publishes, one for each day, to the next: twelve publishes a second.
EVERY = 0.25
# A slow query may meet several publishes in a row; in an archive that is swept, never.
REPEATS = 5
KEY = ["device_id", "timestamp"]


def run(*args):
    subprocess.run([PROGRAM, *args], check=True, capture_output=True)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """An archive of three days, and a state of each: importing them again publishes every day and changes no row."""
    folder = tmp_path_factory.mktemp("busy")
    dump, again, root = folder / "states.ndjson", folder / "again.ndjson", str(folder / "archive")
    run("simulate", "--dump", str(dump), "--devices", "5", "--ticks", "600")
    run("--archive", root, "import", "--account", ACCOUNT, str(dump))
    states = dump.read_text().splitlines(keepends=True)
    again.write_text("".join(states[len(states) * day // 6] for day in (1, 3, 5)))
    return root, str(again)


def by_duckdb(files):
    sql = "SELECT count(*), count(DISTINCT (device_id, timestamp)) FROM read_parquet(?)"
    return duckdb.connect().execute(sql, [files]).fetchall()[0]


def by_pandas(files):
    frame = pandas.read_parquet(files, columns=KEY)
    return len(frame), len(frame.drop_duplicates(KEY))


def by_polars(files):
    frame = polars.scan_parquet(files).select(KEY).collect()
    return frame.height, frame.unique().height


def files_of(root):
    return sorted(glob.glob(f"{root}/device_state/*/*.parquet"))


def glob_of(root):
    return f"{root}/device_state/*/*.parquet"


def folder_of(root):
    return f"{root}/device_state"


def query_while_publishing(published, query):
    """What each query found; one that met a file that was gone is repeated, and then finds something."""
    root, again = published
    ended, publishes, found, missing = time.monotonic() + SECONDS, [], [], 0

    def publish():
        # A busy machine takes longer for as many.
        while (begun := time.monotonic()) < ended or len(publishes) <= 10 * SECONDS:
            run("--archive", root, "import", "--account", ACCOUNT, again)
            publishes.extend(range(DAYS))
            time.sleep(max(0, begun + EVERY - time.monotonic()))

    writer = threading.Thread(target=publish)
    writer.start()
    try:
        while writer.is_alive():
            for _ in range(REPEATS):
                try:
                    found.append(query(root))
                    break
                except Exception as error:  # each reader has its own class for a file that is gone
                    said = str(error)
                    gone = ("No such file", "os error 2", "No files found", "FileNotFound", "does not exist")
                    assert isinstance(error, FileNotFoundError) or any(word in said for word in gone), error
                    missing += 1
            else:
                pytest.fail(f"{REPEATS} times in a row a file was gone")
    finally:
        writer.join()
    assert len(publishes) > 10 * SECONDS, "an import failed"
    assert len(found) > 10
    print(f"{len(found) + missing} queries during {len(publishes)} publishes, {missing} met a day that was gone")
    return found


@pytest.mark.parametrize("reader", [by_duckdb, by_pandas, by_polars])
def test_a_list_of_files_is_read_right_or_not_at_all(published, reader):
    expected = reader(files_of(published[0]))
    assert expected[0] == expected[1] > 0
    assert set(query_while_publishing(published, lambda root: reader(files_of(root)))) == {expected}
    assert reader(files_of(published[0])) == expected


@pytest.mark.parametrize(("reader", "place"), [(by_duckdb, glob_of), (by_pandas, folder_of), (by_polars, glob_of)])
def test_a_folder_is_never_read_double_or_in_part(published, reader, place):
    root = published[0]
    expected = reader(place(root))
    days = [reader([file])[0] for file in files_of(root)]
    whole_days = {sum(some) for count in range(1, DAYS + 1) for some in itertools.combinations(days, count)}
    found = query_while_publishing(published, lambda root: reader(place(root)))
    assert all(rows == distinct and rows in whole_days for rows, distinct in found), set(found)
    print(f"{sum(one != expected for one in found)} of {len(found)} lost a day")
    assert reader(place(root)) == expected
