"""Lines of Logpush become the rows that the API's bodies of the same states would be."""

import gzip
import json
import os
import subprocess

import duckdb
import pytest

PROGRAM = os.path.abspath(os.environ["DEX_ARCHIVE"])
ACCOUNTS = ("01a7362d577a6c3019a474fd6f485823", "11a7362d577a6c3019a474fd6f485823")
DEVICE = "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7"


def run(*args):
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True)


def line(account, timestamp, **more):
    return {"AccountID": account, "DeviceID": DEVICE, "DeviceRegistrationID": "r", "Timestamp": timestamp} | more


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logpush")
    lines = [
        line(ACCOUNTS[0], 1790812800123456789, CPUPercentage=0.07, ClientVersion="1", WarpColoCode="FRA",
             CPUPercentageByApp=[{"name": "a", "percentage": 0.29}], TunnelStatsUpstream={"rttUs": 7, "bytesSent": 9},
             ISPIPv4City="Berlin", AppFirewallEnabled=True),
        line(ACCOUNTS[1], "2026-10-02T00:00:00Z", DiskUsagePercentage=1, RAMUsedPercentage=None),
        line(ACCOUNTS[0], 1790985600, BatteryPercentage=0.333),
    ]
    (folder / "logs" / "20261001").mkdir(parents=True)
    (folder / "logs" / ".hidden").write_text("no JSON")
    first = folder / "logs" / "20261001" / "a.log.gz"
    first.write_bytes(gzip.compress("".join(json.dumps(entry) + "\n" for entry in lines[:2]).encode()))
    (folder / "logs" / "b.log").write_text(json.dumps(lines[2]) + "\n")
    root = str(folder / "archive")
    done = run("--archive", root, "import", "--format", "logpush", str(folder / "logs"))
    assert done.returncode == 0, done.stderr
    # Taken in again, nothing is there twice.
    assert run("--archive", root, "import", "--format", "logpush", str(folder / "logs")).returncode == 0
    return root


def test_values_are_those_of_the_lines(root):
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    rows = connection.execute(f"""
        SELECT account_id, strftime(timestamp, '%Y-%m-%dT%H:%M:%S.%f') AS at, source, cpu_pct, version, colo,
               cpu_pct_by_app, rtt_rtt_us_upstream AS rtt, tunnel_stats_bytes_sent_upstream AS sent,
               isp_ipv4_location_city AS city, unmapped, disk_usage_pct, ram_used_pct, battery_pct
        FROM '{root}/device_state/*/*.parquet' ORDER BY timestamp""").df().to_dict("records")
    first, second, third = rows
    assert (first["account_id"], first["at"], first["source"]) == (ACCOUNTS[0], "2026-10-01T00:00:00.123456", "logpush")
    # Exactly: 0.07 a hundredfold is 7, which a product of doubles is not.
    assert (first["cpu_pct"], first["version"], first["colo"], first["rtt"], first["sent"], first["city"]) == (7.0, "1", "FRA", 7, 9, "Berlin")
    assert [dict(app) for app in first["cpu_pct_by_app"]] == [{"name": "a", "cpu_pct": 29.0}]
    assert json.loads(first["unmapped"]) == {"AppFirewallEnabled": True}
    assert (second["account_id"], second["disk_usage_pct"]) == (ACCOUNTS[1], 100.0)
    assert (third["at"], third["battery_pct"]) == ("2026-10-03T00:00:00.000000", 33.3)


def test_a_line_that_says_no_account_needs_one(tmp_path):
    file, root = tmp_path / "lines.log", str(tmp_path / "archive")
    file.write_text(json.dumps({"DeviceID": DEVICE, "Timestamp": 1790812800}) + "\nno JSON\n")
    done = run("--archive", root, "import", "--format", "logpush", str(file))
    assert done.returncode == 3 and "2 lines say nothing of whose states they are, the first is line 1" in done.stderr
    done = run("--archive", root, "import", "--format", "logpush", "--account", ACCOUNTS[0], str(file))
    assert done.returncode == 3 and "1 new states, 0 unchanged, 1 quarantined" in done.stderr


def test_a_line_of_nobody_is_not_the_one_befores(tmp_path):
    of_nobody = {name: value for name, value in line(ACCOUNTS[0], "2026-10-01T01:00:00Z").items() if name != "AccountID"}
    lines = [line(ACCOUNTS[0], "2026-10-01T00:00:00Z"), of_nobody]
    (tmp_path / "a.log").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    importing = ["--archive", str(tmp_path / "archive"), "import", "--format", "logpush", str(tmp_path / "a.log")]
    done = run(*importing)
    assert done.returncode == 3 and "1 lines say nothing" in done.stderr and "line 2" in done.stderr, done.stderr
    assert "1 new states" in done.stderr, "and costs no other"
    assert run(*importing, "--account", ACCOUNTS[1]).returncode == 0
    query = run("--archive", str(tmp_path / "archive"), "query", "latest", "--at", "2026-10-02", "--column", "account_id",
                "--format", "csv")
    assert query.stdout.count(ACCOUNTS[1]) == 1, query.stdout


def test_a_line_that_cannot_be_read_is_of_the_last_account_that_was_named(tmp_path):
    of_nobody = {"DeviceID": DEVICE, "Timestamp": 1790812800}
    lines = [json.dumps(line(ACCOUNTS[0], "2026-10-01T00:00:00Z")), "{broken", json.dumps(of_nobody), "{broken too"]
    (tmp_path / "a.log").write_text("\n".join(lines))
    done = run("--archive", str(tmp_path / "archive"), "import", "--format", "logpush", str(tmp_path / "a.log"))
    assert done.returncode == 3 and "1 new states, 0 unchanged, 2 quarantined" in done.stderr and "1 lines say" in done.stderr


def test_what_the_api_says_stays_where_logpush_says_less(tmp_path):
    root, at = str(tmp_path / "archive"), "2026-10-01T00:00:00Z"
    (tmp_path / "api.ndjson").write_text(json.dumps(
        {"deviceId": DEVICE, "registrationId": "r", "timestamp": at, "deviceName": "its name"}) + "\n")
    (tmp_path / "lines.log").write_text(json.dumps(line(ACCOUNTS[0], at)) + "\n")
    api = ["--archive", root, "import", "--account", ACCOUNTS[0], str(tmp_path / "api.ndjson")]
    logpush = ["--archive", root, "import", "--format", "logpush", str(tmp_path / "lines.log")]
    for commands in ((api, logpush), (logpush, api)):
        for command in commands:
            assert run(*command).returncode == 0
        ((name, source),) = duckdb.sql(f"SELECT device_name, source FROM '{root}/device_state/*/*.parquet'").fetchall()
        assert (name, source) == ("its name", "import")


def test_a_name_that_stands_twice_costs_no_state_and_no_account(tmp_path):
    once = json.dumps(line(ACCOUNTS[0], "2026-10-01T00:00:00Z"))
    twice = once.replace("{", '{"ClientVersion": "1", "ClientVersion": "2", "odd": 1, "odd": 1, ', 1)
    of_two_devices = once.replace("{", '{"DeviceID": "another", ', 1)
    (tmp_path / "a.log").write_text("\n".join([of_two_devices, twice]))
    root = str(tmp_path / "archive")
    done = run("--archive", root, "import", "--format", "logpush", str(tmp_path / "a.log"))
    assert done.returncode == 3 and "1 new states, 0 unchanged, 1 quarantined" in done.stderr, done.stderr
    assert duckdb.sql(f"SELECT version, unmapped FROM '{root}/device_state/*/*.parquet'").fetchall() == [("2", '{"odd":1}')]
    (kept,) = [name for name in os.listdir(f"{root}/_archive/quarantine") if name.endswith(".ndjson")]
    with open(f"{root}/_archive/quarantine/{kept}") as lines:
        entry = json.loads(lines.read())
    assert entry["account_id"] == ACCOUNTS[0] and "twice" in entry["cause"], entry
