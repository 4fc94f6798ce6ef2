"""Every number of `query` equals DuckDB's over the same files: the SQL is written out here.

Two accounts, two fleets with devices that are off at times, three days, a name that changes, and a value that
stands for none.
"""

import json
import os
import subprocess

import duckdb
import pytest

PROGRAM = os.path.abspath(os.environ["DEX_ARCHIVE"])
ACCOUNTS = ("01a7362d577a6c3019a474fd6f485823", "11a7362d577a6c3019a474fd6f485823")
SINCE, UNTIL = "2026-10-01T03:00:00Z", "2026-10-03T20:30:00Z"
WINDOW = f"timestamp >= TIMESTAMPTZ '{SINCE}' AND timestamp < TIMESTAMPTZ '{UNTIL}'"
AGGS = "mean,min,max,sum,count,first,last,p50,p90,p95,p99"


def run(*args):
    return subprocess.run([PROGRAM, *args], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("query")
    root = str(folder / "archive")
    for seed, account in enumerate(ACCOUNTS):
        dump = str(folder / f"{seed}.ndjson")
        run("simulate", "--dump", dump, "--devices", "25", "--ticks", "864", "--seed", str(seed + 7))
        run("--archive", root, "import", "--account", account, dump)
    renamed = folder / "renamed.ndjson"
    state = {"deviceId": "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7", "personEmail": "Zoe@example.com", "version": "1"}
    states = [
        state | {"timestamp": "2026-10-01T04:00:00Z", "deviceName": "old-name", "handshakeLatencyMs": -1},
        state | {"timestamp": "2026-10-01T04:10:00Z", "deviceName": "new-name", "handshakeLatencyMs": 41},
        state | {"timestamp": "2026-10-02T04:10:00Z", "deviceName": "new-name", "version": None},
        state | {"timestamp": "2026-10-02T04:20:00Z", "deviceName": "new-name", "version": "2"},
    ]
    renamed.write_text("".join(json.dumps(state) + "\n" for state in states))
    run("--archive", root, "import", "--account", ACCOUNTS[0], str(renamed))
    return root


def query(root, *args):
    return [json.loads(line) for line in run("--archive", root, "query", *args, "--format", "ndjson").splitlines()]


def sql(root, text):
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    found = connection.execute(text.format(files=f"'{root}/device_state/*/*.parquet'", window=WINDOW))
    names = [column[0] for column in found.description]
    return [dict(zip(names, row)) for row in found.fetchall()]


def assert_same(answer, expected, keys):
    assert len(answer) == len(expected) > 0
    by_key = {tuple(row[key] for key in keys): row for row in answer}
    for row in expected:
        found = by_key[tuple(row[key] for key in keys)]
        for name, value in row.items():
            if isinstance(value, float):
                assert found[name] == pytest.approx(value, rel=1e-9), (name, row)
            else:
                assert found[name] == value, (name, row)


def columns(metric):
    """The aggregates of a metric, as DuckDB names and computes them."""
    aggregates = {
        "mean": f"avg({metric})", "min": f"min({metric})::DOUBLE", "max": f"max({metric})::DOUBLE",
        "sum": f"sum({metric})::DOUBLE", "count": f"nullif(count({metric}), 0)::DOUBLE",
        "first": f"arg_min({metric}, timestamp)::DOUBLE", "last": f"arg_max({metric}, timestamp)::DOUBLE",
    } | {f"p{share}": f"quantile_cont({metric}, {share / 100})::DOUBLE" for share in (50, 90, 95, 99)}
    return ", ".join(f"{expression} AS {metric}_{name}" for name, expression in aggregates.items())


START = "strftime(time_bucket(INTERVAL '{every}', timestamp), '%Y-%m-%dT%H:%M:%S.000000Z') AS start"


def fullest(root):
    return sql(root, "SELECT device_id FROM {files} WHERE {window} GROUP BY 1 ORDER BY count(cpu_pct) DESC, 1 LIMIT 1")[0]["device_id"]


def test_trend_of_a_device(root):
    device = fullest(root)
    answer = query(root, "trend", "--device", device, "--metric", "cpu_pct,disk_read_bps", "--agg", AGGS,
                   "--since", SINCE, "--until", UNTIL, "--every", "1h")
    expected = sql(root, f"SELECT {START.format(every='1 hour')}, count(*) AS states, {columns('cpu_pct')}, {columns('disk_read_bps')}"
                   f" FROM {{files}} WHERE {{window}} AND device_id = '{device}' GROUP BY 1 ORDER BY 1")
    assert len(answer) == 66, "a row for every hour, also where there is no state"
    assert_same([row for row in answer if row["states"]], expected, ["start"])
    gaps = [row for row in answer if not row["states"]]
    assert all(value is None for row in gaps for name, value in row.items() if name.startswith("cpu_pct"))


@pytest.mark.parametrize("by", ["platform", "colo", "version"])
def test_trend_of_the_fleet_by_a_column(root, by):
    answer = query(root, "trend", "--fleet", "--by", by, "--metric", "cpu_pct", "--agg", AGGS,
                   "--since", SINCE, "--until", UNTIL, "--every", "6h")
    expected = sql(root, f"SELECT {START.format(every='6 hours')}, coalesce({by}, '(none)') AS {by}, count(*) AS states, {columns('cpu_pct')}"
                   " FROM {files} WHERE {window} GROUP BY 1, 2")
    assert_same([row for row in answer if row["states"]], expected, ["start", by])


def test_a_group_of_metrics_and_windows_that_count(root):
    metric = "tunnel_stats_bytes_sent_upstream"
    answer = query(root, "trend", "--fleet", "--metric", f"rtt,{metric}", "--agg", "mean,sum,rate",
                   "--since", SINCE, "--until", UNTIL, "--every", "1d")
    expected = sql(root, f"SELECT {START.format(every='1 day')}, sum({metric})::DOUBLE AS {metric}_sum,"
                   f" sum({metric}) / (sum(tunnel_stats_stats_window_ms) FILTER ({metric} IS NOT NULL) / 1000) AS {metric}_rate,"
                   " avg(rtt_rtt_us_downstream) AS rtt_rtt_us_downstream_mean FROM {files} WHERE {window} GROUP BY 1")
    assert_same(answer, expected, ["start"])


def test_shares_of_a_text(root):
    answer = query(root, "trend", "--fleet", "--metric", "status", "--since", SINCE, "--until", UNTIL, "--every", "6h")
    expected = sql(root, f"SELECT {START.format(every='6 hours')}, count(*) AS states, avg((status = 'connected')::INT) AS \"status=connected\""
                   " FROM {files} WHERE {window} GROUP BY 1")
    assert_same(answer, expected, ["start"])


def test_latest(root):
    at = "2026-10-02T12:00:00Z"
    answer = query(root, "latest", "--at", at, "--back", "6h", "--column", "device_name,version,status,cpu_pct,disk_read_bps")
    expected = sql(root, "SELECT device_id, strftime(max(timestamp), '%Y-%m-%dT%H:%M:%S.%fZ') AS timestamp,"
                   " arg_max(struct_pack(n := device_name), timestamp).n AS device_name, arg_max(struct_pack(n := status), timestamp).n AS status,"
                   " arg_max(struct_pack(n := cpu_pct), timestamp).n AS cpu_pct, arg_max(struct_pack(n := disk_read_bps), timestamp).n AS disk_read_bps"
                   f" FROM {{files}} WHERE timestamp <= TIMESTAMPTZ '{at}' AND timestamp > TIMESTAMPTZ '{at}' - INTERVAL '6 hours' GROUP BY 1")
    assert_same(answer, expected, ["device_id"])


def test_changes(root):
    answer = query(root, "changes", "--column", "version,status", "--since", SINCE, "--until", UNTIL)
    # Each first state of a run of equal values, and when the run before it began.
    per_column = " UNION ALL ".join(
        f"""SELECT device_id, '{name}' AS "column", previous AS "from", value AS "to", timestamp AS moment,
                   lag(timestamp) OVER (PARTITION BY device_id ORDER BY timestamp) AS began
            FROM (SELECT device_id, timestamp, {name} AS value,
                         lag({name}) OVER (PARTITION BY device_id ORDER BY timestamp) AS previous
                  FROM {{files}} WHERE {{window}} AND {name} IS NOT NULL)
            WHERE previous IS DISTINCT FROM value"""
        for name in ("version", "status")
    )
    expected = sql(root, f"""SELECT strftime(moment, '%Y-%m-%dT%H:%M:%S.%fZ') AS at, device_id, "column", "from", "to",
                                    epoch_us(moment - began) / 1e6 AS after_s
                             FROM ({per_column}) WHERE "from" IS NOT NULL""")
    assert_same(answer, expected, ["at", "device_id", "column"])
    renamed = [row for row in answer if row["device_id"].startswith("cb49c27f")]
    assert [(row["from"], row["to"]) for row in renamed] == [("1", "2")], "a state without a value changes nothing"


@pytest.mark.parametrize("resource,list", [("cpu", "cpu_pct_by_app"), ("ram", "ram_used_pct_by_app")])
def test_apps(root, resource, list):
    value = list.removesuffix("_by_app")
    answer = query(root, "apps", "--resource", resource, "--since", SINCE, "--until", UNTIL, "--top", "7")
    expected = sql(root, f"SELECT app.name AS app, count(*) AS states, avg(app.{value}) AS {value}_mean, max(app.{value}) AS {value}_max"
                   f" FROM (SELECT unnest({list}) AS app FROM {{files}} WHERE {{window}}) WHERE app.{value} IS NOT NULL AND app.name IS NOT NULL"
                   f" GROUP BY 1 ORDER BY sum(app.{value}) DESC LIMIT 7")
    assert_same(answer, expected, ["app"])
    assert [row["app"] for row in answer] == [row["app"] for row in expected]


def test_a_device_is_named_in_many_ways(root):
    window = ("--since", SINCE, "--until", UNTIL, "--every", "3d", "--metric", "handshake_latency_ms", "--agg", "mean,min")
    for name in ("cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7", "cb49c2", "NEW-name", "old-name", "new-*", "zoe@example.com"):
        rows = [row for row in query(root, "trend", "--device", name, *window) if row["states"]]
        assert {row["device_name"] for row in rows} == {"new-name"}, name
        assert rows[0]["handshake_latency_ms_mean"] == rows[0]["handshake_latency_ms_min"] == 41, "-1 stands for none"


def test_forms(root):
    device = fullest(root)
    args = ("--archive", root, "query", "trend", "--device", device, "--since", SINCE, "--until", UNTIL, "--every", "1d")
    rows = [json.loads(line) for line in run(*args, "--format", "ndjson").splitlines()]
    assert json.loads(run(*args, "--format", "json")) == rows
    head, *lines = run(*args, "--format", "csv").splitlines()
    assert head.split(",")[:3] == ["start", "device_id", "device_name"] and len(lines) == len(rows) == 3
    assert run(*args, "--format", "markdown").splitlines()[0].startswith("| start (UTC)")
    assert device in run(*args)
