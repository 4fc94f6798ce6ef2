"""Every snippet of the README's cookbook: the SQL and the pandas of a question have the same answer."""

import json
import math
import os
import re
import subprocess

import duckdb
import pandas
import pytest

PROGRAM = os.path.abspath(os.environ["DEX_ARCHIVE"])
README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "README.md")


def chapter():
    with open(README, encoding="utf-8") as file:
        return file.read().split("\n## Cookbook\n")[1].split("\n## ")[0]


def snippets(text):
    """The SQL and the Python of a section, of which there is one each."""
    (sql,), (python,) = (re.findall(f"```{language}\n(.*?)```", text, re.S) for language in ("sql", "python"))
    return sql, python


PRELUDE, *QUESTIONS = re.split(r"\n### ", chapter())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cookbook")
    archive = str(folder / "dex-archive-data")
    subprocess.run([PROGRAM, "--archive", archive, "demo", "--devices", "40", "--hours", "50"], check=True, capture_output=True)
    # Somebody who went away.
    gone = pandas.Timestamp.now("UTC") - pandas.Timedelta(hours=30)
    state = {
        "deviceId": "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7", "timestamp": gone.isoformat(), "version": "1.0.0.0",
        "deviceName": "gone", "status": "connected", "colo": "FRA", "estimatedLossPct": 0.5, "diskUsagePct": 10.0,
    }
    (folder / "gone.ndjson").write_text(json.dumps(state))
    account = "01a7362d577a6c3019a474fd6f485823"
    command = [PROGRAM, "--archive", archive, "import", "--account", account, str(folder / "gone.ndjson")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_there_are_ten_questions():
    assert len(QUESTIONS) == 10


def values(frame):
    """Rows as plain values: times as microseconds, texts, numbers."""
    def plain(value):
        if value is None or value is pandas.NA or value is pandas.NaT or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, pandas.Timestamp):
            return value.tz_convert("UTC").isoformat() if value.tzinfo else value.isoformat() + "+00:00"
        return value.item() if hasattr(value, "item") else value

    return [tuple(plain(value) for value in row) for row in frame.itertuples(index=False, name=None)]


@pytest.mark.parametrize("question", QUESTIONS, ids=[text.split("\n")[0] for text in QUESTIONS])
def test_sql_and_pandas_have_the_same_answer(folder, question, monkeypatch):
    monkeypatch.chdir(folder)
    (views, prelude), (sql, python) = snippets(PRELUDE), snippets(question)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(views)
    expected = connection.execute(sql).df()
    names = {}
    exec(prelude + python, names)
    found = names["answer"]
    assert list(found.columns) == list(expected.columns)
    assert len(found) == len(expected) > 0
    for one, other in zip(values(found), values(expected)):
        assert one == tuple(pytest.approx(value, rel=1e-9) if isinstance(value, float) else value for value in other)
