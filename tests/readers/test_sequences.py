"""Whatever is done to an archive, in whatever order, and killed at any moment: it has the rows that a model says, each once.

`SEQUENCES=200 SEED=1000` tries more of them than the few that each run does.
"""

import contextlib
import datetime
import glob
import http.server
import json
import os
import random
import shutil
import subprocess
import threading
import urllib.parse

import duckdb
import pytest

from places import ACCOUNT, PROGRAM

OTHER = "11a7362d577a6c3019a474fd6f485823"
SEED, SEQUENCES = int(os.environ.get("SEED", "1")), int(os.environ.get("SEQUENCES", "4"))
STEPS = 14
DAYS_AGO = (0, 1, 2, 3, 9, 30)
ROWS = """
SELECT account_id, device_id, registration_id, epoch_ms(timestamp), cpu_pct, date = timestamp::DATE
FROM read_parquet(?, hive_partitioning = true)"""


class Api(http.server.BaseHTTPRequestHandler):
    """The list of devices, and each of them, as far as the server's `states` go; it fails as often as `failing` says."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):  # Who asked was killed.
            super().handle()

    def do_GET(self):
        url, states = urllib.parse.urlparse(self.path), self.server.states
        if url.path.endswith("/live"):
            result, more = next((state for state in states if state["deviceId"] in url.path), None), {}
        else:
            asked = urllib.parse.parse_qs(url.query)
            page, size = int(asked["page"][0]), int(asked["per_page"][0])
            result = states[(page - 1) * size : page * size]
            more = {"result_info": {"page": page, "per_page": size, "count": len(result), "total_count": len(states)}}
        body = json.dumps({"success": True, "errors": [], "messages": [], "result": result, **more}).encode()
        self.send_response(500 if self.server.chance.random() < self.server.failing else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Sequence:
    """An archive and the rows that it should have: by key, when they were collected and one of their values."""

    def __init__(self, folder, seed):
        self.chance, self.folder, self.files = random.Random(seed), folder, 0
        self.archive, self.config = str(folder / "archive"), str(folder / "config.toml")
        self.now = datetime.datetime.now(datetime.timezone.utc)
        self.collected = self.now - datetime.timedelta(days=2)
        count = self.chance.choice([5, 20, 60])
        self.devices = ["%08x-0000-4000-8000-%012x" % (self.chance.getrandbits(32), number) for number in range(count)]
        # Some have several devices, some devices have nobody else.
        self.people = {device: f"p{self.chance.randrange(count)}@example.com" for device in self.devices}
        self.rows = {}
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
        self.server.states, self.server.failing, self.server.chance = [], 0, random.Random(seed)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.env = {"PATH": os.environ["PATH"], "CLOUDFLARE_API_TOKEN": "x" * 40}

    # --- The archive ---

    def run(self, *args, codes=(0,), kill=False):
        """Runs a command, which is killed at some moment if `kill` says so; whether it ended by itself, and well."""
        command = [PROGRAM, "--archive", self.archive, *args]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.env)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.chance.choice([0.05, 0.3, 0.8]) * self.chance.random() if kill else 300)
        process.kill()
        said = process.communicate()[0]
        assert process.returncode in ((*codes, -9) if kill else codes), f"{args}: {process.returncode}\n{said}"
        return process.returncode == 0

    def found(self):
        parts = glob.glob(f"{self.archive}/device_state/*/*.parquet")
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.execute(ROWS, [parts]).fetchall() if parts else []
        assert all(row[5] for row in rows), "a row is in its own day"
        found = {row[:4]: row[4] for row in rows}
        assert len(found) == len(rows), "no row is there twice"
        return found

    def holds(self, *models, half=()):
        """Each row is as one of the models has it, or not there where one has it not. Of files that were taken in half, each
        state may be the last of its key."""
        found = self.found()
        for key in set(found).union(*models):
            expected = [model[key][1] if key in model else None for model in models]
            expected += [value for other, value in half if other == key]
            assert found.get(key) in expected, f"{key}: {found.get(key)}, not {expected}"

    def may_be_killed(self, *args, after, codes=(0,)):
        """Runs what makes the rows those of `after`, now and then after it was killed: then it is run again."""
        if self.chance.random() < 0.6:
            self.run(*args, codes=codes, kill=True)
            self.holds(self.rows, after, half=self.in_file)
        self.run(*args, codes=codes)
        self.rows = after
        self.holds(self.rows)

    # --- States ---

    def state(self, device, time):
        return {
            "deviceId": device, "registrationId": f"r-{device[:8]}", "timestamp": time.isoformat(timespec="milliseconds"),
            "cpuPct": round(self.chance.random() * 100, 4), "personEmail": self.people[device], "deviceName": f"n-{device[:8]}",
            "version": "1", "status": "connected", "mode": "warp", "platform": "mac", "colo": "SYD"}

    def keyed(self, account, states):
        """The key of each state, and its value."""
        for state in states:
            milliseconds = round(datetime.datetime.fromisoformat(state["timestamp"]).timestamp() * 1000)
            yield (account, state["deviceId"], state["registrationId"], milliseconds), state["cpuPct"]

    def with_states(self, rows, account, states, collected):
        """The rows after these states came in: of two with one key, the one collected last stays."""
        rows = dict(rows)
        for key, value in self.keyed(account, states):
            # Soon after midnight a file may have a moment that was collected, and be older.
            if key not in rows or rows[key][0] <= collected:
                rows[key] = (collected, value)
        return rows

    def without(self, rows, goes):
        return {key: row for key, row in rows.items() if not goes(key)}

    def file(self):
        """What imports a file of states, and what makes rows of it."""
        self.files += 1
        self.collected += datetime.timedelta(minutes=1)
        account, path = self.chance.choice([ACCOUNT, ACCOUNT, ACCOUNT, OTHER]), self.folder / f"{self.files}.ndjson"
        midnight, states = self.now.replace(hour=0, minute=0, second=0, microsecond=0), []
        for _ in range(self.chance.choice([1, 5, 50, 400, 3000])):
            # Few moments, so that many keys come again.
            after = datetime.timedelta(seconds=300 * self.chance.randrange(40), milliseconds=self.chance.choice([0, 1, 500]))
            time = midnight - datetime.timedelta(days=self.chance.choice(DAYS_AGO)) + after
            if time < self.now:
                states.append(self.state(self.chance.choice(self.devices), time))
        # Some files are long enough to be read where they lie.
        long = {"somethingNew": "x" * 6000} if len(states) > 1000 and self.chance.random() < 0.5 else {}
        path.write_text("".join(json.dumps(state | long) + "\n" for state in states))
        moment = self.collected
        self.in_file = list(self.keyed(account, states))
        command = ("import", "--account", account, "--collected-at", moment.isoformat(), str(path))
        return command, lambda rows: self.with_states(rows, account, states, moment)

    # --- What is done ---

    def imports(self):
        command, taken = self.file()
        if self.chance.random() < 0.3:
            # Something else comes between an import that was killed and the one that makes up for it.
            self.run(*command, kill=True)
            between = self.chance.choice([["verify"], ["verify", "--repair"], ["reshard", "--shards", "3"]])
            self.run(*between, codes=(0, 1, 3))
            self.holds(self.rows, taken(self.rows), half=self.in_file)
        self.may_be_killed(*command, after=taken(self.rows))

    def collects(self):
        now = datetime.datetime.now(datetime.timezone.utc)
        ago = lambda: datetime.timedelta(minutes=self.chance.randrange(1, 25))
        some = self.chance.sample(self.devices, self.chance.randrange(1, len(self.devices) + 1))
        self.server.states = [self.state(device, (now - ago()).replace(second=0, microsecond=0)) for device in some]
        self.server.failing = self.chance.choice([0, 0, 0.2])
        with open(self.config, "w") as config:
            config.write('[archive]\npublish = "%s"\n' % self.chance.choice(["1h", "sweep", "auto"]))
        url = f"http://127.0.0.1:{self.server.server_port}"
        all_done = self.run(
            "--config", self.config, "collect", "--source", self.chance.choice(["list", "auto"]), "--account", ACCOUNT,
            "--api-url", url, "--rate-limit", "100000/1s", "-q", codes=(0, 3), kill=self.chance.random() < 0.6)
        # What was received waits in the journal, or it was not received.
        after = self.with_states(self.rows, ACCOUNT, self.server.states, now)
        before = after if all_done else self.rows
        self.holds(self.rows, after)
        # Each of these publishes what waits.
        command, changed = ("verify", "--repair"), lambda rows: rows
        if os.path.exists(f"{self.archive}/_archive/archive.json"):
            command, changed = self.chance.choice([(command, changed), self.file(), self.forgets_a_device()])
        self.run(*command, codes=(0, 1, 3))
        before, after, found = changed(before), changed(after), self.found()
        self.holds(before, after)
        self.rows = {key: row for key, row in (before | after).items() if found.get(key) == row[1]}
        self.rows |= {key: row for key, row in before.items() if found.get(key) == row[1]}

    def forgets_a_device(self):
        device = self.chance.choice(self.devices)
        return ("forget", "--device", device), lambda rows: self.without(rows, lambda key: key[1] == device)

    def forgets(self):
        email = self.people[self.chance.choice(self.devices)]
        command, changed = self.chance.choice([
            self.forgets_a_device(),
            (("forget", "--email", email), lambda rows: self.without(rows, lambda key: self.people[key[1]] == email)),
            (("forget", "--account", OTHER), lambda rows: self.without(rows, lambda key: key[0] == OTHER))])
        self.may_be_killed(*command, after=changed(self.rows), codes=(0, 1))

    def prunes(self):
        kept = self.chance.choice([5, 20])
        first = self.now.replace(hour=0, minute=0, second=0, microsecond=0) - datetime.timedelta(days=kept)
        after = self.without(self.rows, lambda key: key[3] < first.timestamp() * 1000)
        if after:
            self.may_be_killed("prune", "--keep", f"{kept}d", after=after)

    def reshards(self):
        command = ("reshard", "--shards", str(self.chance.choice([1, 2, 3, 5])))
        if self.chance.random() < 0.6:
            # Rows may be there twice until it is ended.
            self.run(*command, kill=True)
        self.run(*command)
        self.holds(self.rows)

    def upgrades(self):
        self.may_be_killed("upgrade", after=self.rows)

    def misplaces(self):
        """Somebody moves or copies a part where it does not belong, and something may come in before that is mended."""
        parts = sorted(glob.glob(f"{self.archive}/device_state/*/*.parquet"))
        days = [*sorted(glob.glob(f"{self.archive}/device_state/*")), f"{self.archive}/device_state/date=2026-01-01"]
        name = f"part-{self.chance.randrange(4)}-{self.chance.choice([1, 2, 3, 50, 900_000]):06}.parquet"
        to = os.path.join(self.chance.choice(days), name)
        if not parts or os.path.exists(to):
            return
        os.makedirs(os.path.dirname(to), exist_ok=True)
        self.chance.choice([shutil.copy, shutil.move])(self.chance.choice(parts), to)
        if self.chance.random() < 0.4:
            command, taken = self.file()
            self.run(*command, codes=(0, 1, 3))
            self.rows = taken(self.rows)
        self.run("verify", "--repair", codes=(0, 3), kill=self.chance.random() < 0.6)
        self.run("verify", "--repair", codes=(0, 3))
        # A part without rows that was moved leaves an empty folder, and so may one that was taken away by a repair that was
        # killed: `verify` says that it may be removed.
        for day in glob.glob(f"{self.archive}/device_state/*"):
            with contextlib.suppress(OSError):
                os.rmdir(day)
        self.run("verify")
        self.holds(self.rows)


@pytest.mark.parametrize("seed", range(SEED, SEED + SEQUENCES))
def test_a_sequence_of_changes_leaves_the_rows_of_the_model(tmp_path, seed):
    sequence = Sequence(tmp_path, seed)
    sequence.imports()
    steps = (
        [sequence.imports] * 4 + [sequence.collects] * 4 + [sequence.misplaces] * 3 + [sequence.forgets] * 2
        + [sequence.reshards] * 2 + [sequence.prunes, sequence.upgrades])
    for _ in range(STEPS):
        sequence.chance.choice(steps)()
    sequence.run("verify", "--deep")
    sequence.server.shutdown()
