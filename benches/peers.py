"""The peers of `compare_query`: answers questions about an archive and says how long each took, in milliseconds.

A line on stdin is a JSON object with the peer, the question and the archive; a line on stdout is a number.
"""

import glob
import json
import sys
import time

import duckdb
import polars

# The questions of compare_query.rs, in DuckDB's SQL. `{files}` is the archive, `{device}` a device's id.
HOURLY = (
    "time_bucket(INTERVAL '1 hour', timestamp) AS start, avg(cpu_pct), min(cpu_pct), max(cpu_pct),"
    " quantile_cont(cpu_pct, 0.95), avg(rtt_rtt_us_downstream)"
)
SQL = {
    "device": f"SELECT {HOURLY} FROM {{files}} WHERE device_id = '{{device}}' GROUP BY 1 ORDER BY 1",
    "fleet": f"SELECT {HOURLY} FROM {{files}} WHERE date = DATE '2026-10-15' GROUP BY 1 ORDER BY 1",
    "latest": "SELECT device_id, max(timestamp), "
    + ", ".join(f"arg_max({name}, timestamp)" for name in ("device_name", "platform", "version", "mode", "status", "colo"))
    + " FROM {files} WHERE date BETWEEN DATE '2026-10-24' AND DATE '2026-10-30' GROUP BY 1 ORDER BY 1",
}


def sql(question, archive, device):
    files = f"read_parquet('{archive}/device_state/*/*.parquet', hive_partitioning = true)"
    return SQL[question].format(files=files, device=device)


def ask_duckdb(connection, question, archive, device):
    return connection.execute(sql(question, archive, device)).fetchnumpy()


def ask_polars(_connection, question, archive, device):
    days = {"fleet": "2026-10-15"}.get(question, "*")
    paths = [f"{archive}/device_state/date={days}/*.parquet"]
    if question == "latest":
        paths = [path for day in range(24, 31) for path in glob.glob(f"{archive}/device_state/date=2026-10-{day}/*.parquet")]
    states = polars.scan_parquet(paths)
    if question == "latest":
        columns = ("device_name", "platform", "version", "mode", "status", "colo")
        return states.select("device_id", "timestamp", *columns).sort("timestamp").group_by("device_id").last().collect()
    if question == "device":
        states = states.filter(polars.col("device_id") == device)
    cpu = polars.col("cpu_pct")
    aggregates = [cpu.mean(), cpu.min().alias("min"), cpu.max().alias("max"), cpu.quantile(0.95, "linear").alias("p95"),
                  polars.col("rtt_rtt_us_downstream").mean()]
    return states.group_by(polars.col("timestamp").dt.truncate("1h")).agg(aggregates).sort("timestamp").collect()


def main():
    if len(sys.argv) > 1:
        print(sql(*sys.argv[1:]))
        return
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    peers = {"DuckDB": ask_duckdb, "Polars": ask_polars}
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.perf_counter()
        peers[asked["peer"]](connection, asked["question"], asked["archive"], asked["device"])
        print((time.perf_counter() - began) * 1e3, flush=True)


main()
