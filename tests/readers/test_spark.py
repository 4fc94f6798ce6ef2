"""Spark reads an archive as it lies, and answers the cookbook's ten questions as DuckDB does."""

import os
import re
from glob import glob

import duckdb
import pyarrow
import pyarrow.parquet
import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession, types
from test_cookbook import PRELUDE, QUESTIONS, snippets, values

SPARK_TYPES = {
    "string": types.StringType(),
    "bool": types.BooleanType(),
    "int64": types.LongType(),
    "double": types.DoubleType(),
    "timestamp[us, tz=UTC]": types.TimestampType(),
}
# The cookbook's questions that use what Spark's SQL has under another name, by their number.
TRANSLATED = {
    1: """
        SELECT version, count(*) AS devices
        FROM (SELECT max_by(version, timestamp) FILTER (WHERE version IS NOT NULL) AS version FROM states GROUP BY device_id)
        GROUP BY version ORDER BY devices DESC, version""",
    5: """
        SELECT colo, percentile(rtt_rtt_us_downstream, 0.5) / 1000 AS p50_ms, percentile(rtt_rtt_us_downstream, 0.95) / 1000 AS p95_ms
        FROM states WHERE rtt_rtt_us_downstream IS NOT NULL GROUP BY colo ORDER BY colo""",
    6: """
        SELECT device_id, max_by(disk_usage_pct, timestamp) FILTER (WHERE disk_usage_pct IS NOT NULL) AS used FROM states
        GROUP BY device_id HAVING used > 80 ORDER BY used DESC, device_id""",
    9: """
        SELECT app.name AS app, count(*) AS states, avg(app.cpu_pct) AS cpu_pct
        FROM (SELECT explode(cpu_pct_by_app) AS app FROM states) GROUP BY app.name ORDER BY sum(app.cpu_pct) DESC LIMIT 10""",
}


@pytest.fixture(scope="module")
def session(folder):
    """Spark's Java takes relative paths from the folder that it was started in."""
    before = os.getcwd()
    os.chdir(folder)
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.memory", "1g").config("spark.driver.host", "127.0.0.1")
    builder = builder.config("spark.sql.shuffle.partitions", "2").config("spark.sql.session.timeZone", "UTC")
    builder = builder.config("spark.sql.maxMetadataStringLength", "10000").config("spark.sql.debug.maxToStringFields", "1000")
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()
    os.chdir(before)


@pytest.fixture(scope="module")
def spark(session):
    """With the views of the cookbook."""
    for view, dataset in ("states", "device_state"), ("polls", "poll"):
        session.read.parquet(f"dex-archive-data/{dataset}").createOrReplaceTempView(view)
    return session


@pytest.fixture
def connection(folder, monkeypatch):
    """DuckDB, with the views of the cookbook."""
    monkeypatch.chdir(folder)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(snippets(PRELUDE)[0])
    return connection


def cookbook(number):
    return snippets(QUESTIONS[number - 1])[0].rstrip().rstrip(";")


def spark_type(kind):
    if pyarrow.types.is_list(kind):
        return types.ArrayType(spark_type(kind.value_type))
    if pyarrow.types.is_struct(kind):
        return types.StructType([types.StructField(field.name, spark_type(field.type)) for field in kind])
    return SPARK_TYPES[str(kind)]


@pytest.mark.parametrize("dataset", ["device_state", "poll"])
def test_types_are_those_of_the_parquet_schema(spark, folder, dataset):
    found = spark.read.parquet(f"dex-archive-data/{dataset}").schema
    for part in glob(f"{folder}/dex-archive-data/{dataset}/*/*.parquet"):
        columns = [(field.name, spark_type(field.type)) for field in pyarrow.parquet.read_schema(part)]
        assert [(field.name, field.dataType) for field in found] == [*columns, ("date", types.DateType())]


def test_partitions_are_the_days(spark, connection):
    days = "SELECT date, count(*) FROM states GROUP BY date ORDER BY date"
    found = [tuple(row) for row in spark.sql(days).collect()]
    assert found == connection.execute(days).fetchall()
    # Fifty hours are of three days; those that end before two in the morning, of four.
    assert len(found) == len(os.listdir("dex-archive-data/device_state")) in (3, 4)


@pytest.mark.parametrize("view", ["states", "polls"])
def test_every_column_is_read(spark, connection, view):
    """The greatest value of each column that has an order; times as microseconds."""
    kinds = {field.name: field.dataType.typeName() for field in spark.table(view).schema}
    names = [name for name, kind in kinds.items() if kind != "array"]
    greatest = {
        name: ("unix_micros(max({}))", "epoch_us(max({}))") if kinds[name] == "timestamp" else ("max({})", "max({})")
        for name in names
    }
    asked = [", ".join(greatest[name][engine].format(name) for name in names) for engine in (0, 1)]
    found = spark.sql(f"SELECT {asked[0]} FROM {view}").collect()[0]
    expected = connection.execute(f"SELECT {asked[1]} FROM {view}").fetchone()
    assert dict(zip(names, found)) == dict(zip(names, expected))


def test_every_element_of_the_lists_is_read(spark, connection):
    for column in "cpu_pct", "ram_used_pct":
        sql = "SELECT count(app.name), max(app.name), max(app.{0}) FROM (SELECT {1}({0}_by_app) AS app FROM states)"
        found = tuple(spark.sql(sql.format(column, "explode")).collect()[0])
        assert found == connection.execute(sql.format(column, "unnest")).fetchone()
        assert found[0] > 0


def scan(spark, sql):
    """Of the one scan in a query's physical plan: the filters of partitions, those pushed to Parquet, what is read."""
    plan = spark.sql(f"EXPLAIN {sql}").collect()[0][0]
    forms = r"PartitionFilters: \[(.*?)\],", r"PushedFilters: \[(.*?)\],", r"ReadSchema: struct<(.*?)>\n"
    return [found for form in forms for found in re.findall(form, plan)]


def test_a_day_of_a_device_is_pushed_down(spark, connection):
    device, day = connection.execute("SELECT device_id, max(date) FROM states GROUP BY ALL ORDER BY ALL LIMIT 1").fetchone()
    sql = f"SELECT timestamp, cpu_pct FROM states WHERE device_id = '{device}' AND date = DATE '{day}'"
    partitions, pushed, columns = scan(spark, sql)
    assert re.fullmatch(rf"isnotnull\(date#\d+\), \(date#\d+ = {day}\)", partitions)
    assert pushed == f"IsNotNull(device_id), EqualTo(device_id,{device})"
    assert columns == "device_id:string,timestamp:timestamp,cpu_pct:double"
    assert spark.sql(sql).count() == len(connection.execute(sql).fetchall()) > 0


def test_a_time_is_pushed_down(spark):
    _, pushed, columns = scan(spark, "SELECT device_id FROM states WHERE timestamp >= TIMESTAMP '2026-10-01 00:00:00Z'")
    assert pushed == "IsNotNull(timestamp), GreaterThanOrEqual(timestamp,2026-10-01 00:00:00.0)"
    assert columns == "device_id:string,timestamp:timestamp"


@pytest.mark.parametrize("number", range(1, len(QUESTIONS) + 1))
def test_the_cookbook_has_the_same_answers(spark, connection, number):
    expected = connection.execute(cookbook(number)).df()
    found = spark.sql(TRANSLATED.get(number, cookbook(number))).toArrow().to_pandas()
    assert list(found.columns) == list(expected.columns)
    assert len(found) == len(expected) > 0
    for one, other in zip(values(found), values(expected)):
        assert one == tuple(pytest.approx(value, rel=1e-9) if isinstance(value, float) else value for value in other)


@pytest.mark.parametrize("number", TRANSLATED)
def test_only_what_must_be_is_translated(spark, number):
    with pytest.raises(AnalysisException, match="UNRESOLVED_ROUTINE"):
        spark.sql(cookbook(number))


def test_the_recipe(spark, recipe, check, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    exec(recipe("Spark"), names)
    check(names["answer"].toArrow().to_pandas())


def test_a_view_is_made_anew_after_a_publish(spark, own):
    folder, publish = own
    place = str(folder / "dex-archive-data" / "device_state")
    before = spark.read.parquet(place)
    rows = before.count()
    publish()
    with pytest.raises(Exception, match="FILE_NOT_EXIST"):
        before.selectExpr("max(cpu_pct)").collect()
    assert spark.read.parquet(place).count() == rows + 1
