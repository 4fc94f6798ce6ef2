"""The README's recipes for other engines: each answers as DuckDB does, and leaves the archive as it is.

Polars, ClickHouse (chDB) and Dask read the folder; Delta, Iceberg and DuckLake register its files, unmoved. DuckLake's
extension comes from PyPI here, where it is made for DuckDB 1.5 only, so that its recipe runs in a process of its own.
"""

import io
import json
import os
import subprocess
import sys
from glob import glob

import chdb
import dask.dataframe
import duckdb
import pandas
import polars
import pyarrow
import pyarrow.parquet
import pytest
from deltalake import DeltaTable, QueryBuilder
from pyiceberg.catalog.sql import SqlCatalog

PARTS = "dex-archive-data/device_state/*/*.parquet"
CLICKHOUSE = "FROM file('dex-archive-data/device_state/date=*/*.parquet')"
FOLDERS = ["ClickHouse", "Polars", "Dask"]
CATALOGUES = ["Delta", "Iceberg", "DuckLake"]
TYPES = {  # By Parquet's type; of lists, what the name of the type begins with.
    "ClickHouse": {
        "string": "Nullable(String)", "bool": "Nullable(Bool)", "int64": "Nullable(Int64)", "double": "Nullable(Float64)",
        "timestamp[us, tz=UTC]": "Nullable(DateTime64(6, 'UTC'))", "list": "Array(Tuple(", "date": "Date",
    },
    "Delta": {
        "string": "string", "bool": "boolean", "int64": "long", "double": "double",
        "timestamp[us, tz=UTC]": "timestamp", "list": "array", "date": "date",
    },
    "Iceberg": {
        "string": "string", "bool": "boolean", "int64": "long", "double": "double",
        "timestamp[us, tz=UTC]": "timestamptz", "list": "list<struct<",
    },
}
RUN_IN_LAKE = """
import glob, os, sys, duckdb
(extension,) = glob.glob(os.path.join(sys.argv[1], "duckdb_extension_ducklake", "extensions", "*", "ducklake.duckdb_extension"))
connection = duckdb.connect(config={"extension_directory": "extensions"})
connection.execute(f"INSTALL '{extension}'")
connection.execute(sys.stdin.read()).df().to_csv(sys.stdout, index=False)
"""


def in_lake(lake, sql):
    command = [sys.executable, "-W", "ignore", "-c", RUN_IN_LAKE, lake]
    environment = {**os.environ, "PYTHONPATH": lake}
    ended = subprocess.run(command, input=sql, capture_output=True, text=True, env=environment)
    if ended.returncode != 0:
        raise RuntimeError(ended.stderr)
    return pandas.read_csv(io.StringIO(ended.stdout))


def run(code):
    names = {}
    exec(code, names)
    return names


def answer(engine, code, request):
    """What a recipe answers in the current folder, as a data frame of pandas."""
    if engine == "ClickHouse":
        return chdb.query(code, "DataFrame")
    if engine == "DuckLake":
        return in_lake(request.getfixturevalue("lake"), code)
    found = run(code)["answer"]
    return found.to_pandas() if isinstance(found, polars.DataFrame) else found


def files():
    return {(path, os.path.getsize(path)) for path in glob("dex-archive-data/**", recursive=True, include_hidden=True)}


@pytest.mark.parametrize("engine", FOLDERS + CATALOGUES)
def test_the_recipe(engine, own, recipe, check, request, monkeypatch):
    monkeypatch.chdir(own[0])
    before = files()
    check(answer(engine, recipe(engine), request))
    assert files() == before


def by_delta():
    return DeltaTable("dex-delta/device_state").to_pyarrow_table()


def by_datafusion():
    """Delta's own engine for SQL."""
    table = DeltaTable("dex-delta/device_state")
    return pyarrow.table(QueryBuilder().register("states", table).execute("SELECT * FROM states").read_all())


def iceberg():
    return SqlCatalog("dex", uri=f"sqlite:///{os.path.abspath('dex-iceberg')}/catalog.db").load_table("dex.device_state")


def by_iceberg():
    return iceberg().scan().to_arrow()


def as_registered(engine, code, request):
    """Asks a catalogue as it is."""
    if engine == "DuckLake":
        before, change = code.split("BEGIN;\n")
        in_lake(request.getfixturevalue("lake"), before + change.split("COMMIT;\n")[1])
    else:
        {"Delta": by_delta, "Iceberg": by_iceberg}[engine]()


@pytest.mark.parametrize("engine", CATALOGUES)
def test_after_a_publish_the_recipe_is_run_again(engine, own, recipe, check, request, monkeypatch):
    folder, publish = own
    monkeypatch.chdir(folder)
    code = recipe(engine)
    answer(engine, code, request)
    publish()
    with pytest.raises((FileNotFoundError, RuntimeError), match="[Nn]o such file"):
        as_registered(engine, code, request)
    for _ in range(2):
        check(answer(engine, code, request))


def by_clickhouse():
    return chdb.query(f"SELECT * {CLICKHOUSE}", "ArrowTable")


def by_polars():
    return polars.scan_parquet("dex-archive-data/device_state", hive_partitioning=True).collect().to_arrow()


def by_dask():
    frame = dask.dataframe.read_parquet("dex-archive-data/device_state", dtype_backend="numpy_nullable")
    return pyarrow.Table.from_pandas(frame.compute(), preserve_index=False)


READERS = {
    by_clickhouse: "ClickHouse", by_polars: "Polars", by_dask: "Dask",
    by_delta: "Delta", by_datafusion: "Delta", by_iceberg: "Iceberg",
}
# ClickHouse knows no list that is not there, and pyiceberg forgets the difference.
EMPTY_FOR_NONE = {by_clickhouse, by_iceberg}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_every_value_is_read(reader, own, recipe, monkeypatch, request):
    monkeypatch.chdir(own[0])
    answer(READERS[reader], recipe(READERS[reader]), request)
    read = reader()
    assert ("date" in read.column_names) == (reader is not by_iceberg)
    expected = ordered(f"SELECT * EXCLUDE (date) FROM '{PARTS}'")
    found = ordered(f"SELECT {', '.join(expected.column_names)} FROM read", read)
    assert found.num_rows == expected.num_rows > 7000
    for name in expected.column_names:
        assert found[name].to_pylist() == values(expected[name], reader in EMPTY_FOR_NONE), name


def ordered(sql, read=None):
    return duckdb.sql(f"{sql} ORDER BY device_id, timestamp").to_arrow_table()


def values(column, empty_for_none):
    values = column.to_pylist()
    if empty_for_none and pyarrow.types.is_list(column.type):
        return [value or [] for value in values]
    return values


def described(engine):
    """The types of an engine's columns as it names them."""
    if engine == "ClickHouse":
        return dict(row[:2] for row in json.loads(str(chdb.query(f"DESCRIBE {CLICKHOUSE[5:]}", "JSONCompact")))["data"])
    if engine == "Delta":
        return {field.name: field.type.type for field in DeltaTable("dex-delta/device_state").schema().fields}
    return {field.name: str(field.field_type) for field in iceberg().schema().fields}


@pytest.mark.parametrize("engine", TYPES)
def test_types_are_those_of_the_parquet_schema(engine, own, recipe, monkeypatch, request):
    monkeypatch.chdir(own[0])
    answer(engine, recipe(engine), request)
    found, expected = described(engine), TYPES[engine]
    if "date" in expected:
        assert found.pop("date") == expected["date"]
    fields = pyarrow.parquet.read_schema(glob(PARTS)[0])
    assert list(found) == fields.names
    for field in fields:
        if pyarrow.types.is_list(field.type):
            assert found[field.name].startswith(expected["list"]), field.name
        else:
            assert found[field.name] == expected[str(field.type)], field.name


def test_only_the_day_is_read(own, recipe, monkeypatch):
    monkeypatch.chdir(own[0])
    asked = json.loads(str(chdb.query(recipe("ClickHouse"), "JSON")))["statistics"]["rows_read"]
    days = dict(duckdb.execute(f"SELECT date, count(*) FROM '{PARTS}' GROUP BY date").fetchall())
    names = run(recipe("Iceberg"))
    assert asked == days[names["yesterday"]] < sum(days.values())
    assert len(list(names["table"].scan(names["within"](names["yesterday"])).plan_files())) == 1
    assert run(recipe("Delta"))["day"].explain().count(".parquet") == 1


def test_no_least_and_greatest_values_are_kept_but_of_the_time(own, recipe, monkeypatch):
    """What `forget` takes out of the archive must not stay in a catalogue."""
    monkeypatch.chdir(own[0])
    for engine in "Delta", "Iceberg":
        run(recipe(engine))
    added = pyarrow.table(DeltaTable("dex-delta/device_state").get_add_actions(flatten=True)).to_pylist()
    assert not [part for part in added for name, value in part.items() if name[:4] in ("min.", "max.") and value is not None]
    table = iceberg()
    bounds = [bound for name in ("lower_bounds", "upper_bounds") for bound in table.inspect.files()[name].to_pylist()]
    assert {column for bound in bounds for column, _ in bound} == {table.schema().find_field("timestamp").field_id}
