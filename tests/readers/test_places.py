"""The same behaviour wherever an archive lies: in a folder, in a bucket of a real S3 server, in a container of a real Azure
server."""

import datetime
import io
import json
import os
import subprocess
import time

import pyarrow.parquet

import s3
from places import ACCOUNT, DENIED, WINDOW, Place, api, dump, in_bucket, take


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
    # One may have come or gone meanwhile.
    differing = {device for device, _ in found} ^ {device for device, _ in alone}
    assert len(differing) <= 1
    assert {device for device, _ in set(alone) - set(found)} <= differing
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
