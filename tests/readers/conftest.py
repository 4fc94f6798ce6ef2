"""What several test files share: a demo's archive, the README's recipes for other engines, and places for archives."""

import datetime
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys

import duckdb
import pandas
import pytest

import azurite
import s3
from places import ACCOUNT, PROGRAM, Place, dump, in_bucket

README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "README.md")
# The question that every recipe answers.
HOURS = """
SELECT device_id, date_trunc('hour', timestamp) AS hour, avg(cpu_pct) AS cpu_pct
FROM 'dex-archive-data/device_state/*/*.parquet' WHERE date = ? GROUP BY ALL ORDER BY ALL"""

# Each requires the one DuckDB that it is made for.
EXTENSIONS = ("duckdb-extension-ducklake==1.5.5", "duckdb-extension-httpfs==1.5.5")


def yesterday():
    return datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=1)


def publish(folder, timestamp, **more):
    """Imports a state of a device that is in no fleet, so that its day is published anew."""
    state = {
        "deviceId": "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7", "timestamp": timestamp, "version": "1.0.0.0",
        "deviceName": "gone", "status": "connected", "colo": "FRA", "estimatedLossPct": 0.5, "diskUsagePct": 10.0, **more,
    }
    (folder / "gone.ndjson").write_text(json.dumps(state))
    command = [PROGRAM, "--archive", "dex-archive-data", "import", "--account", ACCOUNT, "gone.ndjson"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with `dex-archive-data`, which no test changes: the demo's 50 hours, and somebody who went away."""
    folder = tmp_path_factory.mktemp("demo")
    command = [PROGRAM, "--archive", "dex-archive-data", "demo", "--devices", "40", "--hours", "50"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    publish(folder, (pandas.Timestamp.now("UTC") - pandas.Timedelta(hours=30)).isoformat())
    return folder


@pytest.fixture
def own(folder, tmp_path):
    """A copy of that folder, and what publishes a day of it anew: yesterday."""
    shutil.copytree(folder / "dex-archive-data", tmp_path / "dex-archive-data")
    return tmp_path, lambda: publish(tmp_path, f"{yesterday()}T12:34:56Z", cpuPct=50.0)


@pytest.fixture(scope="session")
def recipe():
    """The code of a section of the README's "Other engines", behind what all the Python has in common."""
    with open(os.environ.get("RECIPES", README), encoding="utf-8") as file:
        chapter = ("\n" + file.read()).split("\n## Other engines\n")[1].split("\n## ")[0]
    prelude, *sections = re.split(r"\n### ", chapter)
    (common,) = re.findall(r"```python\n(.*?)```", prelude, re.S)

    def code(engine):
        (section,) = [section for section in sections if section.startswith(engine + "\n")]
        ((language, text),) = re.findall(r"```(python|sql)\n(.*?)```", section, re.S)
        return common + text if language == "python" else text

    return code


@pytest.fixture
def check():
    """Holds a recipe's answer (a data frame of pandas) against DuckDB's in the same folder."""
    asked = yesterday()

    def check(answer):
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        day = pandas.to_datetime(answer["hour"], utc=True).min().date()
        assert day in (asked, yesterday())  # Midnight may have passed meanwhile.
        found, expected = rows(answer), rows(connection.execute(HOURS, [day]).df())
        assert len(found) > 24
        assert [row[:2] for row in found] == [row[:2] for row in expected]
        assert [row[2] for row in found] == pytest.approx([row[2] for row in expected], rel=1e-9, nan_ok=True)

    return check


def rows(answer):
    """A data frame's rows, with times in UTC and doubles that are not there as NaN."""
    hours = pandas.to_datetime(answer["hour"], utc=True)
    return list(zip(answer["device_id"].tolist(), hours.tolist(), answer["cpu_pct"].astype("float64").tolist()))


@pytest.fixture(scope="session")
def lake():
    """Beside the packages of this Python, a folder with DuckDB 1.5 and those of its extensions that PyPI has."""
    place = os.path.join(sys.prefix, "duckdb-1.5")
    with open(place + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Tests run side by side.
        if not os.path.exists(place):
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", place + ".new", *EXTENSIONS]
            if subprocess.run(install).returncode != 0:
                pytest.skip("DuckDB's extensions could not be installed from PyPI")
            os.rename(place + ".new", place)
    return place


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = s3.Server(tmp_path_factory.mktemp("s3") / "objects")
    yield server
    server.kill()


@pytest.fixture(scope="session")
def azure(tmp_path_factory):
    if not azurite.install():
        pytest.skip("there is no npm that could install Azurite")
    server = azurite.Server(tmp_path_factory.mktemp("azure"))
    yield server
    server.kill()


@pytest.fixture(params=["S3", "Azure"])
def cloud(request):
    return request.getfixturevalue("server" if request.param == "S3" else "azure")


@pytest.fixture(params=["folder", "S3", "Azure"])
def place(request, tmp_path):
    if request.param == "folder":
        return Place(str(tmp_path / "archive"))
    return in_bucket(request.getfixturevalue("server" if request.param == "S3" else "azure"), tmp_path)


@pytest.fixture(scope="session")
def states(tmp_path_factory):
    """Three days of 20 devices."""
    return dump(tmp_path_factory.mktemp("dump") / "states.ndjson", 20, 3 * 288)
