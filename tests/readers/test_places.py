"""The same behaviour wherever an archive lies: in a folder, in a bucket of a real S3 server, in a container of a real Azure
server; and in the bucket whatever can go wrong between the two."""

import contextlib
import csv
import datetime
import gzip
import io
import json
import os
import random
import subprocess
import sys
import time

import pyarrow.parquet
import pytest

import azurite
import s3

PROGRAM = os.path.abspath(os.environ["DEX_ARCHIVE"])
ACCOUNT = "01a7362d577a6c3019a474fd6f485823"
WINDOW = ("--since", "2026-10-01", "--until", "2026-10-04")
DENIED = (403, b"<Error><Code>AccessDenied</Code></Error>")
SLOW_DOWN = (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
KILLS = 100


class Place:
    """An archive somewhere, and how it is reached."""

    def __init__(self, root, state=None, env=None, server=None):
        self.root, self.state, self.server = root, state, server
        self.env = {"PATH": os.environ["PATH"]} | (env or {})

    def command(self, *args):
        return [PROGRAM, "--archive", self.root, *(["--state-dir", self.state] if self.state else []), *args]

    def run(self, *args, code=0, env=()):
        done = subprocess.run(self.command(*args), capture_output=True, text=True, env=self.env | dict(env))
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def ask(self, *args):
        return list(csv.DictReader(io.StringIO(self.run("query", *args, "--format", "csv").stdout)))

    def parts(self, dataset="device_state"):
        """The bytes of each part, by its key."""
        if self.server:
            prefix = self.root.split("/", 3)[3]
            keys = self.server.keys(f"{prefix}/{dataset}/")
            return {key.removeprefix(prefix + "/"): self.server.body(key) for key in keys}
        found = {}
        for folder, _, names in os.walk(os.path.join(self.root, dataset)):
            for path in (os.path.join(folder, name) for name in names):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, self.root)] = file.read()
        return found

    def keys(self):
        """Device and time of every state, as often as it is there."""
        read = lambda body: pyarrow.parquet.read_table(io.BytesIO(body), columns=["device_id", "timestamp"])
        tables = [read(body) for body in self.parts().values()]
        columns = (zip(*(table[name].cast("string").to_pylist() for name in table.column_names)) for table in tables)
        return [key for rows in columns for key in rows]

    def put(self, key, body):
        if self.server:
            self.server.put(f"{self.root.split('/', 3)[3]}/{key}", body)
        else:
            with open(os.path.join(self.root, key), "wb") as file:
                file.write(body)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = s3.Server(tmp_path_factory.mktemp("s3") / "objects")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def azure(tmp_path_factory):
    if not azurite.install():
        pytest.skip("there is no npm that could install Azurite")
    server = azurite.Server(tmp_path_factory.mktemp("azure"))
    yield server
    server.kill()


@pytest.fixture(params=["S3", "Azure"])
def cloud(request):
    return request.getfixturevalue("server" if request.param == "S3" else "azure")


def in_bucket(server, folder, name=None, port=None):
    state = str(folder / f"state-{name or 'first'}")
    return Place(server.url(folder.name), state, server.variables(port), server)


@pytest.fixture(params=["folder", "S3", "Azure"])
def place(request, tmp_path):
    if request.param == "folder":
        return Place(str(tmp_path / "archive"))
    return in_bucket(request.getfixturevalue("server" if request.param == "S3" else "azure"), tmp_path)


def dump(path, devices, ticks, start="2026-10-01T00:00:00Z", seed=7):
    command = [PROGRAM, "simulate", "--devices", devices, "--ticks", ticks, "--start", start, "--seed", seed, "--dump", path]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return str(path)


def take(place, *files, code=0):
    return place.run("import", "--account", ACCOUNT, *files, code=code)


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """Three days of 20 devices."""
    return dump(tmp_path_factory.mktemp("dump") / "states.ndjson", 20, 3 * 288)


@contextlib.contextmanager
def api(devices=30, *more):
    command = [PROGRAM, "simulate", "--devices", str(devices), "--rate-limit", "none", *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        lines = (process.stdout.readline(), process.stdout.readline())
        yield dict(line.strip().split("=", 1) for line in lines) | {"CLOUDFLARE_API_TOKEN": "simulated"}
    finally:
        process.kill()
        process.wait()


# --- Everywhere ----------------------------------------------------------------------------------------------------


def test_questions_and_reports_have_the_same_answers_everywhere(place, states, tmp_path):
    take(place, states)
    other = Place(str(tmp_path / "reference"))
    take(other, states)
    device = min(place.keys())[0]
    for question in (
        ("trend", "--device", device, *WINDOW, "--agg", "mean,min,max,p95", "--every", "1h"),
        ("trend", "--fleet", "--by", "platform", *WINDOW, "--every", "6h"),
        ("latest", "--at", "2026-10-03T12:00:00Z"),
        ("changes", "--column", "version,status", *WINDOW),
        ("apps", *WINDOW),
        ("gaps", *WINDOW),
    ):
        found = place.ask(*question)
        assert found == other.ask(*question) and found, question
    reports = [json.loads(one.run("report", *WINDOW, "--format", "json").stdout) for one in (place, other)]
    # When it was made is all that differs.
    assert reports[0].pop("made_at") != reports[1].pop("made_at") and reports[0] == reports[1]
    assert len(set(place.keys())) == len(place.keys()) > 10_000
    assert "0 errors, 0 warnings" in place.run("verify", "--deep").stderr
    assert json.loads(place.run("status", "--format", "json", code=3).stdout)["days"] == 3


def test_what_is_imported_again_is_there_once(place, states):
    take(place, states)
    before = sorted(place.keys())
    assert ": 0 new states" in take(place, states).stderr
    assert sorted(place.keys()) == before


def test_collects_and_fills_holes(place):
    with api() as env:
        for _ in range(2):
            place.run("collect", "--source", "list", "--rate-limit", "none", env=env)
        swept = place.keys()
        assert len(set(swept)) == len(swept) > 10
        place.run("backfill", "--since", "3h", "--rate-limit", "none", env=env)
        filled = place.keys()
        assert len(set(filled)) == len(filled) > 10 * len(set(swept)) and set(swept) <= set(filled)
        assert place.parts("poll")
        place.run("doctor", "--account", ACCOUNT, env=env)
        place.run("status", env=env)


def test_prunes_and_forgets(place, states):
    take(place, states)
    ids = sorted({device for device, _ in place.keys()})
    said = place.run("forget", "--device", ids[0]).stdout
    assert said.count("device_state") == 3
    assert {device for device, _ in place.keys()} == set(ids[1:])
    assert "look at this machine's clock" in place.run("prune", "--keep", "1d", code=1).stderr
    keep = f"{(datetime.datetime.now(datetime.timezone.utc).date() - datetime.date(2026, 10, 3)).days}d"
    place.run("prune", "--keep", keep, "--dry-run")
    assert len(place.parts()) == 3
    place.run("prune", "--keep", keep)
    assert [key.split("/")[1] for key in place.parts()] == ["date=2026-10-03"]
    assert "0 errors, 0 warnings" in place.run("verify").stderr


def test_damage_is_found_mended_and_kept(place, states):
    take(place, states)
    keys = place.keys()
    (name, body), *_ = sorted(place.parts().items())
    bent = bytearray(body)
    bent[len(bent) // 3] ^= 0x10
    place.put(name, bytes(bent))
    place.put("device_state/date=2026-10-02/notes.txt", b"somebody else's")
    found = json.loads(place.run("verify", "--format", "json", code=3).stdout)["findings"]
    assert sorted(os.path.basename(finding["subject"]) for finding in found) == ["notes.txt", os.path.basename(name)]
    assert "was damaged" in place.run("verify", "--repair", code=3).stderr
    assert "0 errors, 0 warnings" in place.run("verify", "--deep").stderr
    kept = os.path.join(place.state or os.path.join(place.root, "_archive"), "quarantine")
    contents = [open(os.path.join(kept, file), "rb").read() for file in os.listdir(kept)]
    assert bytes(bent) in contents and b"somebody else's" in contents
    # What is lost with the damage can be taken in again.
    take(place, states)
    assert sorted(place.keys()) == sorted(keys)


def test_four_collectors_of_a_shard_each_find_what_a_single_one_finds(place, tmp_path):
    is_bucket = place.server is not None
    one = in_bucket(place.server, tmp_path, "one") if is_bucket else place
    one.run("init", "--shards", "4")
    others = [in_bucket(place.server, tmp_path, f"shard-{shard}") if is_bucket else place for shard in range(4)]
    single = Place(str(tmp_path / "single"))
    with api(40) as env:
        for _ in range(2):
            command = ["collect", "--since-minutes", "60", "--rate-limit", "none", "-q"]
            running = [
                subprocess.Popen(other.command(*command, "--shard", f"{shard}/4"), env=other.env | env)
                for shard, other in enumerate(others)]
            assert [process.wait() for process in running] == [0, 0, 0, 0]
        single.run(*command, env=env)
        # What was reported since then, the single one has more.
        for shard, other in enumerate(others):
            other.run(*command, env=dict(env) | {"JOB_COMPLETION_INDEX": str(shard)})
    found, alone = place.keys() if not is_bucket else one.keys(), single.keys()
    assert len(set(found)) == len(found)
    assert {device for device, _ in found} == {device for device, _ in alone}
    assert set(alone) <= set(found)
    by_shard = {}
    for name, body in one.parts().items():
        ids = pyarrow.parquet.read_table(io.BytesIO(body), columns=["device_id"])["device_id"].unique().to_pylist()
        by_shard.setdefault(os.path.basename(name).split("-")[1], set()).update(ids)
    assert sorted(by_shard) == ["0", "1", "2", "3"]
    assert sum(len(ids) for ids in by_shard.values()) == len({device for device, _ in found})
    assert "0 errors, 0 warnings" in one.run("verify", "--deep").stderr


def test_files_into_another_number_of_shards_and_back(place, states):
    take(place, states)
    before = sorted(place.keys())
    device = before[0][0]
    trend = ("trend", "--device", device, *WINDOW, "--every", "6h")
    answer = place.ask(*trend)
    for shards in (4, 3, 1):
        place.run("reshard", "--shards", str(shards))
        assert sorted(place.keys()) == before and place.ask(*trend) == answer
        assert len(place.parts()) == 3 * shards
        assert "0 errors, 0 warnings" in place.run("verify", "--deep").stderr
        # Each device is where a collector looks for it: nothing comes twice.
        assert ": 0 new states" in take(place, states).stderr
    assert "has 1 shards already" in place.run("reshard", "--shards", "1").stderr


def test_resharding_that_was_broken_off_is_ended_by_the_same_command(place, states):
    take(place, states)
    before = sorted(place.keys())
    (name, body), *_ = sorted(place.parts().items(), reverse=True)
    place.put(name, body[:-9])
    # A part that cannot be filed is found before anything is moved.
    assert "`verify --repair`" in place.run("reshard", "--shards", "3", code=1).stderr
    assert "being filed" not in place.run("verify", code=3).stdout
    place.put(name, body)
    place.put("_archive/archive.json", json.dumps({"format": 1, "shards": 3, "resharding": True}).encode())
    assert "end it by `reshard --shards 3`" in take(place, states, code=1).stderr
    assert "being filed into 3 shards" in place.run("verify", code=3).stdout
    assert "nobody can write" in place.run("status", code=3).stdout
    if place.server:
        assert "rows may count twice" in place.run("query", "latest", "--at", "2026-10-04").stderr
    # What can be read of a day that is damaged is not for guessing while days move.
    place.run("verify", "--repair", code=1)
    place.run("reshard", "--shards", "3")
    assert sorted(place.keys()) == before
    assert ": 0 new states" in take(place, states).stderr


def test_a_shard_that_makes_no_sense_is_refused(place):
    place.run("init", "--shards", "2")
    with api(5) as env:
        for shard, code, word in (("2/2", 2, "is no shard"), ("0/4", 2, "has 2 shards and not 4"), ("5", 1, "no shard 5")):
            assert word in place.run("collect", "--shard", shard, code=code, env=env).stderr
        # It would note what it had passed over of other shards as searched.
        assert "--self-heal is for" in place.run("collect", "--shard", "0/2", "--self-heal", code=2, env=env).stderr
    assert "already" in place.run("init", "--shards", "2", code=1).stderr


# --- In a bucket ---------------------------------------------------------------------------------------------------


def test_of_two_writers_nobody_loses_a_row(cloud, tmp_path):
    files = [dump(tmp_path / f"{seed}.ndjson", 40, 96, seed=seed) for seed in range(4)]
    places = [in_bucket(cloud, tmp_path, f"writer-{n}") for n in range(4)]
    for _ in range(2):
        running = [subprocess.Popen(place.command("import", "--account", ACCOUNT, file, "-q"), env=place.env)
                   for place, file in zip(places, files)]
        assert [process.wait() for process in running] == [0, 0, 0, 0]
    alone = Place(str(tmp_path / "alone"))
    take(alone, *files)
    assert sorted(places[0].keys()) == sorted(alone.keys())
    # One key a day, however often it was written.
    assert list(places[0].parts()) == ["device_state/date=2026-10-01/part-0-000001.parquet"]


def test_resharding_that_breaks_off_anywhere_loses_nothing(cloud, tmp_path):
    place = in_bucket(cloud, tmp_path)
    take(place, dump(tmp_path / "states.ndjson", 15, 400))
    before = sorted(place.keys())
    for shards in (3, 2, 1):
        for allowed in range(1, 12):
            changes = iter(range(1_000))
            proxy = s3.Proxy(cloud, lambda _, method: DENIED if method in ("PUT", "DELETE", "POST") and next(changes) >= allowed else None)
            command = place.command("reshard", "--shards", str(shards))
            done = subprocess.run(command, capture_output=True, text=True, env=place.env | cloud.variables(proxy.port))
            proxy.close()
            assert set(place.keys()) == set(before), f"{shards} shards, broken off after {allowed} changes"
            if done.returncode == 0:
                break
            assert "may not" in done.stderr
        place.run("reshard", "--shards", str(shards))
        assert sorted(place.keys()) == before
        assert "0 errors, 0 warnings" in place.run("verify", "--deep").stderr


def test_a_server_that_is_busy_is_asked_again(server, tmp_path, states):
    # Each fourth, not more: which request that is, is chance where several are under way, and seven repetitions are all.
    proxy = s3.Proxy(server, lambda number, method: SLOW_DOWN if number % 4 == 0 else None)
    place = in_bucket(server, tmp_path, port=proxy.port)
    take(place, states)
    assert len(place.ask("trend", "--fleet", *WINDOW, "--every", "1d")) == 3
    proxy.close()


def test_a_server_that_stays_busy_costs_nothing_that_was_received(server, tmp_path, states):
    proxy = s3.Proxy(server, lambda number, method: SLOW_DOWN if method == "PUT" and number > 3 else None)
    place = in_bucket(server, tmp_path, port=proxy.port)
    said = take(place, states, code=1).stderr
    assert "SlowDown" in said and "stays in the journal" in said
    proxy.close()
    place.env |= s3.variables(server.port)
    recovered = take(place, dump(tmp_path / "more.ndjson", 1, 1)).stderr
    assert "had left in the journal" in recovered
    assert len(place.keys()) > 10_000


def test_credentials_that_are_no_good_are_told_and_not_shown(server, tmp_path, states):
    place = in_bucket(server, tmp_path)
    take(place, states)
    wrong = s3.GOOD | {"AWS_SECRET_ACCESS_KEY": "a-secret-of-nobody"}
    for credentials, word in ((s3.GONE, "ExpiredToken"), (wrong, "SignatureDoesNotMatch")):
        for command in (("query", "latest"), ("import", "--account", ACCOUNT, states), ("verify",), ("status",)):
            said = place.run(*command, code=1, env=s3.variables(server.port, credentials)).stderr
            assert "the credentials are wrong, have expired, or lack the right" in said and word in said
            assert not any(value in said for value in credentials.values()), said
            assert len(said.splitlines()) == 1
    secret = "s3://AKIA:secret@bucket/prefix"
    said = Place(secret).run("query", "latest", code=2).stderr
    assert "secret" not in said and "environment" in said


def test_credentials_that_expire_cost_nothing_that_was_received(server, tmp_path, states):
    place = in_bucket(server, tmp_path)
    place.run("init")
    body = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
    proxy = s3.Proxy(server, lambda number, method: (400, body) if method == "PUT" else None)
    said = place.run("import", "--account", ACCOUNT, states, code=1, env=s3.variables(proxy.port)).stderr
    assert "have expired" in said and "stays in the journal" in said
    proxy.close()
    take(place, dump(tmp_path / "more.ndjson", 1, 1))
    assert len(place.keys()) > 10_000


def test_logpush_is_read_from_a_bucket(server, tmp_path):
    lines = [json.dumps({"DeviceID": f"cb49c27f-7f97-49c5-b6f3-f7c01ead0f{n:02}", "AccountID": ACCOUNT,
                         "Timestamp": f"2026-10-01T0{n % 10}:00:00Z", "CPUPct": 0.25}) for n in range(20)]
    for n, pack in enumerate((lambda text: text, gzip.compress)):
        body = pack("\n".join(lines[10 * n:10 * n + 10]).encode())
        key = f"{tmp_path.name}-logs/20261001/{n}.log{'.gz' if n else ''}"
        server.client().put_object(Bucket=s3.BUCKET, Key=key, Body=body)
    place = in_bucket(server, tmp_path)
    logs = f"s3://{s3.BUCKET}/{tmp_path.name}-logs"
    said = place.run("import", "--format", "logpush", logs).stderr
    assert "20 new states" in said
    assert "10 unchanged" in place.run("import", "--format", "logpush", f"{logs}/20261001/1.log.gz").stderr
    assert "there is no" in place.run("import", "--format", "logpush", f"{logs}/none", code=1).stderr


def test_duckdb_reads_the_bucket_while_it_is_written(server, tmp_path, states, lake):
    place = in_bucket(server, tmp_path)
    take(place, states)
    code = f"""
import glob, sys, duckdb
(extension,) = glob.glob(sys.argv[1] + "/duckdb_extension_httpfs/extensions/*/httpfs.duckdb_extension")
connection = duckdb.connect(config={{"extension_directory": sys.argv[2]}})
connection.execute(f"INSTALL '{{extension}}'; LOAD httpfs")
connection.execute("CREATE SECRET (TYPE s3, KEY_ID '{s3.GOOD['AWS_ACCESS_KEY_ID']}', "
    "SECRET '{s3.GOOD['AWS_SECRET_ACCESS_KEY']}', ENDPOINT '127.0.0.1:{server.port}', URL_STYLE 'path', USE_SSL false, "
    "REGION 'us-east-1')")
answers = 0
for _ in range(1_000):
    if answers == 60:
        break
    # An object that changed while it was read is told by its ETag; from Python as whatever of its bytes is no text.
    try:
        (row,) = connection.execute("SELECT count(*), count(DISTINCT (device_id, epoch_us(timestamp))), max(date) FROM "
            "read_parquet('{place.root}/device_state/*/*.parquet', hive_partitioning = true)").fetchall()
    except (duckdb.HTTPException, UnicodeDecodeError):
        continue
    answers += 1
    print(*row)
"""
    command = [sys.executable, "-W", "ignore", "-c", code, lake, str(tmp_path / "extensions")]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": lake})
    for n in range(6):
        take(place, dump(tmp_path / f"{n}.ndjson", 2, 3, seed=100 + n))
    answers = [line.split() for line in reader.communicate(timeout=300)[0].splitlines()]
    assert reader.returncode == 0 and len(answers) == 60
    assert all(rows == keys and day == "2026-10-03" for rows, keys, day in answers)
    assert int(answers[0][0]) < int(answers[-1][0]) <= len(place.keys())


def test_a_state_folder_is_of_one_archive(server, tmp_path, states):
    place = in_bucket(server, tmp_path)
    take(place, states)
    other = Place(f"s3://{s3.BUCKET}/{tmp_path.name}-other", place.state, place.env, server)
    assert f"is the state of {place.root}" in take(other, states, code=1).stderr
    folder = Place(str(tmp_path / "folder"), place.state)
    assert "--state-dir is for archives in a bucket" in take(folder, states, code=2).stderr


def test_what_waits_for_another_archive_is_not_this_ones(server, tmp_path, states):
    place = in_bucket(server, tmp_path)
    take(place, states)
    other = Place(f"s3://{s3.BUCKET}/{tmp_path.name}-other", str(tmp_path / "state-other"), place.env, server)
    take(other, states)
    other.state = place.state
    for command in ("status", "verify"):
        assert f"is the state of {place.root}" in other.run(command, code=1).stderr
    assert f"is the state of {place.root}" in other.run("doctor", code=3).stdout


def test_a_place_that_cannot_be_collected_into_is_told(server, tmp_path, states):
    place = in_bucket(server, tmp_path)
    take(place, states)
    readable = s3.Proxy(server, lambda _, method: DENIED if method == "PUT" else None)
    assert "the right to write" in place.run("doctor", code=3, env=s3.variables(readable.port)).stdout
    readable.close()
    written = (200, b"", {"ETag": '"whatever"'})
    careless = s3.Proxy(server, lambda _, method: written if method == "PUT" else None)
    assert "two writers lose each other's rows" in place.run("doctor", code=3, env=s3.variables(careless.port)).stdout
    careless.close()
    assert "nobody is writing to it" in place.run("doctor", code=3).stdout


def test_an_emptied_object_is_damage_like_any_other(server, tmp_path, states):
    place = in_bucket(server, tmp_path)
    take(place, states)
    (name, _), *_ = place.parts().items()
    place.put(name, b"")
    assert "is damaged" in place.run("query", "latest", "--at", "2026-10-04", code=1).stderr
    place.run("query", "latest", "--at", "2026-10-04", "--skip-damaged", code=3)
    assert "was damaged" in take(place, states, code=3).stderr
    assert "0 errors, 0 warnings" in place.run("verify", "--deep", code=0).stderr


def test_a_day_that_cannot_be_listed_is_a_finding_and_no_room_is_none(server, tmp_path, states):
    place = in_bucket(server, tmp_path)
    take(place, states)
    (tmp_path / "file").write_text("")
    nowhere = Place(place.root, str(tmp_path / "file" / "state"), place.env, server)
    said = nowhere.run("verify", code=1)
    assert "file/state" in said.stderr and "repair" not in said.stdout + said.stderr
    counting = s3.Proxy(server)
    whole = place.run("verify", env=s3.variables(counting.port)).stderr
    assert "3 parts" in whole
    counting.close()
    for failing in range(1, counting.requests + 1):
        proxy = s3.Proxy(server, lambda number, _: DENIED if number == failing else None)
        done = subprocess.run(place.command("verify"), capture_output=True, text=True, env=place.env | s3.variables(proxy.port))
        proxy.close()
        # What is counted for the bar alone is listed again.
        is_told = done.returncode in (1, 3) or whole in done.stderr
        assert is_told, f"request {failing} of {counting.requests}: {done.stdout}{done.stderr}"


def test_who_opened_it_before_it_was_resharded_is_told_so(server, tmp_path, states):
    place = in_bucket(server, tmp_path)
    take(place, states)
    command = place.command("import", "--account", ACCOUNT, "-")
    late = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=place.env)
    journal = os.path.join(place.state, "journal")
    late.stdin.write('{"deviceId":"a","timestamp":"2026-10-01T00:00:00Z"}\n')
    late.stdin.flush()
    while not [name for _, _, names in os.walk(journal) for name in names]:
        time.sleep(0.02)
    Place(place.root, str(tmp_path / "elsewhere"), place.env, server).run("reshard", "--shards", "2")
    _, said = late.communicate()
    assert late.returncode == 1 and "was filed into 2 shards meanwhile: start this command again" in said, said


def test_a_loop_ends_where_the_archive_was_resharded(server, tmp_path):
    place = in_bucket(server, tmp_path)
    elsewhere = Place(place.root, str(tmp_path / "elsewhere"), place.env, server)
    with api(5) as env:
        loop = subprocess.Popen(place.command("collect", "--every", "3s", "-q"), env=place.env | env, stderr=subprocess.PIPE, text=True)
        while not place.parts():
            time.sleep(0.1)
        # A publish at that very moment has it asked again.
        while subprocess.run(elsewhere.command("reshard", "--shards", "2"), env=place.env, capture_output=True).returncode:
            pass
        _, said = loop.communicate(timeout=60)
    # Which it says, is chance: whether the filing has ended when it looks.
    assert loop.returncode == 1 and ("start this command again" in said or "is being filed into other shards" in said), said
    with api(5) as env:
        place.run("collect", env=env)
    assert "0 errors, 0 warnings" in place.run("verify", "--deep").stderr


def test_a_bucket_that_is_not_there_is_told(cloud, tmp_path):
    place = in_bucket(cloud, tmp_path)
    place.root = place.root.replace("://fleet", "://no-such-bucket")
    said = place.run("query", "latest", code=1).stderr
    assert "no-such-bucket" in said and "'s name" in said
    away = Place(cloud.url("archive"), str(tmp_path / "state"), cloud.variables(s3.free_port()))
    start = time.monotonic()
    assert f"cannot read {away.root}" in away.run("query", "latest", code=1).stderr
    assert time.monotonic() - start < 90


def test_azure_refuses_a_wrong_key_without_its_being_shown(azure, tmp_path):
    place = in_bucket(azure, tmp_path)
    wrong = "c2VjcmV0LWJ1dC13cm9uZw=="
    said = place.run("init", env=azure.variables(key=wrong), code=1).stderr
    assert f"may not read {place.root}" in said and "(Server returned" in said and "403 Forbidden)" in said, said
    assert wrong not in said
    said = place.run("init", env={"AZURE_ALLOW_HTTP": "false"}, code=1).stderr
    assert "set AWS_ALLOW_HTTP=true (or AZURE_ALLOW_HTTP)" in said, said


def test_one_device_of_thirty_days_moves_little(server, tmp_path):
    """Under 5 MB for 30 days of 1,000 devices; here days of 100 devices, of which a whole one would be 2.7 MB."""
    place = in_bucket(server, tmp_path)
    take(place, dump(tmp_path / "states.ndjson", 100, 4 * 288))
    proxy = s3.Proxy(server)
    place.env |= s3.variables(proxy.port)
    device = "cpu_pct,rtt_rtt_us_downstream"
    rows = place.ask("trend", "--device", min(place.keys())[0], "--metric", device, "--since", "2026-10-01", "--until", "2026-10-05")
    assert len(rows) == 4 * 24
    stored = sum(len(body) for body in place.parts().values())
    assert proxy.bytes < 4 * 5_000_000 / 30 < stored / 4, (proxy.bytes, stored)
    proxy.close()


def test_killed_a_hundred_times_nothing_is_lost_or_doubled(tmp_path):
    """Two writers at a time, on the same days; one of them or the server is killed at a random moment."""
    server = s3.Server(tmp_path / "objects")
    chance = random.Random(20261125)
    files = [dump(tmp_path / f"{n}.ndjson", 15, 60, start=f"2026-10-0{1 + n % 2}T0{n % 5}:00:00Z", seed=n) for n in range(24)]
    places = [in_bucket(server, tmp_path, f"writer-{n}") for n in range(2)]
    took = 0.6
    done, kills = set(), {"server": 0, "writer": 0}
    while sum(kills.values()) < KILLS:
        chosen = chance.sample(range(len(files)), 2)
        start = time.monotonic()
        running = [subprocess.Popen(place.command("import", "--account", ACCOUNT, files[n], "-q"), env=place.env,
                                    stderr=subprocess.DEVNULL) for place, n in zip(places, chosen)]
        time.sleep(chance.uniform(0, took))
        # A writer that was done before it could be killed does not count.
        if kills["server"] < kills["writer"]:
            server.kill()
            kills["server"] += 1
            time.sleep(0.05)
            server.start()
        else:
            running[0].kill()
            kills["writer"] += running[0].wait() < 0
        codes = [process.wait() for process in running]
        done |= {n for n, code in zip(chosen, codes) if code == 0}
        took = 0.9 * took + 0.1 * min(2.0, time.monotonic() - start)
    reference = Place(str(tmp_path / "reference"))
    take(reference, *(files[n] for n in sorted(done)))
    found = places[0].keys()
    assert len(set(found)) == len(found), "a state is there twice"
    assert set(reference.keys()) <= set(found), "a state is lost that an import had taken in"
    # What the killed ones had journalled, their next start publishes.
    for place in places:
        take(place, files[0])
        assert not [name for _, _, names in os.walk(os.path.join(place.state, "journal")) for name in names]
    assert "0 errors, 0 warnings" in places[0].run("verify", "--deep").stderr
    print(f"killed the server {kills['server']} times and a writer {kills['writer']} times: {len(found)} states, none lost, none twice")
    server.kill()
