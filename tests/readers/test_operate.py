"""What runs the collector and what watches it, as those programs read it: Prometheus, systemd, Kubernetes."""

import os
import re
import shutil
import subprocess

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

PROGRAM = os.path.abspath(os.environ["DEX_ARCHIVE"])
README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "README.md")
ACCOUNT = "01a7362d577a6c3019a474fd6f485823"


def run(*args, **more):
    return subprocess.run([PROGRAM, *args], check=True, capture_output=True, text=True, **more)


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics")
    server = subprocess.Popen([PROGRAM, "simulate", "--devices", "20"], stdout=subprocess.PIPE, text=True)
    try:
        environment = dict(line.strip().split("=", 1) for line in (server.stdout.readline(), server.stdout.readline()))
        environment |= {"CLOUDFLARE_API_TOKEN": "simulated", "PATH": os.environ["PATH"]}
        file = str(folder / "dex.prom")
        run("--archive", str(folder / "archive"), "collect", "--every", "1s", "--sweeps", "2", "--rate-limit", "none",
            "--metrics-file", file, env=environment)
    finally:
        server.kill()
        server.wait()
    with open(file, encoding="utf-8") as text:
        return {family.name: family for family in text_string_to_metric_families(text.read())}


def test_prometheus_reads_the_metrics(families):
    value = lambda name, **labels: next(s.value for s in families[name].samples if labels.items() <= s.labels.items())
    assert value("dex_archive_sweeps", account=ACCOUNT) == 2
    assert families["dex_archive_sweeps"].type == "counter"
    assert value("dex_archive_last_sweep_success", account=ACCOUNT) == 1
    assert 0 < value("dex_archive_last_sweep_devices", account=ACCOUNT) <= 20
    assert value("dex_archive_journal_pending_since_timestamp_seconds") == 0
    assert value("dex_archive_disk_free_bytes") > 0
    for family in families.values():
        assert family.documentation and family.type in ("gauge", "counter"), family
        # A unit in the name is a base unit.
        assert not re.search(r"_(ms|us|minutes|kb|mb|pct|percent)(_|$)", family.name), family.name


def test_alert_rules_of_the_readme_are_about_metrics_that_there_are(families):
    with open(README, encoding="utf-8") as file:
        (rules,) = re.findall(r"```yaml\n(groups:.*?)```", file.read(), re.S)
    rules = [rule for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    assert len(rules) >= 4
    known = {sample.name for family in families.values() for sample in family.samples}
    for rule in rules:
        named = set(re.findall(r"dex_archive_\w+", rule["expr"]))
        assert named and named <= known, named - known
        assert rule["alert"] and rule["annotations"]["summary"]


def test_systemd_has_nothing_to_say_against_the_unit(tmp_path):
    unit = tmp_path / "dex-archive.service"
    for archive, token in (("/var/lib/dex-archive", "/etc/token"), ("/srv/dex archive/50%", "/etc/a+b 50%/token")):
        text = run("--archive", archive, "service", "systemd", "--account", ACCOUNT, "--user", "daemon",
                   "--token-file", token).stdout
        unit.write_text(text)
        checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    # What stands for a variable elsewhere does not in the program's own path.
    program = tmp_path / "a$b" / "dex-archive"
    program.parent.mkdir()
    shutil.copy(PROGRAM, program)
    text = subprocess.run([program, "--archive", "/srv/a$b", "service", "systemd", "--account", ACCOUNT, "--user", "daemon"],
                          capture_output=True, text=True).stdout
    (begun,) = re.findall(r"ExecStart=.*", text)
    assert begun.startswith(f'ExecStart="{program}"') and '"/srv/a$$b"' in begun, begun
    unit.write_text(text)
    checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    exposure = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(unit)], capture_output=True, text=True)
    assert exposure.returncode == 0, exposure.stdout[-300:] + exposure.stderr


def test_an_archive_in_a_bucket_keeps_its_state_on_the_disk(tmp_path):
    place = ("--archive", "s3://fleet/history", "--state-dir", "/var/lib/dex-state")
    unit = run(*place, "service", "systemd", "--account", ACCOUNT, "--user", "daemon").stdout
    (tmp_path / "dex-archive.service").write_text(unit)
    checked = subprocess.run(["systemd-analyze", "verify", tmp_path / "dex-archive.service"], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert '--archive "s3://fleet/history" --state-dir /var/lib/dex-state' in unit and "StateDirectory=dex-state" in unit
    assert "EnvironmentFile=" in unit
    _, job = yaml.safe_load_all(run(*place, "service", "kubernetes", "--account", ACCOUNT).stdout)
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][:5] == ["--archive", "s3://fleet/history", "--state-dir", "/data/state", "collect"]
    assert container["envFrom"] == [{"secretRef": {"name": "dex-archive-bucket"}}]


def test_kubernetes_manifests_are_yaml_of_their_kinds():
    text = run("service", "kubernetes", "--account", ACCOUNT, "--every", "15m", "--image", "r/x:1\"").stdout
    claim, job = yaml.safe_load_all(text)
    assert (claim["kind"], job["kind"], job["spec"]["schedule"]) == ("PersistentVolumeClaim", "CronJob", "*/15 * * * *")
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "r/x:1\"" and container["args"][-1] == "--self-heal" and ACCOUNT in container["args"]
    # The arguments are the program's own.
    help_text = run("collect", "--help").stdout
    assert all(arg in help_text for arg in container["args"] if arg.startswith("--"))


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_takes_the_completions():
    script = run("completions", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize("typed, expected", [
    ("dex-archive que", "query"), ("dex-archive service ", "systemd"), ("dex-archive query tr", "trend"),
    ("dex-archive query trend --de", "--device"),
])
def test_bash_completes_what_is_typed(typed, expected):
    words = typed.split(" ")
    asked = ("source /dev/stdin; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); "
             "read -r _ _ function _ < <(complete -p dex-archive | sed 's/.*\\(-F\\)/complete \\1/'); "
             "\"$function\" dex-archive \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; "
             "printf '%s\\n' \"${COMPREPLY[@]}\"")
    done = subprocess.run(["bash", "-c", asked, "bash", *words], input=run("completions", "bash").stdout, text=True,
                          capture_output=True)
    assert expected in done.stdout.split(), (done.stdout, done.stderr)
