"""Whatever can go wrong between the program and a bucket: a busy server, credentials, other writers, kills."""

import gzip
import io
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time

import pyarrow.parquet
import pytest
import s3
from places import ACCOUNT, DENIED, WINDOW, Place, api, dump, in_bucket, take

SLOW_DOWN = (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
KILLS = 100


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


def test_a_sweep_does_not_wait_for_the_bucket(server, tmp_path):
    place = in_bucket(server, tmp_path)
    place.run("init", "--shards", "2")
    proxy = s3.Proxy(server, lambda number, method: DENIED)

    def remember(text):
        with open(f"{place.state}/archive.json", "w") as file:
            file.write(text)

    with api(10) as env:
        away = env | s3.variables(proxy.port)
        # Of an archive that no writer on this machine has met, nothing is known.
        assert "have expired" in place.run("collect", code=1, env=away).stderr and not os.path.exists(place.state)
        place.run("collect", "--device", "cb49c27f-7f97-49c5-b6f3-f7c01ead0f00", env=env)
        said = place.run("collect", code=1, env=away).stderr
        assert "what is received waits in" in said and " devices: " in said and said.count("stays in the journal") == 1, said
        # What is remembered may be bent, or of former days: who says how many shards there are knows more.
        remember('{"format":1,"shards":4}')
        assert " devices: " in place.run("collect", code=1, env=away).stderr
        said = place.run("collect", "--shard", "1/2", code=1, env=away).stderr
        assert "what is received waits in" in said and " devices: " in said, said
        remember("bent")
        assert "what is received" not in place.run("collect", code=1, env=away).stderr
        remember('{"format":1,"shards":2}')
        said = place.run("collect", "--every", "2s", "--sweeps", "2", code=1, env=away).stderr
        assert said.count(" devices: ") == 2, said
    assert place.keys() == [] and len(os.listdir(f"{place.state}/journal/shard-0")) > 0
    proxy.close()
    # Without the API: what is there now, was received while the bucket was away.
    take(place, dump(tmp_path / "more.ndjson", 1, 1))
    # Some are off, by day and by night.
    assert len({device for device, _ in place.keys()}) > 3
    assert len(place.parts()) > 2 and "0 errors, 0 warnings" in place.run("verify", "--deep").stderr


def test_whoever_is_hidden_stays_hidden_while_the_bucket_is_away(server, tmp_path):
    place = in_bucket(server, tmp_path)
    place.run("init")
    config = tmp_path / "config.toml"
    config.write_text('[privacy.classes]\nperson = "pseudonym"\n')
    ruled, proxy = ("--config", str(config), "collect"), s3.Proxy(server, lambda number, method: DENIED)
    with api(5) as env:
        key = env | {"DEX_ARCHIVE_PRIVACY_KEY": "one of sixteen letters"}
        away = s3.variables(proxy.port)
        place.run(*ruled, env=key)
        # The first start noted the key; this one knows it.
        assert "what is received waits in" in place.run(*ruled, code=1, env=key | away).stderr
        assert "holds pseudonyms, and this command has no [privacy] rules" in place.run("collect", code=2, env=env | away).stderr
        other = key | away | {"DEX_ARCHIVE_PRIVACY_KEY": "another of sixteen letters"}
        said = place.run(*ruled, code=1, env=other).stderr
        assert "have expired" in said and "what is received" not in said, said
    proxy.close()


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


def test_an_answer_that_comes_short_or_bent_once_is_no_damage(server, tmp_path, states):
    more = dump(tmp_path / "more.ndjson", 5, 20, seed=9)
    clean = in_bucket(server, tmp_path, "clean")
    take(clean, states, more)
    for name, bent in (("short", lambda body: body[: len(body) // 2]), ("flipped", lambda body: bytes([body[0] ^ 1]) + body[1:])):
        (tmp_path / name).mkdir()
        place, once = in_bucket(server, tmp_path / name), []
        take(place, states)

        def bends(method, path, status, body):
            if method == "GET" and "/device_state/" in path and status == 206 and not once:
                once.append(path)
                return bent(body)
            return body

        proxy = s3.Proxy(server, bends=bends)
        done = subprocess.run(place.command("import", "--account", ACCOUNT, more), capture_output=True, text=True,
                              env=place.env | s3.variables(proxy.port))
        proxy.close()
        assert once and "damaged" not in done.stderr, done.stderr
        assert done.returncode == (1 if name == "short" else 0), done.stderr
        # What could not be published stays in the journal.
        take(place, more)
        at = ("latest", "--at", "2026-10-04")
        assert place.ask(*at) == clean.ask(*at) and sorted(place.keys()) == sorted(clean.keys())


def test_nobody_says_that_it_was_read_what_is_lost_with_the_journal(server, tmp_path):
    place = in_bucket(server, tmp_path)
    is_state = lambda method, path: DENIED if method == "PUT" and "/device_state/" in path else None
    proxy = s3.Proxy(server, before=is_state)
    with api(10) as env:
        place.run("backfill", "--rate-limit", "none", "--since", "1d", code=1, env=s3.variables(proxy.port) | env)
        proxy.close()
        shutil.rmtree(place.state)
        place.run("backfill", "--rate-limit", "none", "--since", "1d", env=env)
    assert len(place.keys()) > 200


def test_the_pages_of_a_list_wait_together(server, tmp_path):
    place = in_bucket(server, tmp_path)
    place.run("init")
    is_state = lambda method, path: DENIED if method == "PUT" and "/device_state/" in path else None
    proxy = s3.Proxy(server, before=is_state)
    sweep = ("collect", "--source", "list", "--rate-limit", "none", "--since-minutes", "60")
    with api(40) as env:
        place.run(*sweep, code=1, env=s3.variables(proxy.port) | env)
        proxy.close()
        # Its last page, on which nobody is, would say that nobody is there.
        assert place.parts("poll") == {}
        place.run(*sweep, env=env)
    assert place.keys() and place.parts("poll")


def test_what_is_sent_while_others_reshard_does_not_count(server, tmp_path, states):
    place, begun, ended = in_bucket(server, tmp_path), threading.Event(), threading.Event()
    place.run("init")

    def before(method, path):
        if method == "PUT" and "/device_state/" in path:
            begun.set()
            ended.wait(120)

    proxy = s3.Proxy(server, before=before)
    command = place.command("import", "--account", ACCOUNT, states)
    late = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=place.env | s3.variables(proxy.port))
    assert begun.wait(60)
    elsewhere = Place(place.root, str(tmp_path / "elsewhere"), place.env, server)
    early = dump(tmp_path / "early.ndjson", 5, 20, seed=9)
    take(elsewhere, early)
    elsewhere.run("reshard", "--shards", "2")
    ended.set()
    said = late.communicate()[1]
    proxy.close()
    assert late.returncode == 1 and "stays in the journal" in said, said
    elsewhere.run("verify")
    # The next one publishes it.
    take(place, early)
    keys = place.keys()
    assert len(keys) > 10_000 and len(keys) == len(set(keys))
    place.run("verify")


def test_of_two_who_reshard_the_last_to_begin_ends_it(server, tmp_path, states):
    place, begun, ended = in_bucket(server, tmp_path), threading.Event(), threading.Event()
    take(place, states)
    keys, puts = sorted(place.keys()), []

    def before(method, path):
        puts.extend([path] * (method == "PUT" and "/device_state/" in path))
        # The second day: of the first one, something is done.
        if len(puts) == 4 and not begun.is_set():
            begun.set()
            ended.wait(120)

    proxy = s3.Proxy(server, before=before)
    command = place.command("reshard", "--shards", "3")
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=place.env | s3.variables(proxy.port))
    assert begun.wait(60)
    elsewhere = Place(place.root, str(tmp_path / "elsewhere"), place.env, server)
    elsewhere.run("reshard", "--shards", "2")
    ended.set()
    said = first.communicate()[1]
    proxy.close()
    assert first.returncode == 1 and "filed into 2 shards" in said, said
    assert sorted(place.keys()) == keys and {key.split("part-")[1][0] for key in place.parts()} == {"0", "1"}
    assert "0 errors, 0 warnings" in place.run("verify", "--deep").stderr


def test_a_day_that_is_refused_holds_up_no_other(server, tmp_path, states):
    place = in_bucket(server, tmp_path)
    take(place, states)
    first = lambda: sum(at.startswith("2026-10-01") for _, at in place.keys())
    before, of_first = len(place.keys()), first()
    # As of an object that was moved to where only its owner fetches it from.
    is_first = lambda method, path: DENIED if "/device_state/" in path and "2026-10-01/" in path else None
    proxy = s3.Proxy(server, before=is_first)
    more = dump(tmp_path / "more.ndjson", 3, 3 * 288, seed=9)
    said = place.run("import", "--account", ACCOUNT, more, code=1, env=s3.variables(proxy.port)).stderr
    assert "stays in the journal" in said, said
    assert len(place.keys()) > before + 300 and first() == of_first
    proxy.close()
    take(place, dump(tmp_path / "last.ndjson", 1, 1))
    assert first() > of_first


def of_shard(folder, ids, count):
    """Which shard of so many each device falls into."""
    place = Place(str(folder / f"of-{count}"))
    place.run("init", "--shards", str(count))
    lines = [json.dumps({"deviceId": device, "timestamp": "2026-10-01T00:00:00Z"}) for device in ids]
    (folder / "ids.ndjson").write_text("\n".join(lines))
    take(place, str(folder / "ids.ndjson"))
    read = lambda body: pyarrow.parquet.read_table(io.BytesIO(body), columns=["device_id"]).column(0).to_pylist()
    return {device: int(key.split("part-")[1][0]) for key, body in place.parts().items() for device in read(body)}


@pytest.mark.parametrize("is_refused", [True, False])
def test_what_the_first_of_two_who_reshard_put_at_last_is_undone_or_read(server, tmp_path, is_refused):
    """The first one's object comes when the second has listed the day. Where the first has another to send, which the second
    has sent by then, that is refused; else the second is, and reads the day once more."""
    ids = [f"{7919 * number:08x}-0000-4000-8000-{number:012}" for number in range(60)]
    two, three = of_shard(tmp_path, ids, 2), of_shard(tmp_path, ids, 3)
    if is_refused:
        ids = [device for device in ids if two[device] == 1 and three[device] in (0, 1)]
    place = in_bucket(server, tmp_path)
    states = [{"deviceId": device, "timestamp": f"2026-10-01T00:0{minute}:00Z"} for device in ids for minute in range(3)]
    (tmp_path / "s.ndjson").write_text("\n".join(json.dumps(state) for state in states))
    take(place, str(tmp_path / "s.ndjson"))
    keys = sorted(place.keys())
    checked, listed, put, sent = (threading.Event() for _ in range(4))
    is_state = lambda method, path: method == "PUT" and "/device_state/" in path

    def between(reached, until, later, done):
        """The first object is sent when something has happened, the others when something later has."""
        asked = []

        def before(method, path):
            if is_state(method, path):
                asked.append(path)
                if len(asked) == 1:
                    reached.set()
                    until.wait(60)
                elif later:
                    later.wait(60)

        def bends(method, path, status, body):
            if is_state(method, path):
                done.set()
            return body

        return s3.Proxy(server, before=before, bends=bends)

    proxies = [between(checked, listed, sent if is_refused else None, put), between(listed, put, None, sent)]
    command = place.command("reshard", "--shards", "3")
    began = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=place.env | s3.variables(proxies[0].port))
    assert checked.wait(60)
    elsewhere = Place(place.root, str(tmp_path / "elsewhere"), place.env, server)
    elsewhere.run("reshard", "--shards", "2", env=s3.variables(proxies[1].port))
    said = began.communicate()[1]
    for proxy in proxies:
        proxy.close()
    assert began.returncode == 1 and " into " in said, said
    assert sorted(place.keys()) == keys, said
    assert "0 errors, 0 warnings" in place.run("verify", "--deep").stderr


def test_a_store_that_takes_its_time_holds_up_no_sweep(server, tmp_path):
    place = in_bucket(server, tmp_path)
    place.run("init")
    descriptions = []

    def before(method, path):
        if path.endswith("/archive.json"):
            descriptions.append(path)
            if len(descriptions) == 1:
                time.sleep(9)

    proxy = s3.Proxy(server, before=before)
    with api(5) as env:
        place.run("collect", env=env)
        said = place.run("collect", env=env | s3.variables(proxy.port)).stderr
    assert "gives no answer in 5s" in said and "what is received waits in" in said and " devices: " in said, said
    proxy.close()


def test_an_object_that_cannot_be_asked_for_is_named(server, tmp_path, states):
    place = in_bucket(server, tmp_path)
    take(place, states)
    place.put("device_state//x.txt", b"x")
    said = place.run("status", code=1).stderr
    assert "cannot be asked for stands there: remove it" in said and "device_state//x.txt" in said, said


def test_a_reader_that_is_killed_leaves_nobodys_data_behind(server, tmp_path, states):
    place, begun = in_bucket(server, tmp_path), threading.Event()
    take(place, states)

    def bends(method, path, status, body):
        if method == "GET" and "/device_state/" in path and status == 206:
            begun.set()
            time.sleep(1)
        return body

    proxy = s3.Proxy(server, bends=bends)
    reader = Place(place.root, str(tmp_path / "reader"), place.env | s3.variables(proxy.port), server)
    process = subprocess.Popen(reader.command("verify"), stderr=subprocess.DEVNULL, env=reader.env)
    assert begun.wait(60)
    time.sleep(0.2)
    process.kill()
    process.wait()
    proxy.close()
    left = [os.path.join(folder, name) for folder, _, names in os.walk(reader.state) for name in names]
    assert not [path for path in left if "unfinished" in path], left


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
