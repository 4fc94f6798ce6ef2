"""Every snippet of the README's cookbook: the SQL and the pandas of a question have the same answer."""

import math
import os
import re

import duckdb
import pandas
import pytest

README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "README.md")


def chapter():
    with open(README, encoding="utf-8") as file:
        return file.read().split("\n## Cookbook\n")[1].split("\n## ")[0]


def snippets(text):
    """The SQL and the Python of a section, of which there is one each."""
    (sql,), (python,) = (re.findall(f"```{language}\n(.*?)```", text, re.S) for language in ("sql", "python"))
    return sql, python


PRELUDE, *QUESTIONS = re.split(r"\n### ", chapter())


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
