"""The metrics, alerts and dashboard of deploy/, and scripts/deploy-alerts, which makes them."""
import pathlib
import re
import shutil
import sys
import unittest

import yaml

from stubbed import ROOT, SERVICE, Stubbed

METRICS = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / "deploy/metrics").glob("*.yaml")}
ALERTS = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / "deploy/alerts").glob("*.yaml")}
DASHBOARD = (ROOT / "deploy/dashboard.yaml").read_text()
# What a line of the log has beside its message.
FIELDS = {"answered": {"status", "latency_us", "route", "method"}, "batch finished": {"unknown_cost"}}
SHOWN = re.compile(r"tracing::(?:info|warn|error)!\(")
TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|[()]', re.DOTALL)


def messages(metric):
    """The messages that a metric's filter names."""
    named = re.findall(r"jsonPayload\.message=(\(.*?\)|\"[^\"]*\")", metric["filter"])
    return [message for names in named for message in re.findall(r'"([^"]*)"', names)]


def shown():
    """What the source says at a level that is in the log unless somebody has set another: info and above."""
    found = {}
    for file in (ROOT / "src").rglob("*.rs"):
        source = file.read_text().split("#[cfg(test)]")[0]
        for call in SHOWN.finditer(source):
            depth = 1
            for token in TOKEN.finditer(source, call.end()):
                depth += {"(": 1, ")": -1}.get(token[0], 0)
                if depth == 0:
                    break
                if token[1] is not None:
                    found[token[1]] = found.get(token[1], "") + source[call.start():token.start()]
    return found


class Files(unittest.TestCase):
    def test_every_message_that_is_counted_is_one_that_the_program_shows(self):
        known = shown()
        named = {message for metric in METRICS.values() for message in messages(metric)}
        self.assertGreater(len(named), 15)
        self.assertEqual([message for message in named if message not in known], [])
        page = (ROOT / "docs/OPERATIONS.md").read_text()
        self.assertEqual([message for message in named if f"\n| `{message}` | " not in page], [], "the table of messages")
        # Route and method are of the span around it.
        around = re.search(r'info_span!\(\s*"request".*?;', (ROOT / "src/http/answer.rs").read_text(), re.DOTALL)[0]
        for message, fields in FIELDS.items():
            for field in fields:
                self.assertRegex(known[message] + around, rf"\b{field}\b", message)

    def test_every_metric_counts_one_service_by_messages(self):
        for name, metric in METRICS.items():
            self.assertTrue(metric["filter"].startswith(
                'resource.type="cloud_run_revision" AND resource.labels.service_name="SERVICE" AND jsonPayload.message='), name)
            self.assertTrue(messages(metric), name)
            labels = [label["key"] for label in metric["metricDescriptor"].get("labels", [])]
            self.assertEqual(labels, list(metric.get("labelExtractors", {})), name)
            self.assertEqual(metric["filter"].count("("), metric["filter"].count(")"), name)
            fields = set(re.findall(r"jsonPayload\.(\w+)", str(metric))) - {"message"}
            for message in messages(metric):
                self.assertLessEqual(fields, FIELDS.get(message, set()), name)

    def test_every_alert_watches_metrics_that_there_are_and_says_where_it_is_explained(self):
        runbook = (ROOT / "docs/RUNBOOK.md").read_text()
        sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", runbook, re.MULTILINE | re.DOTALL))
        watched = set()
        for name, alert in ALERTS.items():
            section = re.search(r'section "(.*)"', alert["documentation"]["content"])[1]
            self.assertIn(section, sections, name)
            for part in ("**Means.**", "**Look at**", "**Do.**"):
                self.assertIn(part, sections[section], section)
            self.assertEqual(alert["userLabels"], {"service": "SERVICE", "alert": name})
            self.assertRegex(sections["Alerts"], rf"\n\| \[{section}\]\(#[a-z-]+\) \| {alert['severity']} \| ")
            for condition in alert["conditions"]:
                threshold = condition["conditionThreshold"]
                for filter in (threshold["filter"], threshold.get("denominatorFilter", threshold["filter"])):
                    metric = re.search(r'metric\.type="logging\.googleapis\.com/user/SERVICE-([a-z-]+)"', filter)[1]
                    watched.add(metric)
        self.assertEqual(sections["Alerts"].count("\n| ["), len(ALERTS))
        self.assertEqual(watched, set(METRICS), "nothing is counted in vain, and nothing is watched that is not counted")

    def test_what_the_runbook_filters_the_log_by_can_match(self):
        runbook, known = (ROOT / "docs/RUNBOOK.md").read_text(), shown()
        named = messages({"filter": runbook})
        self.assertGreater(len(named), 4)
        self.assertEqual([message for message in named if message not in known], [])
        for line in runbook.splitlines():
            if re.search(r"gcloud logging read '", line):
                self.assertEqual((line.count("'"), line.count('"') % 2), (2, 0), line)
            self.assertIsNone(re.search(r"gcloud logging read$", line), line)

    def test_the_alerts_of_prometheus_are_about_metrics_that_there_are(self):
        page = (ROOT / "docs/METRICS.md").read_text()
        rules = yaml.safe_load(page.split("```yaml\n")[2].split("```")[0])["groups"][0]["rules"]
        named = {name for rule in rules for name in re.findall(r"orchestrator_\w+", rule["expr"])}
        self.assertGreaterEqual(len(named), 5)
        self.assertEqual([name for name in named if f"\n| `{name}` | " not in page], [])

    def test_the_dashboard_shows_every_metric(self):
        self.assertEqual(set(re.findall(r"/user/SERVICE-([a-z-]+)", DASHBOARD)), set(METRICS))
        tiles = yaml.safe_load(DASHBOARD)["mosaicLayout"]["tiles"]
        places = {(tile["xPos"], tile["yPos"]) for tile in tiles}
        self.assertEqual(len(places), len(tiles))

    def test_gcloud_knows_every_field(self):
        gcloud = shutil.which("gcloud")
        library = pathlib.Path(gcloud).resolve().parent.parent / "lib" if gcloud else None
        if not library or not (library / "googlecloudsdk").exists():
            self.skipTest("there is no gcloud")
        before = list(sys.path)
        sys.path += [str(library), str(library / "third_party")]
        try:
            from apitools.base.py import encoding
            from googlecloudsdk.generated_clients.apis.logging.v2 import logging_v2_messages as logging
            from googlecloudsdk.generated_clients.apis.monitoring.v1 import monitoring_v1_messages as dashboards
            from googlecloudsdk.generated_clients.apis.monitoring.v3 import monitoring_v3_messages as monitoring
        finally:
            sys.path[:] = before
        files = [(logging.LogMetric, metric) for metric in METRICS.values()]
        files += [(monitoring.AlertPolicy, alert) for alert in ALERTS.values()]
        for kind, content in [*files, (dashboards.Dashboard, yaml.safe_load(DASHBOARD))]:
            read = encoding.PyValueToMessage(kind, content)
            self.assertEqual(list(encoding.UnrecognizedFieldIter(read)), [])


class Deploying(Stubbed):
    def test_everything_is_made_then_kept_and_nothing_twice(self):
        self.script("deploy-alerts", "--email", "ops@example.com")
        first = self.state()
        self.assertEqual(set(first["metrics"]), {f"{SERVICE}-{name}" for name in METRICS})
        self.assertEqual(len(first["policies"]), len(ALERTS))
        for text in [*first["metrics"].values(), *first["policies"].values(), *first["dashboards"].values()]:
            self.assertNotRegex(text, r"\bSERVICE\b")
            yaml.safe_load(text)
        for text in first["policies"].values():
            self.assertEqual(yaml.safe_load(text)["notificationChannels"], ["projects/demo/notificationChannels/1"])
        for words in ([], ["--email", "ops@example.com"]):
            self.script("deploy-alerts", *words)
            again = self.state()
            for part in ("metrics", "policies", "made", "channels"):
                self.assertEqual(again[part], first[part], part)
            self.assertEqual(list(again["dashboards"]), ["dashboard-1"])
        self.script("deploy-alerts", "--channel", "projects/demo/notificationChannels/7")
        self.assertEqual(len(self.state()["policies"]), len(ALERTS))
        self.assertTrue(all("notificationChannels/7" in text for text in self.state()["policies"].values()))

    def test_a_file_that_cannot_be_rendered_is_not_sent_empty(self):
        self.sh("gcloud", "services", "enable", "monitoring.googleapis.com", CLOUDSDK_CORE_PROJECT="demo")
        broken = self.folder / "broken"
        broken.mkdir()
        (broken / "sed").write_text("#!/bin/sh\nexit 4\n")
        (broken / "sed").chmod(0o755)
        failed = self.script("deploy-alerts", status=1, PATH=f"{broken}:{self.environment['PATH']}")
        self.assertIn("this failed: metrics", failed.stderr)
        self.assertEqual(self.state().get("metrics"), None)

    def test_two_services_have_their_own(self):
        for service in ("one", "two"):
            self.script("deploy-alerts", SERVICE=service)
        state = self.state()
        self.assertEqual((len(state["metrics"]), len(state["policies"]), len(state["dashboards"])),
                         (2 * len(METRICS), 2 * len(ALERTS), 2))

    def test_a_dry_run_changes_nothing_and_what_fails_stops_it(self):
        self.sh("gcloud", "services", "enable", "monitoring.googleapis.com", CLOUDSDK_CORE_PROJECT="demo")
        before = self.state()
        shown = self.script("deploy-alerts", "--dry-run", "--email", "ops@example.com").stdout
        self.assertEqual(before | {"calls": []}, self.state() | {"calls": []})
        self.assertEqual(shown.count("policies create"), len(ALERTS))
        failed = self.script("deploy-alerts", status=1, STUB_FAIL="alpha monitoring policies create")
        self.assertIn("do it again", failed.stderr)
        self.assertEqual(self.state()["calls"][-1][:4], ["alpha", "monitoring", "policies", "create"])
        self.assertEqual(list(self.folder.glob("tmp*")), [], "nothing is left behind")
        for words in (["--email", "nobody"], ["--channel", "x"], ["--email", "a@b", "--channel",
                      "projects/p/notificationChannels/1"]):
            self.script("deploy-alerts", *words, status=64)


if __name__ == "__main__":
    unittest.main()
