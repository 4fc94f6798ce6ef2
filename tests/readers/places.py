"""A place where an archive lies: a folder, a bucket of a real S3 server, a container of a real Azure server."""

import contextlib
import csv
import io
import os
import subprocess

import pyarrow.parquet

PROGRAM = os.path.abspath(os.environ["DEX_ARCHIVE"])
ACCOUNT = "01a7362d577a6c3019a474fd6f485823"
WINDOW = ("--since", "2026-10-01", "--until", "2026-10-04")
DENIED = (403, b"<Error><Code>AccessDenied</Code></Error>")


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


def in_bucket(server, folder, name=None, port=None):
    state = str(folder / f"state-{name or 'first'}")
    return Place(server.url(folder.name), state, server.variables(port), server)


def dump(path, devices, ticks, start="2026-10-01T00:00:00Z", seed=7):
    command = [PROGRAM, "simulate", "--devices", devices, "--ticks", ticks, "--start", start, "--seed", seed, "--dump", path]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return str(path)


def take(place, *files, code=0):
    return place.run("import", "--account", ACCOUNT, *files, code=code)


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
