"""Every number of `query` equals DuckDB's over the same files: the SQL is written out here.

Two accounts, two fleets with devices that are off at times, three days, a name that changes, and a value that
stands for none.
"""

import datetime
import glob
import json
import os
import pty
import random
import shutil
import subprocess
import time
import zoneinfo

import duckdb
import pandas
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


@pytest.mark.parametrize("at,hours", [("2026-10-02T12:00:00Z", 6), ("2026-10-02T03:00:00Z", 25)])
def test_latest(root, at, hours):
    """In the second case one device has its newest state on the day before, among others of devices that have later ones."""
    answer = query(root, "latest", "--at", at, "--back", f"{hours}h", "--column", "device_name,version,status,cpu_pct,disk_read_bps")
    expected = sql(root, "SELECT device_id, strftime(max(timestamp), '%Y-%m-%dT%H:%M:%S.%fZ') AS timestamp,"
                   " arg_max(struct_pack(n := device_name), timestamp).n AS device_name, arg_max(struct_pack(n := status), timestamp).n AS status,"
                   " arg_max(struct_pack(n := cpu_pct), timestamp).n AS cpu_pct, arg_max(struct_pack(n := disk_read_bps), timestamp).n AS disk_read_bps"
                   f" FROM {{files}} WHERE timestamp <= TIMESTAMPTZ '{at}' AND timestamp > TIMESTAMPTZ '{at}' - INTERVAL '{hours} hours' GROUP BY 1")
    assert_same(answer, expected, ["device_id"])


def test_changes(root):
    answer = query(root, "changes", "--column", "version,status", "--since", SINCE, "--until", UNTIL)
    # Each first state of a run of equal values of a registration, and when the run before it began. (Some devices have two.)
    per_column = " UNION ALL ".join(
        f"""SELECT device_id, registration_id, '{name}' AS "column", previous AS "from", value AS "to", timestamp AS moment,
                   lag(timestamp) OVER (PARTITION BY device_id, registration_id ORDER BY timestamp) AS began,
                   lag(previous) OVER (PARTITION BY device_id, registration_id ORDER BY timestamp) IS NULL AS is_first
            FROM (SELECT device_id, registration_id, timestamp, {name} AS value,
                         lag({name}) OVER (PARTITION BY device_id, registration_id ORDER BY timestamp) AS previous
                  FROM {{files}} WHERE timestamp < TIMESTAMPTZ '{UNTIL}' AND {name} IS NOT NULL)
            WHERE previous IS DISTINCT FROM value"""
        for name in ("version", "status")
    )
    expected = sql(root, f"""SELECT strftime(moment, '%Y-%m-%dT%H:%M:%S.%fZ') AS at, device_id, registration_id, "column", "from", "to",
                                    epoch_us(moment - began) / 1e6 AS after_s, is_first AS at_least
                             FROM ({per_column}) WHERE "from" IS NOT NULL AND moment >= TIMESTAMPTZ '{SINCE}'""")
    assert_same(answer, expected, ["at", "device_id", "registration_id", "column"])
    (name,) = {row["device_name"] for row in answer if row["device_id"].startswith("cb49c27f")}
    assert name == "new-name"
    renamed = [row for row in answer if row["device_id"].startswith("cb49c27f")]
    assert [(row["from"], row["to"]) for row in renamed] == [("1", "2")], "a state without a value changes nothing"


def test_changes_of_registrations_side_by_side(tmp_path):
    chance = random.Random(7)
    states = [
        {"deviceId": f"cb49c27f-7f97-49c5-b6f3-f7c01ead0fd{device}", "registrationId": f"{device}-{registration}",
         "timestamp": f"2026-10-01T{hour:02}:{10 * chance.randrange(6):02}:00Z", "status": chance.choice("abc")}
        for device in range(3) for registration in range(1 + device) for hour in range(24)]
    dump, root = tmp_path / "states.ndjson", str(tmp_path / "archive")
    dump.write_text("".join(json.dumps(state) + "\n" for state in states))
    run("--archive", root, "import", "--account", ACCOUNTS[0], str(dump))
    answer = query(root, "changes", "--column", "status", "--since", "2026-10-01", "--until", "2026-10-02")
    expected = sql(root, """SELECT strftime(timestamp, '%Y-%m-%dT%H:%M:%S.%fZ') AS at, device_id, registration_id, "from", status AS "to"
        FROM (SELECT *, lag(status) OVER (PARTITION BY device_id, registration_id ORDER BY timestamp) AS "from" FROM {files})
        WHERE "from" <> status""")
    assert_same(answer, expected, ["at", "device_id", "registration_id"])


def test_changes_day_by_day_are_those_of_all_days(root):
    days = [("2026-10-01", "2026-10-02"), ("2026-10-02", "2026-10-03"), ("2026-10-03", "2026-10-04")]
    ask = lambda since, until: query(root, "changes", "--column", "version,status,colo", "--since", since, "--until", until)
    key = lambda row: (row["at"], row["device_id"], row["column"])
    assert sorted((row for day in days for row in ask(*day)), key=key) == sorted(ask("2026-10-01", "2026-10-04"), key=key)


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_by_itself(root, account, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(f'[[account]]\nname = "this"\nid = "{account}"\n')
    window = ("--since", SINCE, "--until", UNTIL)
    answer = query(root, "trend", "--fleet", "--metric", "cpu_pct", "--agg", "count,mean", "--every", "3d", "--account", account, *window)
    expected = sql(root, f"SELECT {START.format(every='3 days')}, count(*) AS states, count(cpu_pct) AS cpu_pct_count, avg(cpu_pct) AS cpu_pct_mean"
                   f" FROM {{files}} WHERE {{window}} AND account_id = '{account}' GROUP BY 1")
    assert_same([row for row in answer if row["states"]], expected, ["start"])
    assert all(isinstance(row["cpu_pct_count"], int) for row in answer if row["states"])
    latest = query(root, "latest", "--at", UNTIL, "--account", "this", "--config", str(config))
    of_account = sql(root, f"SELECT DISTINCT device_id FROM {{files}} WHERE timestamp <= TIMESTAMPTZ '{UNTIL}' AND account_id = '{account}'")
    assert {row["device_id"] for row in latest} == {row["device_id"] for row in of_account}
    gaps = query(root, "gaps", "--account", account, *window)
    assert len(gaps) == len(of_account) and not any("account_id" in row for row in gaps)
    assert query(root, "apps", "--account", account, *window) != query(root, "apps", *window)
    page = json.loads(run("--archive", root, "report", *window, "--account", account, "--format", "json"))
    facts = {fact["name"]: fact["value"] for fact in page["facts"]}
    assert facts["Account"] == account and facts["Devices seen"] == str(len(of_account)), facts


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


def test_an_id_is_found_however_it_is_written(tmp_path):
    root, file = str(tmp_path / "archive"), tmp_path / "states.ndjson"
    ids = ["CB49C27F-7F97-49C5-B6F3-F7C01EAD0FD7", "db49c27f-7f97-49c5-b6f3-f7c01ead0fd7"]
    states = [{"deviceId": device, "timestamp": "2026-10-01T00:00:00Z", "cpuPct": 7} for device in ids]
    file.write_text("".join(json.dumps(state) + "\n" for state in states))
    run("--archive", root, "import", "--account", ACCOUNTS[0], str(file))
    for device, typed in ((ids[0], ids[0]), (ids[1], ids[1]), (ids[1], ids[1].upper())):
        (row,) = query(root, "latest", "--device", typed, "--at", "2026-10-01T01:00:00Z")
        assert row["device_id"] == device, typed
        (gaps,) = query(root, "gaps", "--device", typed, "--since", "2026-10-01", "--until", "2026-10-02")
        assert (gaps["device_id"], gaps["present"]) == (device, 1), typed


def test_forms(root):
    device = fullest(root)
    args = ("--archive", root, "query", "trend", "--device", device, "--since", SINCE, "--until", UNTIL, "--every", "1d")
    rows = [json.loads(line) for line in run(*args, "--format", "ndjson").splitlines()]
    assert json.loads(run(*args, "--format", "json")) == rows
    head, *lines = run(*args, "--format", "csv").splitlines()
    assert head.split(",")[:3] == ["start", "device_id", "device_name"] and len(lines) == len(rows) == 3
    assert run(*args, "--format", "markdown").splitlines()[0].startswith("| start (UTC)")
    assert device in run(*args)


def test_parquet_as_a_form(root, tmp_path):
    args = ("trend", "--fleet", "--by", "platform", "--since", SINCE, "--until", UNTIL, "--every", "6h")
    path = str(tmp_path / "answer.parquet")
    run("--archive", root, "query", *args, "--format", "parquet", "-o", path)
    rows = query(root, *args)
    frame = pandas.read_parquet(path)
    assert list(frame.columns) == ["start", "platform", "states", "cpu_pct_mean", "rtt_rtt_us_downstream_mean"]
    assert str(frame["start"].dtype) == "datetime64[us, UTC]"
    assert frame["states"].tolist() == [row["states"] for row in rows]
    assert frame["cpu_pct_mean"].dropna().tolist() == [row["cpu_pct_mean"] for row in rows if row["cpu_pct_mean"] is not None]


def test_days_of_a_time_zone(root):
    """On the last Sunday of October the clocks of Berlin go back: DuckDB's zone-aware arithmetic is Python's here."""
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    answer = query(root, "trend", "--fleet", "--metric", "cpu_pct", "--tz", "Europe/Berlin", "--since", "2026-10-01",
                   "--until", "2026-10-03 12:00", "--every", "1d", "--agg", "mean,count")
    days = [datetime.datetime(2026, 10, day, tzinfo=zone) for day in (1, 2, 3)] + [datetime.datetime(2026, 10, 3, 12, tzinfo=zone)]
    assert [row["start"] for row in answer] == [f"2026-10-0{day}T00:00:00.000000+02:00" for day in (1, 2, 3)]
    for row, since, until in zip(answer, days, days[1:]):
        expected = sql(root, f"SELECT avg(cpu_pct) AS mean, count(cpu_pct) AS count, count(*) AS states FROM {{files}}"
                       f" WHERE timestamp >= TIMESTAMPTZ '{since.isoformat()}' AND timestamp < TIMESTAMPTZ '{until.isoformat()}'")[0]
        assert row["cpu_pct_mean"] == pytest.approx(expected["mean"], rel=1e-9)
        assert (row["cpu_pct_count"], row["states"]) == (expected["count"], expected["states"])


def test_charts(root):
    args = ("trend", "--device", fullest(root), "--since", SINCE, "--until", UNTIL, "--every", "1h", "--plot")
    drawn = subprocess.run([PROGRAM, "--archive", root, "query", *args], check=True, capture_output=True, text=True,
                           env=os.environ | {"COLUMNS": "64"}).stdout
    lines = drawn.splitlines()
    assert [line for line in lines if line.endswith("]")] == ["cpu_pct_mean [pct]", "rtt_rtt_us_downstream_mean [us]"]
    assert all(len(line) <= 64 for line in lines)
    dots = sum("\u2800" < letter <= "\u28ff" for letter in drawn)
    assert dots > 60 and drawn.count("┤") == 6 and "10-01 03:00" in drawn, drawn


def test_a_damaged_part_is_named_and_may_be_passed_over(root, tmp_path):
    bent = str(tmp_path / "bent")
    shutil.copytree(root, bent)
    part = glob.glob(f"{bent}/device_state/date=2026-10-02/*.parquet")[0]
    with open(part, "r+b") as file:
        file.truncate(os.path.getsize(part) // 2)
    args = (PROGRAM, "--archive", bent, "query", "trend", "--fleet", "--since", SINCE, "--until", UNTIL, "--every", "1d", "--format", "ndjson")
    refused = subprocess.run(args, capture_output=True, text=True)
    assert refused.returncode == 1 and part in refused.stderr and refused.stdout == ""
    passed = subprocess.run([*args, "--skip-damaged"], capture_output=True, text=True)
    assert passed.returncode == 3 and part in passed.stderr
    whole = query(root, *args[4:-2])
    assert [json.loads(line) for line in passed.stdout.splitlines()] == [
        row if row["start"][:10] != "2026-10-02" else row | {"states": 0, "cpu_pct_mean": None, "rtt_rtt_us_downstream_mean": None}
        for row in whole
    ]
    page = str(tmp_path / "page.html")
    report = (PROGRAM, "--archive", bent, "report", "--since", SINCE, "--until", UNTIL, "--skip-damaged", "-o", page)
    passed = subprocess.run(report, capture_output=True, text=True)
    assert passed.returncode == 3 and passed.stderr.count(part) == 1, "it is named once, however often it was asked for"
    with open(page) as file:
        assert "Damaged files, not counted" in file.read()


def on_a_terminal(*args):
    """What a terminal is sent."""
    ours, its = pty.openpty()
    ended = subprocess.Popen([PROGRAM, *args], stdout=its, stdin=its, stderr=subprocess.DEVNULL)
    os.close(its)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:  # Linux says so that nobody has the other end any more.
        pass
    os.close(ours)
    return ended.wait(), said.decode()


@pytest.mark.parametrize("form", ["table", "csv", "json", "ndjson", "markdown"])
def test_foreign_text_commands_no_terminal(tmp_path, form):
    root, file = str(tmp_path / "archive"), tmp_path / "states.ndjson"
    name = "a\u001b]0;title\u0007b\u009bc"
    state = {"deviceId": "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7", "timestamp": "2026-10-01T00:00:00Z", "deviceName": name}
    file.write_text(json.dumps(state) + "\n")
    run("--archive", root, "import", "--account", ACCOUNTS[0], str(file))
    args = ("--archive", root, "query", "latest", "--at", "2026-10-01T01:00:00Z", "--format", form)
    code, said = on_a_terminal(*args)
    assert code == 0 and "title" in said and not set(said) & set("\u001b\u0007\u009b"), repr(said)
    if form == "csv":
        assert name in run(*args), "what goes elsewhere is exact"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Sweeps of a simulated fleet whose API fails at times: of all, of the list, of devices, of one that is unknown."""
    root = str(tmp_path_factory.mktemp("gaps") / "archive")
    server = subprocess.Popen([PROGRAM, "simulate", "--devices", "30", "--fault", "5xx=30", "--rate-limit", "none"],
                              stdout=subprocess.PIPE, text=True)
    try:
        said = dict(server.stdout.readline().strip().split("=", 1) for _ in range(2))
        env = os.environ | said | {"CLOUDFLARE_API_TOKEN": "x"}
        collect = [PROGRAM, "--archive", root, "collect", "--rate-limit", "none", "-q"]
        once, often = ["--attempts", "1"], ["--attempts", "9", "--retry-delay", "1ms"]
        unknown = ["--device", "00000000-0000-4000-8000-000000000000"]
        for args in (often, [*once, "--source", "list"], [*often, "--source", "list"], [*once, "--source", "live"], *[[*often, *unknown]] * 3):
            time.sleep(1.4)  # one sweep at least in each interval of 2 s
            if "live" in args:
                args = [*args, *(word for device in devices_of(root) for word in ("--device", device))]
            subprocess.run([*collect, *args], env=env, capture_output=True)
        time.sleep(2.1)
        nobody = env | {"CLOUDFLARE_BASE_URL": "http://127.0.0.1:9"}
        subprocess.run([*collect, *once, "--source", "list"], env=nobody, capture_output=True)
    finally:
        server.kill()
    return root


def devices_of(root):
    return [row["device_id"] for row in sql(root, "SELECT device_id FROM {files} GROUP BY 1 ORDER BY 1")]


def test_gaps(swept):
    now = datetime.datetime.now(datetime.timezone.utc)
    since, until = now - datetime.timedelta(minutes=6), now
    time.sleep(2.1)  # until the last interval is over
    window = f"TIMESTAMPTZ '{since.isoformat()}' AND TIMESTAMPTZ '{until.isoformat()}'"
    answer = query(swept, "gaps", "--every", "2s", "--since", since.isoformat(), "--until", until.isoformat())
    expected = sql(swept, f"""
        WITH polls AS (SELECT *, time_bucket(INTERVAL '2 seconds', requested_at) AS bucket
                       FROM '{swept}/poll/*/*.parquet' WHERE requested_at BETWEEN {window}),
             states AS (SELECT DISTINCT device_id, time_bucket(INTERVAL '2 seconds', timestamp) AS bucket
                        FROM {{files}} WHERE timestamp BETWEEN {window}),
             devices AS (SELECT device_id FROM states UNION SELECT device_id FROM polls WHERE device_id IS NOT NULL),
             buckets AS (SELECT unnest(generate_series(time_bucket(INTERVAL '2 seconds', TIMESTAMPTZ '{since.isoformat()}'),
                                                       TIMESTAMPTZ '{until.isoformat()}', INTERVAL '2 seconds')) AS bucket),
             own AS (SELECT device_id, bucket, bool_or(outcome IN ('state', 'unchanged')) AS answered, bool_or(outcome = 'absent') AS absent,
                            bool_or(outcome = 'failed') AS failed FROM polls WHERE device_id IS NOT NULL GROUP BY 1, 2),
             list AS (SELECT bucket, bool_or(outcome != 'failed') AS answered, bool_or(outcome = 'failed') AS failed
                      FROM polls WHERE device_id IS NULL GROUP BY 1),
             sweeps AS (SELECT min(bucket) AS first, max(bucket) AS last FROM polls WHERE device_id IS NULL
                        GROUP BY sweep_id HAVING NOT bool_or(outcome = 'failed')),
             whole AS (SELECT DISTINCT bucket FROM buckets JOIN sweeps ON bucket BETWEEN first AND last),
             within AS (SELECT device_id, bucket, states.bucket IS NOT NULL AS is_present, CASE WHEN own.answered THEN 'silent'
                                             WHEN own.absent THEN 'absent' WHEN own.failed OR list.failed AND whole.bucket IS NULL THEN 'failed'
                                             WHEN list.answered THEN 'silent' ELSE 'not_asked' END AS cause
                      FROM devices CROSS JOIN buckets LEFT JOIN states USING (device_id, bucket)
                      LEFT JOIN own USING (device_id, bucket) LEFT JOIN list USING (bucket)
                      LEFT JOIN whole USING (bucket)),
             after AS (SELECT *, lead(cause) OVER (PARTITION BY device_id ORDER BY bucket) AS after FROM within),
             seen AS (SELECT device_id, CASE WHEN is_present THEN 'present'
                                             WHEN cause IN ('silent', 'absent') AND after IN ('not_asked', 'failed') THEN after
                                             ELSE cause END AS cause FROM after)
        SELECT device_id, count(*) AS expected, count(*) FILTER (cause = 'present') AS present,
               (count(*) FILTER (cause = 'present') / count(*))::DOUBLE AS coverage,
               count(*) FILTER (cause = 'not_asked') AS not_asked, count(*) FILTER (cause = 'failed') AS failed,
               count(*) FILTER (cause = 'absent') AS absent, count(*) FILTER (cause = 'silent') AS silent
        FROM seen GROUP BY 1""")
    assert_same(answer, expected, ["device_id"])
    for cause in ("present", "not_asked", "failed", "absent", "silent"):
        assert sum(row[cause] for row in answer) > 0, f"the fixture shows {cause}"
    for row in answer:
        assert row["recoverable"] == row["not_asked"] + row["failed"], "of the others the API has nothing"
        assert 6.9 < row["days_left"] < 7 if row["recoverable"] else row["days_left"] is None
    each = query(swept, "gaps", "--every", "2s", "--since", since.isoformat(), "--until", until.isoformat(), "--each")
    for cause in ("not_asked", "failed", "absent", "silent"):
        assert sum(row["length"] for row in each if row["cause"] == cause) == sum(row[cause] for row in answer)
    first = {}
    for row in each:
        assert row["from"] == first.get(row["device_id"], row["from"]) or row["from"] > first[row["device_id"]], "gaps do not overlap"
        first[row["device_id"]] = row["to"]
    unfinished = query(swept, "gaps", "--every", "1m", "--since", "10m", "--until", "now")
    assert all(row["expected"] == 10 for row in unfinished), "this minute is not over"
    named = query(swept, "gaps", "--every", "1s", "--since", "3s", "--device", devices_of(swept)[0][:6])
    assert [row["present"] for row in named] == [0], "who has no state at all is found by what was known before"
    old = query(swept, "gaps", "--every", "1d", "--since", "20d", "--device", answer[0]["device_id"])[0]
    # At midnight one more is over, for which there are no polls yet.
    assert old["recoverable"] in (6, 7) and old["expected"] == 20, "older days are gone from the history"


def test_gaps_of_an_import_were_not_asked_for(root):
    answer = query(root, "gaps", "--since", SINCE, "--until", UNTIL)
    assert {row["account_id"] for row in answer} == set(ACCOUNTS), "devices of several accounts are told apart"
    assert all(row["failed"] == row["absent"] == row["silent"] == 0 and row["days_left"] is None for row in answer)
    # Of an interval that the window only touches all counts.
    expected = sql(root, "SELECT account_id, device_id, count(DISTINCT time_bucket(INTERVAL '1 hour', timestamp)) AS present"
                   " FROM {files} WHERE timestamp >= '2026-10-01T03:00:00Z' AND timestamp < '2026-10-03T21:00:00Z' GROUP BY ALL")
    assert_same(answer, expected, ["account_id", "device_id"])
    assert query(root, "gaps", "--since", "2026-10-01T03:59:00Z", "--until", "2026-10-03T20:01:00Z") == answer


def test_drift_is_what_stands_in_unmapped(tmp_path):
    root, file = str(tmp_path / "archive"), tmp_path / "states.ndjson"
    ids = [f"cb49c27f-7f97-49c5-b6f3-f7c01ead0f{number:02d}" for number in range(4)]
    states = [
        {"deviceId": ids[0], "timestamp": "2026-10-01T00:00:00Z", "new.field": 1, "cpuPctByApp": [{"name": "x", "pid": 7}]},
        {"deviceId": ids[0], "timestamp": "2026-10-02T00:00:00Z", "new.field": "two"},
        {"deviceId": ids[1], "timestamp": "2026-10-03T00:00:00Z", "new.field": None, "cpuPct": "12"},
        {"deviceId": ids[2], "timestamp": "2026-10-03T00:00:00Z", "cpuPctByApp": [{"name": "x"}, {"name": "y", "pid": 8}]},
        {"deviceId": ids[3], "timestamp": "2026-10-03T00:00:00Z", "cpuPct": 12},
    ]
    file.write_text("".join(json.dumps(state) + "\n" for state in states))
    run("--archive", root, "import", "--account", ACCOUNTS[0], str(file))
    found = [json.loads(line) for line in run(
        "--archive", root, "schema", "drift", "--since", "2026-10-01", "--until", "2026-10-04", "--format", "ndjson"
    ).splitlines()]
    paths = sql(root, """
        SELECT regexp_replace(path, '\\[[0-9]+\\]', '[]', 'g') AS path, count(*) AS states, count(DISTINCT device_id) AS devices
        FROM (SELECT device_id, unnest(json_keys(unmapped)) AS path FROM {files} WHERE {window}) GROUP BY 1"""
        .replace("{window}", "timestamp >= '2026-10-01' AND timestamp < '2026-10-04'"))
    assert_same(found, paths, ["path"])
    by_path = {row["path"]: row for row in found}
    assert by_path["cpuPctByApp[].pid"]["example"] == "8" and by_path["cpuPct"]["types"] == "string"
    (new,) = (row for path, row in by_path.items() if "new.field" in path)
    assert (new["types"], new["devices_share"]) == ("integer, null, string", 0.5)
    assert (new["first"], new["last"]) == ("2026-10-01T00:00:00.000000Z", "2026-10-03T00:00:00.000000Z")
