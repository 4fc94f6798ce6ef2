"""DuckDB, pandas and Polars read an archive as it lies, with the types that the schema promises."""

import json
import os
import subprocess
from glob import glob as files

import duckdb
import pandas
import polars
import pyarrow.dataset
import pytest

PROGRAM = os.path.abspath(os.environ["DEX_ARCHIVE"])
ACCOUNT = "01a7362d577a6c3019a474fd6f485823"
DUCKDB_TYPES = {
    "string": "VARCHAR",
    "boolean": "BOOLEAN",
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
}
PANDAS_TYPES = {
    "string": "string",
    "boolean": "boolean",
    "int64": "Int64",
    "float64": "Float64",
    "timestamp": "datetime64[us, UTC]",
    "list": "object",
}
POLARS_TYPES = {
    "string": polars.String,
    "boolean": polars.Boolean,
    "int64": polars.Int64,
    "float64": polars.Float64,
    "timestamp": polars.Datetime("us", "UTC"),
}


def run(*args):
    return subprocess.run([PROGRAM, *args], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """30 devices, 30 hours of states: two days, imported from a dump."""
    folder = tmp_path_factory.mktemp("archive")
    dump, root = str(folder / "states.ndjson"), str(folder / "archive")
    run("simulate", "--dump", dump, "--devices", "30", "--ticks", "360", "--shape", "mixed")
    run("--archive", root, "import", "--account", ACCOUNT, dump)
    return root, dump


@pytest.fixture(scope="module")
def columns():
    return {table["dataset"]: table["columns"] for table in json.loads(run("schema", "--format", "json"))}


def ask(sql, connection=None):
    return (connection or duckdb.connect()).execute(sql).fetchall()


def glob(root):
    return f"{root}/device_state/*/*.parquet"


def distinct_states(dump):
    with open(dump) as lines:
        states = [json.loads(line) for line in lines]
    return len({(s["deviceId"], s.get("registrationId"), str(s["timestamp"])) for s in states})


@pytest.mark.parametrize("place", [glob, "{}/device_state/**".format, "{}/device_state/".format], ids=["glob", "deep", "folder"])
def test_duckdb_types(archive, columns, place):
    described = ask(f"DESCRIBE SELECT * FROM read_parquet('{place(archive[0])}')")
    types = {row[0]: row[1] for row in described}
    assert types.pop("date") == "DATE"
    assert list(types) == [column["name"] for column in columns["device_state"]]
    for column in columns["device_state"]:
        if column["type"] == "list":
            assert types[column["name"]].startswith("STRUCT(") and types[column["name"]].endswith(")[]")
        else:
            assert types[column["name"]] == DUCKDB_TYPES[column["type"]], column["name"]


def test_every_state_is_there_once(archive):
    root, dump = archive
    rows, keys, days = ask(
        f"SELECT count(*), count(DISTINCT (device_id, registration_id, timestamp)), count(DISTINCT date) FROM '{glob(root)}'"
    )[0]
    assert rows == keys == distinct_states(dump)
    assert days == 2


def test_a_state_is_in_the_day_of_its_timestamp(archive):
    wrong = ask(
        f"SELECT count(*) FROM '{glob(archive[0])}' WHERE (timestamp AT TIME ZONE 'UTC')::DATE <> date"
    )[0]
    assert wrong == (0,)


def test_polars_by_glob_and_by_folder(archive, columns):
    root, _ = archive
    by_glob = polars.scan_parquet(glob(root)).collect()
    by_folder = polars.scan_parquet(f"{root}/device_state").collect()
    assert by_glob.height == by_folder.height
    assert by_folder.schema["date"] == polars.Date
    for column in columns["device_state"]:
        if column["type"] == "list":
            assert isinstance(by_glob.schema[column["name"]], polars.List)
        else:
            assert by_glob.schema[column["name"]] == POLARS_TYPES[column["type"]], column["name"]


@pytest.mark.parametrize("by_glob", [False, True], ids=["folder", "glob"])
def test_pandas_types(archive, columns, by_glob):
    root, _ = archive
    place = sorted(files(glob(root))) if by_glob else f"{root}/device_state"
    frame = pandas.read_parquet(place, dtype_backend="numpy_nullable")
    expected = ask(f"SELECT count(*), sum(disk_read_bps), max(cpu_pct) FROM '{glob(root)}'")[0]
    assert (len(frame), frame["disk_read_bps"].sum(), frame["cpu_pct"].max()) == expected
    if not by_glob:
        assert list(frame["date"].astype(str).unique()) == ["2026-10-01", "2026-10-02"]
    for column in columns["device_state"]:
        assert str(frame[column["name"]].dtype) == PANDAS_TYPES[column["type"]], column["name"]


def test_rows_are_sorted_and_carry_their_schema(archive):
    for fragment in pyarrow.dataset.dataset(f"{archive[0]}/device_state", partitioning="hive").get_fragments():
        table = fragment.to_table(columns=["device_id", "timestamp"])
        assert table.equals(table.sort_by([("device_id", "ascending"), ("timestamp", "ascending")]))
        metadata = fragment.metadata.metadata
        assert metadata[b"dex_archive.format"] == b"1"
        assert len(metadata[b"dex_archive.schema_fingerprint"]) == 16


def test_duckdb_views(archive):
    connection = duckdb.connect()
    connection.execute(run("--archive", archive[0], "schema", "--format", "duckdb").split("CREATE OR REPLACE VIEW poll")[0])
    apps, = ask("SELECT count(*) FROM cpu_pct_by_app WHERE cpu_pct >= 0", connection)[0]
    listed, = ask("SELECT sum(len(list_filter(cpu_pct_by_app, lambda x: x.cpu_pct >= 0))) FROM device_state", connection)[0]
    assert apps == listed > 0


def test_importing_again_changes_nothing(archive):
    root, dump = archive
    before = ask(f"SELECT count(*) FROM '{glob(root)}'")[0]
    run("--archive", root, "import", "--account", ACCOUNT, dump)
    assert ask(f"SELECT count(*) FROM '{glob(root)}'")[0] == before
