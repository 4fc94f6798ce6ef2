"""The peers of `compare_query`: answers questions about an archive and says how long each took, in milliseconds.

The first line on stdout says which versions they are. A line on stdin is a JSON object with the peer, the question, the
archive and the device; a line on stdout is a number or, with `check`, what the answer comes to.

    peers.py QUESTION ARCHIVE DEVICE    prints the question in DuckDB's SQL
"""

import datetime
import json
import platform
import sys
import time
import zlib

import duckdb
import polars as pl

METRICS = ("cpu_pct", "rtt_rtt_us_downstream")
LATEST = ("device_name", "platform", "version", "mode", "status", "colo")

# The questions of compare_query.rs, in DuckDB's SQL. `{files}` is the archive, `{device}` a device's id.
HOURLY = "time_bucket(INTERVAL '1 hour', timestamp) AS start, count(*) AS states, " + ", ".join(
    f"avg({name}) AS {name}_mean, min({name}) AS {name}_min, max({name}) AS {name}_max,"
    f" quantile_cont({name}, 0.95) AS {name}_p95"
    for name in METRICS
)
NEWEST = f"arg_max(struct_pack({', '.join(f'{name} := {name}' for name in LATEST)}), timestamp)"
SQL = {
    "device": f"SELECT {HOURLY} FROM {{files}} WHERE device_id = '{{device}}' GROUP BY 1 ORDER BY 1",
    "fleet": f"SELECT {HOURLY} FROM {{files}} WHERE date = DATE '2026-10-15' GROUP BY 1 ORDER BY 1",
    "latest": f"SELECT device_id, max(timestamp) AS timestamp, unnest({NEWEST}) FROM {{files}}"
    " WHERE date BETWEEN DATE '2026-10-24' AND DATE '2026-10-30' GROUP BY 1 ORDER BY 1",
}


def sql(question, archive, device):
    files = f"read_parquet('{archive}/device_state/*/*.parquet', hive_partitioning = true)"
    return SQL[question].format(files=files, device=device)


def connected(*settings):
    connection = duckdb.connect()
    for setting in ("TimeZone = 'UTC'", *settings):
        connection.execute(f"SET {setting}")
    return connection


class DuckDB:
    def __init__(self, *settings):
        self.connection = connected(*settings)

    def ask(self, question, archive, device):
        return self.connection.execute(sql(question, archive, device)).fetchnumpy()

    def columns(self, answer):
        return {name: values.tolist() for name, values in answer.items()}


class Polars:
    def ask(self, question, archive, device):
        days = {"device": ["*"], "fleet": ["2026-10-15"], "latest": [f"2026-10-{day}" for day in range(24, 31)]}[question]
        states = pl.scan_parquet([f"{archive}/device_state/date={day}/*.parquet" for day in days])
        if question == "latest":
            newest = [pl.col(name).max_by("timestamp") for name in LATEST]
            return states.group_by("device_id").agg(pl.col("timestamp").max(), *newest).sort("device_id").collect()
        if question == "device":
            states = states.filter(pl.col("device_id") == device)
        aggregates = [aggregate for name in METRICS for aggregate in self.aggregates(name)]
        hours = states.group_by(pl.col("timestamp").dt.truncate("1h").alias("start"))
        return hours.agg(pl.len().alias("states"), *aggregates).sort("start").collect()

    def aggregates(self, name):
        values = pl.col(name)
        kinds = {"mean": values.mean(), "min": values.min(), "max": values.max(), "p95": values.quantile(0.95, "linear")}
        return [aggregate.alias(f"{name}_{kind}") for kind, aggregate in kinds.items()]

    def columns(self, answer):
        return answer.to_dict(as_series=False)


def weight(value):
    """What a value adds to the sum of its column."""
    if value is None:
        return 0
    if isinstance(value, datetime.datetime):
        value = value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return zlib.crc32(value.encode()) if isinstance(value, str) else value


def checked(columns):
    sums = {name: float(sum(map(weight, values))) for name, values in columns.items()}
    return {"rows": len(next(iter(columns.values()))), "sums": sums}


def main():
    if len(sys.argv) > 1:
        print(sql(*sys.argv[1:]))
        return
    peers = {
        "DuckDB": DuckDB(),
        "DuckDB, metadata cached": DuckDB("parquet_metadata_cache = true"),
        "Polars": Polars(),
    }
    versions = f"DuckDB {duckdb.__version__}, Polars {pl.__version__}, Python {platform.python_version()}"
    print(versions, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        peer = peers[asked["peer"]]
        began = time.perf_counter()
        answer = peer.ask(asked["question"], asked["archive"], asked["device"])
        milliseconds = (time.perf_counter() - began) * 1e3
        print(json.dumps(checked(peer.columns(answer))) if asked["check"] else milliseconds, flush=True)


main()
