"""scripts/canary-rollout: what it judges by, and whole rollouts of services behind a proxy that splits the traffic as the
gcloud that is played says."""
import contextlib
import http.client
import http.server
import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
import unittest
import urllib.error
import urllib.request
from collections import Counter

from stubbed import PROGRAM, ROOT, SERVICE, Stubbed, listening, program

sys.path.insert(0, str(ROOT / "scripts/lib"))
import canary  # noqa: E402

STABLE, CANDIDATE = f"{SERVICE}-00001", f"{SERVICE}-00002"
LIMITS = canary.Limits()


def counts(slow=0, fast=0, **named):
    """Counts as `canary.count` makes them; requests that took under 0.1 s, and under 1 s."""
    total = Counter(named)
    total.update({("le", 0.1): fast, ("le", 1.0): fast + slow, ("le", float("inf")): fast + slow})
    return total


def found(candidate, stable=None, ever=None):
    """What is found about these."""
    findings = canary.judge(candidate, stable or counts(), ever or counts(), LIMITS)
    return [finding.what for finding in findings]


class Reading(unittest.TestCase):
    TEXT = """# HELP orchestrator_requests_total Requests.
# TYPE orchestrator_requests_total counter
orchestrator_requests_total{route="/images",method="GET",status="200"} 90
orchestrator_requests_total{route="/images",method="POST",status="503"} 10 1764365400000
orchestrator_requests_total{route="/health",method="GET",status="200"} 5000
orchestrator_requests_total{status="500",route="odd \\"}, \\\\n",method="GET"} 1
orchestrator_request_seconds_bucket{route="/images",le="0.5"} 90
orchestrator_request_seconds_bucket{route="/images",le="+Inf"} 1e2
orchestrator_request_seconds_bucket{route="/references",le="+Inf"} 70
orchestrator_streams_closed_total{reason="done"} 9
orchestrator_streams_closed_total{reason="failed"} 1
orchestrator_calls_total{model="m",outcome="answered"} 7
orchestrator_calls_total{model="m",outcome="unknown"} 2
orchestrator_pictures_total{model="m",outcome="completed"} 6
orchestrator_pictures_total{model="m",outcome="failed"} 1
orchestrator_pictures_total{model="m",outcome="cancelled"} 50
orchestrator_overruns_total 3
orchestrator_budget_limit_usd 10
orchestrator_budget_spent_usd 7.5
orchestrator_budget_reserved_usd 2
orchestrator_ledger_lag_seconds 12.5
orchestrator_database_up 1
process_start_time_seconds 1764365400.25
"""

    def test_what_is_counted_is_what_matters(self):
        scrape = canary.Scrape(self.TEXT)
        self.assertEqual(dict(scrape.counts), {
            "requests": 101, "errors": 11, ("le", 0.5): 90, ("le", float("inf")): 100, "streams": 10, "broken": 1,
            "calls": 9, "unknown": 2, "pictures": 7, "failed": 1, "overruns": 3})
        self.assertEqual((scrape.process, scrape.ledger_lag, scrape.database_is_up), (1764365400.25, 12.5, True))
        self.assertEqual((scrape.limit, scrape.committed), (10, 9.5))

    def test_labels_are_read_with_their_escapes(self):
        self.assertIn('odd "}, \\n', [sample.labels.get("route") for sample in canary.parse(self.TEXT)])

    def test_gauges_that_are_absent_say_nothing(self):
        scrape = canary.Scrape("process_start_time_seconds 1\norchestrator_database_up 0\n")
        self.assertEqual((scrape.ledger_lag, scrape.limit, scrape.committed, scrape.database_is_up), (None, None, None, False))

    def test_what_is_no_metrics_is_refused(self):
        for text in ("<html>sign in</html>", "a_metric one", "up 1\n", ""):
            with self.assertRaises(canary.Unreadable, msg=text):
                canary.Scrape(text)

    def test_numbers_and_labels_that_no_counter_can_have_are_refused(self):
        canary.Scrape(self.TEXT)
        for line in ('orchestrator_requests_total{route="/images",status="200"} NaN', "go_threads +Inf",
                     "orchestrator_budget_spent_usd -Inf", "orchestrator_ledger_lag_seconds 1e999",
                     "process_start_time_seconds nan", 'orchestrator_calls_total{outcome="failed"} -1',
                     "orchestrator_overruns_total 3",
                     'orchestrator_requests_total{route="/images",status="500"} -5',
                     'orchestrator_request_seconds_bucket{route="/images",le="x"} 1',
                     'orchestrator_request_seconds_bucket{route="/images",le="nan"} 1',
                     'orchestrator_request_seconds_bucket{route="/images"} 1',
                     'orchestrator_requests_total{route="/images} 1', 'orchestrator_requests_total{route} 1',
                     'orchestrator_requests_total{a="b"c="d"} 1', 'up{' + "b" * 5000 + "} 1"):
            with self.subTest(line), self.assertRaises(canary.Unreadable):
                canary.Scrape(self.TEXT + line + "\n")

    def test_who_was_not_let_in_says_nothing_about_the_version(self):
        answers = "".join(f'orchestrator_requests_total{{route="/images",method="GET",status="{status}"}} 1000\n'
                          for status in (401, 403, 404, 405, 429))
        scrape = canary.Scrape(self.TEXT + answers + 'orchestrator_requests_total{route="unknown",status="500"} 1000\n'
                               'orchestrator_requests_total{route="/images",status="400"} 7\n')
        self.assertEqual((scrape.counts["requests"], scrape.counts["errors"]), (108, 11))

    def test_calls_that_the_provider_put_off_are_no_paid_ones(self):
        for outcome, calls in (("throttled", 9), ("quota", 9), ("answered", 109), ("refused", 109), ("failed", 109)):
            text = f'{self.TEXT}orchestrator_calls_total{{model="n",outcome="{outcome}"}} 100\n'
            counted = canary.Scrape(text).counts
            self.assertEqual((counted["calls"], counted["unknown"]), (calls, 2), outcome)
        unknown = canary.Scrape(self.TEXT + 'orchestrator_calls_total{model="n",outcome="unknown"} 100\n').counts
        self.assertEqual((unknown["calls"], unknown["unknown"]), (109, 102), "each is in the whole once")

    def test_the_routes_that_are_left_out_exist(self):
        known = set(json.loads((ROOT / "openapi.json").read_text())["paths"])
        pages = {"unknown", "/", "/docs", "/docs/{file}", "/console/{file}", "/openapi.json", "/metrics"}
        self.assertEqual(canary.NO_WORK - pages - known, set())
        self.assertEqual(canary.CLIENTS_PACE - known, set())


class Watching(unittest.TestCase):
    @staticmethod
    def scrape(process, **named):
        total = 'orchestrator_{}_total{{route="/images",status="200"}} {}\n'
        return canary.Scrape(f"process_start_time_seconds {process}\n" + "".join(map(total.format, named, named.values())))

    def watched(self, *scrapes):
        watched = canary.Watched(since=1000)
        for process, requests in scrapes:
            watched.add(self.scrape(process, requests=requests))
        return watched

    def test_what_was_counted_before_is_left_out(self):
        watched = self.watched((10, 500), (10, 520))
        self.assertEqual((watched.counts()["requests"], watched.ever()["requests"]), (20, 520))

    def test_a_restart_loses_nothing(self):
        self.assertEqual(self.watched((10, 500), (10, 520), (1010, 7)).counts()["requests"], 27)

    def test_processes_behind_one_address_are_kept_apart(self):
        self.assertEqual(self.watched((10, 500), (20, 80), (10, 510), (20, 81), (10, 511)).counts()["requests"], 12)

    def test_a_counter_that_falls_or_goes_within_one_process_is_refused(self):
        watched = self.watched((10, 500), (10, 520), (20, 3))
        for scrape in (self.scrape(10, requests=519), self.scrape(10), self.scrape(10, overruns=1)):
            with self.assertRaises(canary.Unreadable):
                watched.add(scrape)
        self.assertEqual(watched.counts()["requests"], 20, "what was refused is not taken in")
        watched.add(self.scrape(10, requests=520))

    def test_one_series_that_falls_is_not_hidden_by_another_that_rises(self):
        watched = canary.Watched(since=1000)
        text = 'process_start_time_seconds 10\norchestrator_requests_total{{status="500"}} {}\n' \
               'orchestrator_requests_total{{status="503"}} {}\n'
        watched.add(canary.Scrape(text.format(50, 0)))
        with self.assertRaises(canary.Unreadable):
            watched.add(canary.Scrape(text.format(0, 60)))

    def test_a_process_that_is_met_late_counts_from_then_unless_it_is_new(self):
        self.assertEqual(self.watched((10, 500), (20, 80), (1001, 5)).counts()["requests"], 5)


class Judging(unittest.TestCase):
    def test_a_candidate_that_is_well_is_not_blamed(self):
        self.assertEqual(found(counts(fast=990, slow=10, requests=1000, errors=10, calls=100, unknown=1, pictures=100,
                                      failed=5, streams=100, broken=2)), [])
        self.assertEqual(found(counts()), [])

    def test_each_limit_finds_what_passes_it_and_not_what_meets_it(self):
        for what, good, bad in (
            ("5xx answers", counts(requests=1000, errors=50), counts(requests=1000, errors=51)),
            ("broken streams", counts(streams=100, broken=5), counts(streams=100, broken=6)),
            ("calls with unknown charge", counts(calls=100, unknown=5), counts(calls=100, unknown=6)),
            ("charges above their reserve", counts(calls=1000), counts(calls=1000, overruns=1)),
            ("failed pictures", counts(pictures=100, failed=10), counts(pictures=100, failed=11)),
            ("p95 of requests", counts(fast=970, slow=30, requests=1000), counts(fast=920, slow=80, requests=1000)),
        ):
            self.assertEqual((found(good), found(bad)), ([], [what]))

    def test_what_stable_has_too_is_not_held_against_the_candidate(self):
        bad = counts(requests=1000, errors=500)
        self.assertEqual(found(bad, stable=counts(requests=1000, errors=450)), [])
        self.assertEqual(found(bad, stable=counts(requests=1000, errors=100)), ["5xx answers"])
        slow = counts(requests=200, slow=200)
        self.assertEqual(found(slow, stable=counts(requests=200, slow=200)), [])
        self.assertEqual(found(slow, stable=counts(requests=200, fast=200)), ["p95 of requests"])

    def test_an_outage_of_the_provider_is_nobodys_fault_though_few_calls_are_made_then(self):
        down = counts(calls=8, pictures=8, failed=8)
        healthy_for_days = counts(calls=50_000, pictures=50_000, failed=5)
        self.assertEqual(found(down, stable=counts(calls=6, pictures=6, failed=6), ever=healthy_for_days), [])
        self.assertEqual(found(down, stable=counts(calls=9, pictures=9), ever=healthy_for_days), ["failed pictures"])

    def test_one_mishap_of_stable_excuses_nothing(self):
        self.assertEqual(found(counts(requests=200, errors=100), stable=counts(requests=1, errors=1)), ["5xx answers"])

    def test_a_stable_without_traffic_is_known_by_what_it_was_like(self):
        slow = counts(requests=500, slow=500)
        self.assertEqual(found(slow, ever=counts(requests=9000, slow=9000)), [])
        self.assertEqual(found(slow, ever=counts(requests=9000, fast=9000)), ["p95 of requests"])

    def test_few_events_are_no_excuse_and_no_proof(self):
        self.assertEqual(found(counts(requests=6, errors=6)), ["5xx answers"])
        self.assertEqual(found(counts(requests=5, errors=5)), [])
        self.assertEqual(found(counts(requests=20, slow=20)), ["p95 of requests"])
        self.assertEqual(found(counts(requests=5, slow=5)), [])
        self.assertEqual(canary.lacks(counts(requests=99, calls=20), LIMITS), ["99 requests of 100"])
        self.assertEqual(canary.lacks(counts(requests=100, calls=20), LIMITS), [])

    def test_a_quantile_lies_inside_its_bucket(self):
        self.assertAlmostEqual(canary.quantile(counts(fast=100), 0.5), 0.05)
        self.assertAlmostEqual(canary.quantile(counts(fast=90, slow=10), 0.95), 0.55)
        self.assertEqual(canary.quantile(Counter({("le", 1.0): 0, ("le", float("inf")): 9}), 0.95), float("inf"))
        self.assertIsNone(canary.quantile(counts(), 0.95))

    def test_the_shared_is_judged_by_what_it_was_before(self):
        standing = lambda lag=0, committed=5: canary.Standing(lag, committed, 10)
        judged = lambda now, before: [f.what for f in canary.judge_standing(now, before, LIMITS)]
        self.assertEqual(judged(standing(lag=301), standing()), ["ledger lag"])
        self.assertEqual(judged(standing(lag=300), standing()), [])
        self.assertEqual(judged(standing(lag=900), standing(lag=400)), [])
        self.assertEqual(judged(standing(committed=10.01), standing()), ["spent and reserved"])
        self.assertEqual(judged(standing(committed=10), standing()), [])
        self.assertEqual(judged(standing(committed=11), standing(committed=10.5)), [])
        nothing = canary.Standing(None, None, None)
        self.assertEqual(judged(nothing, nothing), [])


class Fake:
    """A service whose every request is work: a call, a picture, a stream; `bad` says which of them go wrong, and `more` is
    what else it says once it has had a request. `seen` is called when it is asked after that."""

    def __init__(self, bad=(), broken_after=0, more="", seen=lambda: None):
        self.bad, self.broken_after, self.more, self.seen = set(bad), broken_after, more, seen
        self.requests = 0
        self.began = time.time() - 3600
        self.lock = threading.Lock()

    def metrics(self):
        n, bad = self.requests, lambda what: self.requests // 4 if what in self.bad else 0
        if "no answer" in self.bad and n > self.broken_after:
            return 500, "out of order"
        if n:
            self.seen()
        return 200, f"""orchestrator_requests_total{{route="/images",method="GET",status="200"}} {n - bad("errors")}
orchestrator_requests_total{{route="/images",method="GET",status="500"}} {bad("errors")}
orchestrator_request_seconds_bucket{{route="/images",le="0.1"}} {n - bad("slow")}
orchestrator_request_seconds_bucket{{route="/images",le="5"}} {n}
orchestrator_request_seconds_bucket{{route="/images",le="+Inf"}} {n}
orchestrator_streams_closed_total{{reason="done"}} {n - bad("streams")}
orchestrator_streams_closed_total{{reason="failed"}} {bad("streams")}
orchestrator_calls_total{{model="m",outcome="answered"}} {n - bad("unknown")}
orchestrator_calls_total{{model="m",outcome="unknown"}} {bad("unknown")}
orchestrator_pictures_total{{model="m",outcome="completed"}} {n - bad("pictures")}
orchestrator_pictures_total{{model="m",outcome="failed"}} {bad("pictures")}
orchestrator_overruns_total {bad("overruns")}
orchestrator_database_up {0 if "database" in self.bad and n else 1}
orchestrator_ledger_lag_seconds {900 if "ledger" in self.bad and n else 0}
orchestrator_budget_limit_usd 10
orchestrator_budget_spent_usd {11 if "budget" in self.bad and n else 1}
process_start_time_seconds {self.began}
{self.more if n else ""}
"""

    def answer(self, path, key):
        if path == "/metrics":
            return self.metrics() if key == "the-admin-key" else (401, "")
        with self.lock:
            self.requests += 1
        return 200, "{}"


@contextlib.contextmanager
def serving(answer):
    """The address of a server that answers with `answer(path, headers, body)`, a status and a text."""
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, text = answer(self.path, self.headers, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the reader has read enough
                self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with listening(Handler) as url:
        yield url


class Rollouts(Stubbed):
    """Two services, the proxy before them, and clients that never stop asking."""

    QUICK = ["--step-duration", "0s", "--patience", "10m", "--poll", "0s", "--requests", "20", "--calls", "20"]

    def setUp(self):
        super().setUp()
        self.deployed(revisions=2)
        self.environment["ORCHESTRATOR_KEY"] = "the-admin-key"

    @contextlib.contextmanager
    def played(self, candidate, stable=None, clients=True):
        """Both at their addresses; `answer` of them is that of a Fake."""
        stable = stable or Fake()
        with contextlib.ExitStack() as stack:
            urls = {}
            for name, fake in ((STABLE, stable), (CANDIDATE, candidate)):
                ask = lambda path, headers, _, fake=fake: fake.answer(path, headers.get("X-API-Key"))
                urls[name] = stack.enter_context(serving(ask))
            self.environment.update(STUB_SERVICE=urls[STABLE], STUB_SERVICE_STABLE=urls[STABLE],
                                    STUB_SERVICE_CANDIDATE=urls[CANDIDATE])
            proxy = stack.enter_context(self.proxy(urls))
            if clients:
                stack.enter_context(self.clients(f"{proxy}/images"))
            yield candidate, stable

    @contextlib.contextmanager
    def proxy(self, urls):
        """Splits what it gets as the service of the played project says: evenly, not by chance."""
        turns, lock, known = itertools.count(), threading.Lock(), {"shares": {STABLE: 100}}

        def share():
            with lock:
                with contextlib.suppress(json.JSONDecodeError):  # it is being written
                    known.update(shares=self.service()["traffic"])
                # 37 has no divisor in common with 100, so that every hundred requests are spread over all shares.
                place = next(turns) * 37 % 100
                for name, percent in sorted(known["shares"].items()):
                    place -= percent
                    if place < 0:
                        return name

        def answer(path, headers, body):
            headers = {name: headers[name] for name in ("X-API-Key", "Content-Type") if name in headers}
            try:
                request = urllib.request.Request(urls[share()] + path, data=body or None, headers=headers)
                with urllib.request.urlopen(request) as answered:
                    return answered.status, answered.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, ""

        with serving(answer) as url:
            yield url

    @contextlib.contextmanager
    def clients(self, request):
        """Clients that send a request, again and again."""
        stopped = threading.Event()

        def ask():
            while not stopped.is_set():
                with contextlib.suppress(OSError, http.client.HTTPException):
                    urllib.request.urlopen(request).read()

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopped.set()
            for thread in threads:
                thread.join()

    def sent(self):
        """The shares of the candidate that were set, in order."""
        calls = [call for call in self.state()["calls"] if call[:3] == ["run", "services", "update-traffic"]]
        shares = [word.split("=", 1)[1] for call in calls for word in call if word.startswith("--to-revisions=")]
        shares = [dict(item.split("=") for item in share.split(",")) for share in shares]
        return [int(share.get(CANDIDATE, 0)) for share in shares][1:]  # the first one promoted the first revision

    def test_a_good_candidate_reaches_all_traffic_by_steps_and_may_be_asked_for_again(self):
        with self.played(Fake()) as (candidate, _):
            done = self.script("canary-rollout", "auto", *self.QUICK)
            self.assertEqual(self.sent(), [10, 25, 50, 100])
            self.assertEqual(self.service()["traffic"], {CANDIDATE: 100})
            self.assertEqual(self.service()["tags"], {})
            self.assertIn(f"scripts/rollback {STABLE}", done.stderr)
            self.assertGreaterEqual(candidate.requests, 4 * 20)
            again = self.script("canary-rollout", "auto", *self.QUICK)
            self.assertIn("nothing to do", again.stderr)
        self.assertNotIn("the-admin-key", json.dumps(self.state()["calls"]) + done.stdout + done.stderr)

    def test_the_program_itself_is_rolled_out_by_what_its_metrics_say(self):
        made = self.sh(PROGRAM, "keys", "new", "--name", "canary", "--scopes", "submit,read,admin", "--entry")
        keys, key = self.folder / "keys", made.stderr.split()[-1]
        keys.write_text(made.stdout)
        batch = b'{"runMode":"live","items":[{"sceneId":"s-001","prompt":"a grey cube"}]}'
        with contextlib.ExitStack() as stack:
            urls = {}
            for name in (STABLE, CANDIDATE):
                (self.folder / name).mkdir()
                urls[name] = stack.enter_context(program(self.folder / name, keys, RATE_LIMIT_PER_MINUTE="1000000",
                                                         DAILY_BUDGET_USD="1000000"))
            proxy = stack.enter_context(self.proxy(urls))
            work = urllib.request.Request(f"{proxy}/images", batch, {"X-API-Key": key, "Content-Type": "application/json"})
            stack.enter_context(self.clients(work))
            # A machine that runs everything at once answers late, which is not what this is about.
            done = self.script("canary-rollout", "auto", *self.QUICK, "--p95", "60s", "--requests", "5", "--calls", "3",
                               ORCHESTRATOR_KEY=key,
                               STUB_SERVICE=urls[STABLE], STUB_SERVICE_STABLE=urls[STABLE],
                               STUB_SERVICE_CANDIDATE=urls[CANDIDATE])
        self.assertEqual(self.sent(), [10, 25, 50, 100])
        self.assertEqual(self.service()["traffic"], {CANDIDATE: 100})
        self.assertRegex(done.stderr, r"100 %, .* min: \d+ requests, 5xx 0.0 %, p95 \d+ ms, \d+ calls, unknown 0.0 %")

    def test_a_bad_candidate_is_taken_back_for_what_is_bad(self):
        for bad, what in (("errors", "5xx answers: "), ("slow", "p95 of requests: "), ("streams", "broken streams: "),
                          ("unknown", "calls with unknown charge: "), ("overruns", "charges above their reserve: "),
                          ("pictures", "failed pictures: "), ("ledger", "ledger lag: 900 s, more than 300 s"),
                          ("budget", "spent and reserved: $11.000000, more than the limit of $10.000000"),
                          ("database", "no good answer: 3 times in a row, it does not reach its database"),
                          ("no answer", "no good answer: 3 times in a row, /metrics answered 500")):
            with self.subTest(bad), self.played(Fake([bad])):
                self.deployed(revisions=2)
                said = self.script("canary-rollout", "auto", *self.QUICK, status=1).stderr
                self.assertIn(f"taken back at 10 %, all traffic to {STABLE}: ", said)
                self.assertIn(what, said)
                self.assertIn("(stable: ", said)
                self.assertEqual(self.sent(), [10, 0])
                self.assertEqual(self.service()["traffic"], {STABLE: 100})
                self.assertEqual(self.service()["tags"], {}, "the bad one works on batches no longer")

    def test_a_candidate_that_says_what_cannot_be_is_taken_back(self):
        bucket = 'orchestrator_request_seconds_bucket{{route="/images/{{batchId}}"{}}} 1\n'.format
        for more, what in (('orchestrator_overruns_total{a="b"} NaN', "not a finite number: 'NaN'"),
                           ('orchestrator_requests_total{route="/batches",status="200"} +Inf', "not a finite number: '+Inf'"),
                           (bucket(',le="x"'), "not a number: 'x'"), (bucket(""), "not a number: ''"),
                           ("# " + "x" * (5 << 20), "more than 4194304 bytes")):
            with self.subTest(what), self.played(Fake(more=more)):
                self.deployed(revisions=2)
                said = self.script("canary-rollout", "auto", *self.QUICK, status=1).stderr
                self.assertIn(f"taken back at 10 %, all traffic to {STABLE}: no good answer: 3 times in a row, ", said)
                self.assertIn(what, said)
                self.assertEqual(self.service()["traffic"], {STABLE: 100})

    def test_a_candidate_whose_counters_fall_is_taken_back(self):
        falling = itertools.count(10 ** 9, -1)
        candidate = Fake()
        candidate.seen = lambda: setattr(candidate, "more", f'orchestrator_calls_total{{outcome="x"}} {next(falling)}')
        with self.played(candidate):
            said = self.script("canary-rollout", "auto", *self.QUICK, status=1).stderr
        self.assertIn("3 times in a row, a counter of one process fell: orchestrator_calls_total", said)
        self.assertEqual(self.service()["traffic"], {STABLE: 100})

    def test_an_answer_that_does_not_end_is_read_no_further_than_a_good_one_would_be(self):
        with self.endless() as (url, sent), self.played(Fake(), clients=False):
            said = self.script("canary-rollout", "auto", *self.QUICK, status=1, STUB_SERVICE_CANDIDATE=url).stderr
        self.assertIn("more than 4194304 bytes", said)
        # What was on its way when it was cut off is in the buffers of the sockets.
        self.assertLess(sum(sent), 64 << 20)
        self.assertEqual(self.sent(), [])

    @contextlib.contextmanager
    def endless(self):
        """The address of a service whose every answer goes on until it is cut off; and what it has sent."""
        sent = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while sum(sent) < 256 << 20:
                        self.wfile.write(b"# " + b"x" * 65533 + b"\n")
                        sent.append(65536)

            def log_message(self, *_):
                pass

        with listening(Handler) as url:
            yield url, sent

    def test_what_turns_bad_at_a_later_step_goes_back_from_there(self):
        with self.played(Fake(["no answer"], broken_after=60)):
            said = self.script("canary-rollout", "auto", *self.QUICK, status=1).stderr
        self.assertEqual((self.sent()[0], self.sent()[-1]), (10, 0))
        self.assertIn("10 % passed", said)
        self.assertEqual(self.service()["traffic"], {STABLE: 100})
        self.assertIn("nothing is tagged candidate", self.script("canary-rollout", "auto", status=1).stderr,
                      "asked for again after that, it does not call it done")

    def test_what_both_have_is_nobodys_fault(self):
        with self.played(Fake(["pictures", "unknown"]), Fake(["pictures", "unknown"])):
            self.script("canary-rollout", "auto", *self.QUICK)
        self.assertEqual(self.service()["traffic"], {CANDIDATE: 100})

    def test_nobody_is_sent_to_what_cannot_be_watched(self):
        with self.played(Fake(), clients=False):
            said = self.script("canary-rollout", "auto", *self.QUICK, status=1, ORCHESTRATOR_KEY="another").stderr
            self.assertIn("scope admin", said)
            self.assertEqual(self.sent(), [])
            self.assertIn("ORCHESTRATOR_KEY is not set",
                          self.script("canary-rollout", "auto", status=1, ORCHESTRATOR_KEY="").stderr)

    def test_too_few_requests_are_said_and_are_no_pass(self):
        few = ["--step-duration", "0s", "--patience", "0s", "--poll", "0s"]
        with self.played(Fake(), clients=False):
            for _ in range(2):
                said = self.script("canary-rollout", "auto", *few, status=75).stderr
                self.assertIn("too little to judge at 10 %: 0 requests of 100, 0 calls of 20", said)
                self.assertIn("\nNext: the shares stay", said)
        self.assertEqual(self.sent(), [10])
        self.assertEqual(self.service()["traffic"], {STABLE: 90, CANDIDATE: 10})

    def start(self, *words):
        """The script at work, until it has said that it looked once at the step."""
        process = subprocess.Popen([ROOT / "scripts/canary-rollout", *words], env=self.environment, cwd=ROOT,
                                   stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process, next(line for line in process.stderr if " min: " in line)

    def test_stopped_in_the_middle_it_goes_on_with_the_step_it_was_at(self):
        patient = ["--step-duration", "10h", "--poll", "0s"]
        for how, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130), (signal.SIGINT, 130)):
            with self.subTest(how), self.played(Fake()):
                self.deployed(revisions=2)
                self.script("canary-rollout", "25")
                process, line = self.start("auto", *patient)
                self.assertIn("25 %, ", line)
                process.send_signal(how)
                process.stderr.read()
                self.assertEqual(process.wait(), code)
                self.assertEqual(self.service()["traffic"], {STABLE: 75, CANDIDATE: 25})
                self.script("canary-rollout", "auto", *self.QUICK)
                self.assertEqual(self.sent(), [25, 50, 100])

    def test_what_somebody_else_did_meanwhile_stays(self):
        with self.played(Fake()) as (candidate, _):
            process, _ = self.start("auto", "--step-duration", "10h", "--poll", "0s")
            self.script("rollback", STABLE)
            candidate.broken_after = -1
            candidate.bad.add("no answer")
            said = process.stderr.read()
        self.assertEqual(process.wait(), 1)
        self.assertIn("somebody else changed the traffic", said)
        self.assertEqual(self.sent(), [10, 0])

    def fails(self, command, times=100):
        """From now on, so many commands fail that begin so."""
        (self.folder / "fail").write_text(f"{command}\n" * times)

    def test_a_service_that_nobody_can_look_at_any_more_goes_back_all_the_same(self):
        for times, silent in ((100, True), (2, False)):
            with self.subTest(times):
                (self.folder / "fail").unlink(missing_ok=True)
                self.deployed(revisions=2)
                once = itertools.count()
                seen = lambda: next(once) or self.fails("run services describe", times)
                with self.played(Fake(["errors"], seen=seen)):
                    said = self.script("canary-rollout", "auto", *self.QUICK, status=1).stderr
                self.assertIn(f"taken back at 10 %, all traffic to {STABLE}: 5xx answers", said)
                self.assertEqual(said.count("it was told to fail"), 3 if silent else 2)
                self.assertEqual("it goes back all the same" in said, silent)
                self.assertEqual((self.service()["traffic"], self.service()["tags"]), ({STABLE: 100}, {}))

    def test_where_gcloud_does_nothing_any_more_it_is_said_loudly(self):
        once = itertools.count()
        with self.played(Fake(["errors"], seen=lambda: next(once) or self.fails("run services"))):
            said = self.script("canary-rollout", "auto", *self.QUICK, status=70).stderr
        self.assertIn(f"{CANDIDATE} IS BAD AND STILL HAS 10 %: 5xx answers", said)
        self.assertIn(f"\nNext: at once: gcloud run services update-traffic {SERVICE} --to-revisions={STABLE}=100", said)

    def test_what_somebody_else_did_stays_though_the_first_look_fails(self):
        with self.played(Fake()) as (candidate, _):
            process, _ = self.start("auto", "--step-duration", "10h", "--poll", "0s")
            self.script("rollback", STABLE)
            self.fails("run services describe", 1)
            candidate.broken_after = -1
            candidate.bad.add("no answer")
            said = process.stderr.read()
        self.assertEqual(process.wait(), 1)
        self.assertIn("somebody else changed the traffic", said)
        self.assertEqual(self.sent(), [10, 0])

    def test_who_breaks_off_in_the_middle_says_which_share_is_left(self):
        left = f"\ncanary-rollout: {CANDIDATE} may have 10 %, and nobody watches\nNext: .*scripts/rollback {STABLE}\n\\Z"
        broken = self.folder / "broken"
        broken.mkdir()
        (broken / "sitecustomize.py").write_text("import time\ndef sleep(_): raise RuntimeError('odd')\ntime.sleep = sleep\n")
        with self.played(Fake()):
            said = self.script("canary-rollout", "auto", *self.QUICK, status=70, PYTHONPATH=str(broken)).stderr
            self.assertRegex(said, "canary-rollout: an error of its own: RuntimeError: odd" + left)
        once = itertools.count()
        with self.played(Fake(seen=lambda: next(once) or self.fails("run services describe", 1))):
            said = self.script("canary-rollout", "auto", *self.QUICK, status=70).stderr
        self.assertRegex(said, "this failed: gcloud run services describe .*" + left.split("Next")[0])
        self.assertEqual(self.service()["traffic"], {STABLE: 90, CANDIDATE: 10})
        self.script("rollback", STABLE)
        self.deployed(revisions=2)
        said = self.script("canary-rollout", "25", status=70, STUB_FAIL="run services update-traffic").stderr
        self.assertIn(f"{CANDIDATE} may have 25 %", said)

    def test_a_way_back_that_fails_is_tried_again_and_then_said_loudly(self):
        with self.played(Fake(["errors"])):
            self.script("canary-rollout", "10")
            failed = self.script("canary-rollout", "auto", *self.QUICK, status=70, STUB_FAIL="run services update-traffic")
            self.assertEqual(failed.stderr.count("it was told to fail"), 3)
            self.assertIn(f"{CANDIDATE} IS BAD AND STILL HAS 10 %", failed.stderr)
            self.assertIn(f"--to-revisions={STABLE}=100", failed.stderr.splitlines()[-1])
            self.script("canary-rollout", "auto", *self.QUICK, status=1)
            self.assertEqual(self.service()["traffic"], {STABLE: 100})

    def test_shares_are_set_by_hand_and_ended_by_promote_and_rollback(self):
        self.script("canary-rollout", "25")
        self.assertEqual(self.service()["traffic"], {STABLE: 75, CANDIDATE: 25})
        self.assertIn("nothing to do", self.script("canary-rollout", "25").stderr)
        self.assertIn("a rollout is under way", self.script("deploy-staging", "--no-setup", "--again", "--image",
                      f"x@sha256:{'c' * 64}", status=1).stderr)
        self.script("remote", "ledger", "verify")
        self.script("rollback", STABLE)
        self.assertEqual((self.service()["traffic"], self.service()["tags"]), ({STABLE: 100}, {}))
        self.deployed(revisions=2)
        self.script("canary-rollout", "50")
        self.assertIn(f"scripts/rollback {STABLE}", self.script("promote").stderr)
        self.assertEqual((self.service()["traffic"], self.service()["tags"]), ({CANDIDATE: 100}, {}))

    def test_a_rollback_to_what_serves_stops_a_candidate_that_has_no_traffic(self):
        self.script("rollback", STABLE)
        self.assertEqual((self.service()["traffic"], self.service()["tags"]), ({STABLE: 100}, {}))

    def test_without_something_to_go_back_to_nothing_is_rolled_out(self):
        self.secrets_and_first()
        self.assertIn("scripts/promote", self.script("canary-rollout", "auto", status=1).stderr)

    def secrets_and_first(self):
        """Only the first revision, with all traffic, still tagged candidate."""
        state = self.state()
        state["services"][SERVICE] |= {"tags": {"candidate": STABLE}}
        (self.folder / "state.json").write_text(json.dumps(state))

    def test_a_third_revision_with_traffic_is_not_taken_for_stable(self):
        self.deployed(revisions=3)
        state = self.state()
        state["services"][SERVICE] |= {"traffic": {STABLE: 50, CANDIDATE: 50}, "tags": {"candidate": f"{SERVICE}-00003",
                                                                                       "stable": STABLE}}
        (self.folder / "state.json").write_text(json.dumps(state))
        self.assertIn(f"{CANDIDATE} has traffic too", self.script("canary-rollout", "auto", status=1).stderr)

    def test_a_dry_run_shows_the_commands_and_changes_nothing(self):
        before = self.state()
        with self.played(Fake(), clients=False):
            shown = self.script("canary-rollout", "auto", "--dry-run").stdout.splitlines()
            quick = self.script("canary-rollout", "auto", "--dry-run", "--step-duration", "90s").stdout
        self.assertEqual([re.search(f"{CANDIDATE}=([0-9]+)", line)[1] for line in shown if "--to-revisions" in line],
                         ["10", "25", "50", "100"])
        self.assertEqual((shown.count("# here: watched for 1h"), quick.count("# here: watched for 90s\n")), (4, 4))
        self.assertEqual(before | {"calls": []}, self.state() | {"calls": []})

    def test_a_dry_run_stops_where_the_real_one_would_for_want_of_a_key(self):
        with self.played(Fake(), clients=False):
            for key, problem in (("", "ORCHESTRATOR_KEY is not set"), ("another", "/metrics answered 401")):
                said = self.script("canary-rollout", "auto", "--dry-run", status=1, ORCHESTRATOR_KEY=key).stderr
                self.assertIn(problem, said)
                self.assertIn("scope admin", said)
        with self.played(Fake(["no answer"], broken_after=-1), clients=False):
            self.assertIn("candidate cannot be watched", self.script("canary-rollout", "auto", "--dry-run", status=1).stderr)

    def test_what_makes_no_sense_is_refused(self):
        for words in (["30"], [], ["auto", "--p95", "fast"], ["auto", "--errors", "5"], ["auto", "--errors", "500%"],
                      ["auto", "--misses", "-1"], ["auto", "--poll", "30"], ["auto", "--misses", "0"]):
            self.script("canary-rollout", *words, status=64)
        for name in ("SERVICE", "PROJECT", "REGION"):
            for value in ("a/;e touch x;", "-a", "A", "a'", "a b", "a\n", "a" * 50):
                refused = self.script("canary-rollout", "auto", status=64, **{name: value})
                self.assertIn(f"{name} is not ", refused.stderr)
        self.assertIn("PROJECT is not set", self.script("canary-rollout", "auto", status=1, PROJECT="").stderr)


if __name__ == "__main__":
    unittest.main()
