"""The scripts for Cloud Run, against a gcloud that is played (bin/gcloud) and the program itself.

    target/python/bin/python -m unittest discover -s tests/deploy

Needs `cargo build`, or TEST_PROGRAM; and PyYAML, which comes with yamllint.
"""
import json
import pathlib
import re
import stat
import subprocess
import tomllib
import unittest

import yaml

from stubbed import HERE, IMAGE, PROGRAM, ROOT, SERVICE, Stubbed, blocks, pretender, program

FLAGS = json.loads((HERE / "gcloud-flags.json").read_text())
SCRIPTS = ["deploy-staging", "smoke", "promote", "rollback", "remote", "seed-100-rows", "run-100-batch", "canary-rollout",
           "deploy-alerts", "image-check"]


def gcloud_lines():
    """Each piece of text, in scripts and documents, that begins with a command of gcloud; with where it is."""
    groups = {command.split()[0] for command in FLAGS["commands"]}
    places = [*(ROOT / "scripts").rglob("*"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md",
              ROOT / "service.yaml", ROOT / "cloudbuild.yaml", ROOT / ".gcloudignore"]
    for place in filter(pathlib.Path.is_file, places):
        text = place.read_text().replace("\\\n", " ")
        for line in text.splitlines():
            for found in re.finditer(r"\bgcloud ([a-z][a-z-]*)(.*)", line):
                if found[1] in groups:
                    yield place.relative_to(ROOT), found[1] + found[2]


def misuse(line):
    """What is wrong with the words after `gcloud`; None if nothing is."""
    line = re.split(r"[`|;)]|<\(|>|, ", re.sub(r"'[^']*'", "QUOTED", line))[0]
    words = line.split()
    command = next((" ".join(words[:n]) for n in range(4, 0, -1) if " ".join(words[:n]) in FLAGS["commands"]), None)
    if command is None:
        return f"not recorded: gcloud {line}"
    known = FLAGS["everywhere"] | FLAGS["commands"][command]
    for flag, value in re.findall(r"(?<!\S)(--[a-z][a-z0-9-]*)(=?)", line):
        if flag not in known:
            return f"gcloud {command} has no flag {flag}"
        if value and known[flag] == "switch":
            return f"{flag} takes no value"
    return None


class Lines(unittest.TestCase):
    def test_every_gcloud_line_uses_flags_that_there_are(self):
        lines = list(gcloud_lines())
        self.assertGreater(len(lines), 40)
        self.assertEqual([(str(place), wrong) for place, line in lines if (wrong := misuse(line))], [])

    def test_a_flag_that_there_is_not_is_found(self):
        self.assertIsNone(misuse("run deploy NAME --no-traffic --tag=x"))
        self.assertIn("--no-trafick", misuse("run deploy NAME --no-trafick"))
        self.assertIn("--async", misuse("run deploy NAME --async=1"))
        self.assertIn("not recorded", misuse("run fly NAME"))

    def test_each_script_explains_itself_and_refuses_what_it_does_not_know(self):
        for name in SCRIPTS:
            shown = subprocess.run([ROOT / "scripts" / name, "--help"], capture_output=True, text=True)
            self.assertEqual(shown.returncode, 0, name)
            self.assertIn("--dry-run", shown.stdout, name)
            self.assertIn(f"scripts/{name}", shown.stdout)
            self.assertNotIn("set -euo", shown.stdout)
        for name in set(SCRIPTS) - {"remote"}:
            wrong = subprocess.run([ROOT / "scripts" / name, "--nonsense"], capture_output=True, text=True)
            self.assertEqual(wrong.returncode, 64, name)


class Files(unittest.TestCase):
    def test_the_image_is_built_by_the_toolchain_of_the_repository(self):
        channel = re.search(r'channel = "(.*)"', (ROOT / "rust-toolchain.toml").read_text())[1]
        self.assertIn(f"FROM rust:{channel}-", (ROOT / "Dockerfile").read_text())
        self.assertIn(f"name: rust:{channel}-", (ROOT / "cloudbuild.yaml").read_text())

    def test_the_image_gets_every_file_that_the_build_reads(self):
        allowed = [ROOT / line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
        manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
        benches = [bench["path"] for bench in manifest["bench"]]
        for path in benches:
            self.assertIn(f" {path} ", (ROOT / "Dockerfile").read_text(), "cargo wants it before the sources are there")
        wanted = {ROOT / "Cargo.toml", ROOT / "Cargo.lock", ROOT / "migrations", *(ROOT / path for path in benches)}
        for source in (ROOT / "src").rglob("*.rs"):
            if "tests" in source.stem:
                continue
            for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', source.read_text()):
                wanted.add((source.parent / name).resolve())
        self.assertGreater(len(wanted), 8)
        missing = [str(file) for file in wanted if not any(file.is_relative_to(place) for place in allowed)]
        self.assertEqual(missing, [])
        self.assertEqual([str(place) for place in allowed if not place.exists()], [])

    def test_memory_is_set_as_it_was_measured(self):
        measured = re.findall(r"`(MALLOC_[A-Z_]+=\d+)`", (ROOT / "docs/ARCHITECTURE.md").read_text())
        self.assertEqual(len(measured), 2)
        for setting in measured:
            self.assertIn(setting, (ROOT / "Dockerfile").read_text())


class Setup(Stubbed):
    def test_without_a_project_it_says_so(self):
        self.assertIn("PROJECT is not set", self.script("deploy-staging", status=1, PROJECT="").stderr)

    def test_a_name_that_could_be_taken_for_something_else_is_refused(self):
        self.sh("gcloud", "services", "enable", "monitoring.googleapis.com", CLOUDSDK_CORE_PROJECT="demo")
        before, made = self.state(), self.folder / "made"
        for name in ("SERVICE", "PROJECT", "REGION"):
            for value in (f"x/;e touch {made};", f"' or __import__('os').system('touch {made}') or '", "-x", "x y", "x\ny", "X",
                          "é", "x" * 50):
                for script in (["deploy-staging", "--no-setup"], ["deploy-alerts"], ["promote"], ["rollback"], ["remote", "keys"]):
                    said = self.script(*script, status=64, **{name: value}).stderr
                    self.assertIn(f"{name} is not a name", said)
        self.assertEqual((self.state(), made.exists()), (before, False))

    def test_a_value_is_never_a_part_of_what_is_looked_for(self):
        service = json.dumps({"status": {"traffic": [{"tag": "it's", "url": "here"}]}})
        pick = lambda *words: self.sh("bash", "-euc", '. scripts/lib/cloud; printf %s "$1" | tagged "$2" "$3"', "x", service, *words)
        self.assertEqual(pick("url", "it's").stdout, "here\n")
        asked = pick("url", f"' or open('{self.folder / 'made'}', 'w') or '")
        self.assertEqual((asked.stdout, asked.returncode, (self.folder / "made").exists()), ("\n", 0, False))

    def test_without_the_keys_of_a_person_nothing_is_made(self):
        refused = self.script("deploy-staging", "--image", IMAGE, status=1)
        self.assertIn("gcloud secrets create orchestrator-staging-gemini-api-key --data-file=-", refused.stderr)
        self.assertEqual(self.state()["made"], [])

    def test_from_nothing_everything_is_made_with_few_roles(self):
        self.secrets()
        done = self.script("deploy-staging", "--image", IMAGE)
        self.assertEqual(done.stdout, "https://candidate---orchestrator-staging.a.run.app\n")
        state = self.state()
        member = "serviceAccount:orchestrator-staging@demo.iam.gserviceaccount.com"
        self.assertTrue(all(role[2] == member for role in state["roles"]))
        self.assertEqual({(role[0], role[1].removeprefix("gs://demo-"), role[3]) for role in state["roles"]}, {
            ("iam service-accounts", member.split(":")[1], "roles/iam.serviceAccountTokenCreator"),
            ("projects", "demo", "roles/cloudsql.client"),
            ("storage buckets", "orchestrator-staging-pictures", "roles/storage.objectUser"),
            ("storage buckets", "orchestrator-staging-ledger", "roles/storage.objectUser"),
            ("secrets", "orchestrator-staging-database-url", "roles/secretmanager.secretAccessor"),
            ("secrets", "orchestrator-staging-gemini-api-key", "roles/secretmanager.secretAccessor"),
            ("secrets", "orchestrator-staging-api-keys", "roles/secretmanager.secretAccessor"),
        })
        ledger = state["buckets"]["gs://demo-orchestrator-staging-ledger"]
        closed = {"--uniform-bucket-level-access", "--public-access-prevention"}
        self.assertEqual(ledger.keys(), closed | {"--no-versioning", "--clear-soft-delete", "--clear-retention-period"})
        self.assertEqual(state["buckets"]["gs://demo-orchestrator-staging-pictures"].keys(), closed)
        env = state["revisions"][0]["env"]
        self.assertEqual((env["RUN_MODE"], env["DAILY_BUDGET_USD"], env["BUDGET_LEDGER_ENABLED"], env["AUTH"]),
                         ("live", "10", "true", "keys"))
        deploy = next(call for call in state["calls"] if call[:2] == ["run", "deploy"])
        for flag in ("--no-allow-unauthenticated", "--no-cpu-throttling", "--min-instances=1", "--tag=candidate"):
            self.assertIn(flag, deploy)

    def test_a_secret_is_no_word_of_a_command(self):
        self.secrets()
        done = self.script("deploy-staging", "--image", IMAGE)
        url = (self.folder / "orchestrator-staging-database-url").read_text()
        password = re.fullmatch(r"postgres://orchestrator:(\w{48})@localhost/orchestrator"
                                r"\?host=/cloudsql/demo:europe-west1:orchestrator-staging", url)[1]
        self.assertNotIn(password, json.dumps(self.state()["calls"]) + done.stdout + done.stderr)
        self.assertNotIn("the-gemini-key", json.dumps(self.state()["calls"]))

    def test_done_again_it_makes_nothing_and_sends_no_traffic(self):
        self.deployed()
        before = self.state()
        password = (self.folder / "orchestrator-staging-database-url").read_text()
        self.script("deploy-staging", "--image", IMAGE)
        after = self.state()
        for part in ("made", "roles", "buckets", "apis"):
            self.assertEqual(before[part], after[part])
        self.assertEqual((self.folder / "orchestrator-staging-database-url").read_text(), password)
        self.assertEqual(self.service()["traffic"], {f"{SERVICE}-00001": 100})
        self.assertEqual(self.service()["tags"], {"candidate": f"{SERVICE}-00002"})

    def test_a_second_revision_waits_for_traffic_before_anything_was_promoted(self):
        self.secrets()
        for _ in range(2):
            self.script("deploy-staging", "--image", IMAGE)
        self.assertEqual(self.service()["traffic"], {f"{SERVICE}-00001": 100})

    def test_stopped_anywhere_it_goes_on_when_it_is_done_again(self):
        self.secrets()
        for command in ("iam service-accounts create", "storage buckets create", "storage buckets update",
                        "sql instances create", "sql databases create", "sql users create",
                        "secrets create orchestrator-staging-database-url", "run deploy"):
            failed = self.script("deploy-staging", "--image", IMAGE, status=1, STUB_FAIL=command)
            self.assertIn("this failed: ", failed.stderr)
            last = self.state()["calls"][-1]
            self.assertEqual(" ".join(last)[:len(command)], command, "nothing is done after what failed")
        self.script("deploy-staging", "--image", IMAGE)
        self.assertIn(["sql", "users", "set-password"], [call[:3] for call in self.state()["calls"]])

    def test_a_dry_run_changes_nothing(self):
        self.secrets()
        before = self.state()
        shown = self.script("deploy-staging", "--dry-run").stdout
        after = self.state()
        self.assertEqual(before | {"calls": []}, after | {"calls": []})
        for command in ("gcloud storage buckets create", "gcloud sql instances create", "gcloud run deploy"):
            self.assertIn(command, shown)

    def test_an_image_needs_a_digest(self):
        self.assertIn("a tag can move", self.script("deploy-staging", "--image", "name:latest", status=64).stderr)

    def test_what_serves_is_deployed_again_by_its_digest(self):
        self.deployed(revisions=2)
        self.script("deploy-staging", "--no-setup", "--again")
        self.assertEqual(self.state()["revisions"][-1]["image"], IMAGE)

    def test_the_declared_service_is_the_deployed_one(self):
        self.deployed()
        deploy = next(call for call in self.state()["calls"] if call[:2] == ["run", "deploy"])
        flags = dict(word.split("=", 1) for word in deploy if word.startswith("--") and "=" in word)
        text = re.sub(r"\bPROJECT\b", "demo", (ROOT / "service.yaml").read_text()).replace("REGION", "europe-west1")
        service = yaml.safe_load(text)
        self.assertEqual(service["metadata"]["name"], deploy[2])
        template = service["spec"]["template"]
        notes, spec = template["metadata"]["annotations"], template["spec"]
        container = spec["containers"][0]
        probe = lambda probe: {"httpGet.path": probe["httpGet"]["path"], "httpGet.port": probe["httpGet"]["port"],
                               **{name: value for name, value in probe.items() if name != "httpGet"}}
        read = lambda text: dict(item.split("=", 1) for item in text.split(","))
        self.assertEqual(str(spec["timeoutSeconds"]), flags["--timeout"])
        self.assertEqual(str(spec["containerConcurrency"]), flags["--concurrency"])
        self.assertEqual(spec["serviceAccountName"], flags["--service-account"])
        self.assertEqual(notes["autoscaling.knative.dev/minScale"], flags["--min-instances"])
        self.assertEqual(notes["autoscaling.knative.dev/maxScale"], flags["--max-instances"])
        self.assertEqual(notes["run.googleapis.com/cloudsql-instances"], flags["--set-cloudsql-instances"])
        self.assertEqual(notes["run.googleapis.com/execution-environment"], flags["--execution-environment"])
        self.assertEqual((notes["run.googleapis.com/cpu-throttling"], "--no-cpu-throttling" in deploy), ("false", True))
        self.assertEqual(container["resources"]["limits"], {"cpu": flags["--cpu"], "memory": flags["--memory"]})
        self.assertEqual(str(container["ports"][0]["containerPort"]), flags["--port"])
        for name, flag in (("startupProbe", "--startup-probe"), ("livenessProbe", "--liveness-probe")):
            self.assertEqual({key: str(value) for key, value in probe(container[name]).items()}, read(flags[flag]))
        env = {entry["name"]: entry for entry in container["env"]}
        self.assertEqual({name: entry["value"] for name, entry in env.items() if "value" in entry},
                         read(flags["--set-env-vars"]))
        secrets = {name: entry["valueFrom"]["secretKeyRef"] for name, entry in env.items() if "valueFrom" in entry}
        self.assertEqual({name: f"{secret['name']}:{secret['key']}" for name, secret in secrets.items()},
                         read(flags["--set-secrets"]))


class Traffic(Stubbed):
    def test_the_candidate_is_promoted_and_loses_its_tag(self):
        self.deployed(revisions=2)
        said = self.script("promote").stderr
        self.assertEqual(self.service()["traffic"], {f"{SERVICE}-00002": 100})
        self.assertEqual(self.service()["tags"], {})
        self.assertIn(f"scripts/rollback {SERVICE}-00001", said)
        calls = len(self.state()["calls"])
        self.assertIn("nothing to promote", self.script("promote").stderr)
        self.assertEqual([call[:3] for call in self.state()["calls"][calls:]], [["run", "services", "describe"]])

    def test_a_rollback_gives_all_traffic_to_the_named_revision_and_takes_the_tag_of_the_bad_one(self):
        self.deployed(revisions=3)
        self.script("rollback", f"{SERVICE}-00002")
        self.assertEqual(self.service()["traffic"], {f"{SERVICE}-00002": 100})
        self.assertEqual(self.service()["tags"], {})
        self.assertIn("nothing to do", self.script("rollback", f"{SERVICE}-00002").stderr)
        self.script("rollback", f"{SERVICE}-00009", status=1)
        self.assertEqual(self.service()["traffic"], {f"{SERVICE}-00002": 100})

    def test_a_rollback_without_a_name_lists_them(self):
        self.deployed(revisions=2)
        asked = self.script("rollback", status=1)
        self.assertEqual(asked.stdout.split(), [f"{SERVICE}-00002", f"{SERVICE}-00001"])
        self.assertIn(f"{SERVICE}-00001 serves now", asked.stderr)

    def test_a_switch_is_turned_in_what_serves_and_nothing_else_changes(self):
        self.deployed(revisions=2)
        self.script("rollback", "--flag", "THUMBNAILS_ENABLED=false")
        first, _, made = self.state()["revisions"]
        self.assertEqual(made["image"], first["image"])
        self.assertEqual(made["env"], first["env"] | {"THUMBNAILS_ENABLED": "false"})
        self.assertEqual(self.service()["traffic"], {made["name"]: 100})

    def test_spending_is_stopped_and_goes_on(self):
        self.deployed()
        for mode in ("dry_run", "live"):
            self.script("rollback", "--flag", f"RUN_MODE={mode}")
            made = self.state()["revisions"][-1]
            self.assertEqual((made["env"]["RUN_MODE"], self.service()["traffic"]), (mode, {made["name"]: 100}))

    def test_a_switch_is_not_turned_where_the_settings_of_another_revision_would_come_along(self):
        self.deployed(revisions=2)
        state = self.state()
        state["revisions"][1]["env"]["DAILY_BUDGET_USD"] = "1000"
        (self.folder / "state.json").write_text(json.dumps(state))
        refused = self.script("rollback", "--flag", "SSE_ENABLED=false", status=1)
        self.assertIn("DAILY_BUDGET_USD", refused.stderr)
        self.assertEqual(len(self.state()["revisions"]), 2)

    def test_what_is_no_switch_is_refused(self):
        for flag in ("RUN_MODE=off", "DAILY_BUDGET_USD=1", "NO_SUCH_ENABLED=false", "SSE_ENABLED=off", ""):
            self.script("rollback", "--flag", flag, status=64)

    def test_dry_runs_change_nothing(self):
        self.deployed(revisions=2)
        before = self.state()
        for words in (["promote"], ["rollback", f"{SERVICE}-00002"], ["rollback", "--flag", "SSE_ENABLED=false"],
                      ["remote", "ledger", "verify"]):
            shown = self.script(words[0], "--dry-run", *words[1:]).stdout
            self.assertIn("gcloud run", shown)
        self.assertEqual(before | {"calls": []}, self.state() | {"calls": []})

    def test_who_is_not_logged_in_is_told_so_and_not_that_nothing_is_there(self):
        self.deployed(revisions=2)
        for words in (["promote"], ["rollback"], ["remote", "ledger", "verify"], ["deploy-staging", "--dry-run"],
                      ["deploy-staging", "--no-setup", "--again"], ["deploy-alerts", "--dry-run"], ["canary-rollout", "25"]):
            with self.subTest(words):
                said = self.script(*words, status=1, STUB_LOGGED_OUT="yes").stderr
                self.assertIn("You do not currently have an active account", said)
                self.assertNotIn("there is no", said)
                self.assertRegex(said, r"\nNext: gcloud auth login, or see PROJECT, which is demo.*\n\Z")
        self.assertIn("there is no service another in europe-west1", self.script("promote", status=1, SERVICE="another").stderr)
        self.assertEqual(list(self.folder.glob("tmp*")), [], "nothing is left behind")

    def test_a_command_runs_with_the_image_and_the_settings_of_what_serves(self):
        self.deployed(revisions=2)
        self.script("remote", "ledger", "verify")
        job, = self.state()["jobs"]
        self.assertEqual((job["--image"], job["--args"]), (IMAGE, "ledger,verify"))
        self.assertIn("LEDGER_BUCKET=demo-orchestrator-staging-ledger", job["--set-env-vars"])
        self.script("remote", "keys", "new", "--name", "alice", status=64)
        self.script("remote", "ledger", "verify", status=1, STUB_FAIL="run jobs deploy")
        self.assertEqual(self.state()["calls"][-1][:2], ["logging", "read"], "what it said is shown where it failed too")


class Requests(Stubbed):
    def key(self):
        made = self.sh(PROGRAM, "keys", "new", "--name", "smoke", "--entry")
        keys = self.folder / "keys"
        keys.write_text(made.stdout)
        return keys, made.stderr.split()[-1]

    def test_a_service_that_is_well_passes_and_nothing_is_left_behind(self):
        keys, key = self.key()
        with program(self.folder, keys) as url:
            before = set(self.folder.iterdir())
            self.assertIn("all well: one picture costs at most $0.05", self.script("smoke", url, ORCHESTRATOR_KEY=key).stderr)
            self.assertEqual(set(self.folder.iterdir()), before)
            refused = self.script("smoke", url, status=1, ORCHESTRATOR_KEY=key[:-1] + "x")
            self.assertIn("a dry run was answered 401", refused.stderr)
            self.assertNotIn(key[:-1], refused.stderr)

    def test_each_thing_that_is_not_well_fails(self):
        well = {"anonymous": (401, ""), "GET /health": (200, "{}"), "GET /ready": (200, "{}"),
                "POST /images": (200, '{"batchId":null,"estimatedCost":0.05}')}
        with pretender(well) as url:
            self.script("smoke", url, ORCHESTRATOR_KEY="aip_x")
        for broken, said in ((("anonymous", (200, "{}")), "take the service off the net"),
                             (("anonymous", (404, "{}")), "was answered 404"),
                             (("GET /health", (404, "")), "/health answered 404"),
                             (("GET /ready", (400, "the reasons")), "the reasons"),
                             (("POST /images", (403, "")), "scope submit"),
                             (("POST /images", (200, '{"batchId":"bat_1","estimatedCost":0.05}')), "has no price"),
                             (("POST /images", (200, '{"batchId":null,"estimatedCost":0}')), "has no price")):
            with pretender(well | dict([broken])) as url:
                self.assertIn(said, self.script("smoke", url, status=1, ORCHESTRATOR_KEY="aip_x").stderr)

    def test_rows_are_priced_then_made_once(self):
        keys, key = self.key()
        rows = self.folder / "rows.csv"
        rows.write_text("scene_id,prompt,variants\n" + "".join(f"row-{n},a grey cube,1\n" for n in range(100)))
        with program(self.folder, keys) as url:
            seed = lambda *words: self.script("seed-100-rows", *words, "--file", rows, url, ORCHESTRATOR_KEY=key)
            self.assertEqual(seed("--dry-run").stdout.split()[:2], ["POST", f"{url}/images?runMode=dry_run,"])
            priced = seed()
            self.assertEqual((priced.stdout, "at most $5.0" in priced.stderr), ("", True))
            first, second = seed("--live").stdout, seed("--live").stdout
            self.assertEqual(first, second)
            self.assertRegex(first, rf"^{url}/images/bat_\w+\n$")
            with self.subTest("no budget"):
                rows.write_text("scene_id,prompt,variants\n" + "".join(f"row-{n},a cube,3\n" for n in range(1000)))
                refused = self.script("seed-100-rows", "--live", "--file", rows, url, status=1, ORCHESTRATOR_KEY=key)
                self.assertIn("raise DAILY_BUDGET_USD", refused.stderr)

    def test_a_batch_is_tested_with_what_lets_the_caller_in(self):
        program = self.folder / "program"
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$*" "$ORCHESTRATOR_KEY" "$ORCHESTRATOR_TOKEN"\nexit "${FAILS-0}"\n')
        program.chmod(0o755)
        url = "https://candidate---x.a.run.app"
        batch = lambda *words, **more: self.script("run-100-batch", *words, ORCHESTRATOR_KEY="aip_x", PROGRAM=str(program), **more)
        said = batch("--live", "--report", "r.html", url + "/", IDENTITY="b@demo").stderr.splitlines()
        self.assertEqual(said[2:5], [
            f"loadtest --url {url} --rows 100 --variants 1 --deadline 10m --live --report r.html --shared --skip requests "
            "--skip images --skip http-errors --skip refreshes --skip ledger", "aip_x", "stub-token-for-https://x.a.run.app"])
        self.assertIn("--deadline 5m\naip_x\n\n", batch("--alone", "--deadline", "5m", "http://127.0.0.1:9").stderr)
        failed = batch(url, status=1, FAILS="1")
        self.assertIn("this failed: a hundred pictures at", failed.stderr)
        self.assertEqual(batch("--dry-run", "--live", url).stdout.split()[1:4], ["loadtest", "--url", url])
        self.assertIn("ORCHESTRATOR_KEY is not set", self.script("run-100-batch", url, status=1).stderr)

    def test_an_option_without_its_value_is_refused(self):
        for name, option in (("run-100-batch", "--deadline"), ("run-100-batch", "--report"), ("seed-100-rows", "--file")):
            for words in ([option], ["http://127.0.0.1:9", option], [option, ""]):
                self.assertIn(f"{option} needs a value", self.script(name, *words, status=64).stderr)
        self.script("run-100-batch", "--deadline", "soon", "http://127.0.0.1:9", status=64)

    def test_a_hundred_pictures_are_made_and_hold_every_gate(self):
        if subprocess.run([PROGRAM, "loadtest", "--help"], capture_output=True).returncode != 0:
            self.skipTest("this program has no loadtest")
        keys, key = self.key()
        with program(self.folder, keys, BUDGET_LEDGER_ENABLED="true") as url:
            for words in (["--alone"], []):
                self.script("run-100-batch", *words, url, ORCHESTRATOR_KEY=key, PROGRAM=PROGRAM)

    def test_a_caller_of_cloud_run_shows_a_token_for_the_service(self):
        ask = ". scripts/lib/cloud; identity https://candidate---x.a.run.app/images"
        self.assertEqual(self.sh("bash", "-euc", ask).stdout, "stub-token-for-anyone\n")
        self.assertEqual(self.sh("bash", "-euc", ask, IDENTITY="b@demo").stdout, "stub-token-for-https://x.a.run.app\n")


class Runbook(Stubbed):
    def test_the_first_deployment_leads_from_an_empty_project_to_a_served_batch(self):
        keys = self.folder / "orchestrator-staging-api-keys"
        keys.touch()
        with program(self.folder, keys) as url:
            walk = blocks("The first deployment").replace("export PROJECT=…", "export PROJECT=demo")
            done = self.sh("bash", "-euo", "pipefail", "-c", walk, STUB_SERVICE=url, GEMINI_API_KEY="the-gemini-key",
                           PROJECT="")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("== all well", done.stderr)
        batch = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
        self.assertEqual((batch["state"], batch["counts"]["completed"]), ("completed", 1))
        self.assertEqual(self.service(), self.service() | {"traffic": {f"{SERVICE}-00001": 100}, "tags": {}})
        self.assertEqual((self.folder / "orchestrator-staging-gemini-api-key").read_text(), "the-gemini-key")
        self.assertNotIn("aip_", json.dumps(self.state()["calls"]))

    def test_the_build_has_what_it_needs(self):
        self.deployed()
        done = self.sh("bash", "-euo", "pipefail", "-c", blocks("Builds"), CLOUDSDK_CORE_PROJECT="demo",
                       REGION="europe-west1", ORCHESTRATOR_KEY="aip_smoke")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        build = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text())
        made = self.state()["made"]
        secret = build["availableSecrets"]["secretManager"][0]["versionName"].split("/")[3]
        self.assertIn(f"secrets {secret}", made)
        account = build["serviceAccount"].split("/")[-1].split("@")[0]
        self.assertIn(f"iam service-accounts {account}", made)
        self.assertIn(f"artifacts repositories {build['substitutions']['_IMAGE'].split('/')[-2]}", made)

    def test_the_canary_is_shown_as_it_is_started(self):
        self.deployed(revisions=2)
        walk = blocks("Canary").replace("KEY=…", "KEY=aip_admin").replace("auto\n", "auto --dry-run\n")
        metrics = "orchestrator_database_up 1\nprocess_start_time_seconds 1\n"
        with pretender({"GET /metrics": (200, metrics), "anonymous": (401, "")}) as url:
            done = self.sh("bash", "-euo", "pipefail", "-c", walk, STUB_SERVICE=url)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(done.stdout.count(f"{SERVICE}-00002=100"), 2)

    def test_whoever_comes_new_to_it_asks_the_service_what_is_wrong(self):
        self.deployed()
        made = self.sh(PROGRAM, "keys", "new", "--name", "duty", "--scopes", "admin", "--entry")
        keys, key = self.folder / "keys", made.stderr.split()[-1]
        keys.write_text(made.stdout)
        walk = blocks("Where to look").replace("PROJECT=…", "PROJECT=demo").replace("KEY=…", f"KEY={key}")
        with program(self.folder, keys) as url:
            done = self.sh("bash", "-euo", "pipefail", "-c", walk, STUB_SERVICE=url, PROJECT="")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for answer in ('"ready":true', '"dailyLimit":100', "\norchestrator_database_up 1\n"):
            self.assertIn(answer, done.stdout)

    def test_who_touches_the_ledger_is_logged_once_and_nothing_else_changes(self):
        self.deployed()
        for _ in range(2):
            done = self.sh("bash", "-euo", "pipefail", "-c",
                           f"cd {self.folder}\n" + blocks("Who may touch the ledger"), CLOUDSDK_CORE_PROJECT="demo")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            policy = self.state()["policy"]
            audit, = policy["auditConfigs"]
            self.assertEqual(audit["service"], "storage.googleapis.com")
            self.assertIn({"logType": "DATA_WRITE"}, audit["auditLogConfigs"])
            self.assertEqual(policy["bindings"], [{"role": "roles/owner", "members": ["user:a@demo"]}])
        query = " ".join(self.state()["calls"][-1][2].split())
        self.assertIn("resource.labels.bucket_name=demo-orchestrator-staging-ledger AND", query)
        self.assertIn("NOT protoPayload.authenticationInfo.principalEmail=orchestrator-staging@demo.iam", query)

    def test_every_fault_has_what_it_means_where_to_look_and_what_to_do(self):
        text = (ROOT / "docs/RUNBOOK.md").read_text()
        sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
        faults = [name for name, section in sections.items() if "**Means.**" in section]
        self.assertGreaterEqual(set(faults), {"Requests fail", "Budget exhausted", "Provider down", "Database down", "Key leaked",
                                              "Bucket of the pictures down", "Bucket of the ledger down", "Ledger differs",
                                              "Model retired", "Unknown charges", "Instances restart"})
        for name in faults:
            for part in ("**Look at**", "**Do.**"):
                self.assertIn(part, sections[name], name)

    def test_every_option_that_documents_show_is_one_of_the_script(self):
        for document in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "cloudbuild.yaml"]:
            for name, words in re.findall(r"scripts/([a-z0-9-]+)((?: +[^\s`|;&)]+)*)", document.read_text()):
                options = re.findall(r"(?<!\S)--[a-z-]+", words)
                if name in SCRIPTS and options:
                    shown = subprocess.run([ROOT / "scripts" / name, "--help"], capture_output=True, text=True).stdout
                    for option in set(options) - ({"--by", "--day"} if name == "remote" else set()):
                        self.assertIn(option, shown, f"{document.name}: {name}")

    def test_every_script_and_command_that_it_names_is_there(self):
        for document in ("RUNBOOK.md", "OPERATIONS.md", "DRILL.md"):
            text = (ROOT / "docs" / document).read_text()
            for link, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", text):
                place = ROOT / "docs" / (link or document)
                titles = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE)
                headings = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
                self.assertIn(anchor, headings, f"{document}: {link}")
            for name in re.findall(r"scripts/([a-z0-9-]+)", text):
                file = ROOT / "scripts" / name
                self.assertTrue(file.exists() and file.stat().st_mode & stat.S_IXUSR, name)
            for link in re.findall(r"\]\(([^)#]+)", text):
                self.assertTrue("://" in link or (ROOT / "docs" / link).exists(), link)
        for words in re.findall(r"scripts/remote ((?:[a-z]+ ?)+)", (ROOT / "docs/RUNBOOK.md").read_text()):
            shown = subprocess.run([PROGRAM, *words.split(), "--help"], capture_output=True, text=True)
            self.assertEqual(shown.returncode, 0, words)
            self.assertIn(f"Usage: orchestrator {words.strip()}", shown.stdout)


if __name__ == "__main__":
    unittest.main()
