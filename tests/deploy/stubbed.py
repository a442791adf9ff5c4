"""What the tests of deployment share: a project of Google Cloud that is played, the program, and services that pretend."""
import contextlib
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROGRAM = os.environ.get("TEST_PROGRAM", str(ROOT / "target/debug/orchestrator"))
SERVICE = "orchestrator-staging"
IMAGE = f"registry.example/orchestrator@sha256:{'a' * 64}"


class Stubbed(unittest.TestCase):
    """A project of Google Cloud in a folder."""

    first = None

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.environment = {
            "PATH": f"{HERE}/bin:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder), "PROJECT": "demo", "TMPDIR": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1",
            "STUB_FOLDER": str(self.folder), "STUB_CURL": shutil.which("curl"), "STUB_PROGRAM": PROGRAM,
        }

    def sh(self, *command, **environment):
        return subprocess.run(command, cwd=ROOT, env=self.environment | environment, capture_output=True, text=True)

    def script(self, name, *words, status=0, **environment):
        done = self.sh(ROOT / "scripts" / name, *words, **environment)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        if status == 1:
            self.assertRegex(done.stderr, r"\nNext: .+\n\Z", "what is to be done is the last line")
        return done

    def state(self):
        return json.loads((self.folder / "state.json").read_text())

    def secrets(self):
        done = self.sh("bash", "-euc", """export CLOUDSDK_CORE_PROJECT=$PROJECT
            gcloud services enable secretmanager.googleapis.com
            printf the-gemini-key | gcloud secrets create orchestrator-staging-gemini-api-key --data-file=-
            printf the-api-keys | gcloud secrets create orchestrator-staging-api-keys --data-file=-""")
        self.assertEqual(done.returncode, 0, done.stderr)

    def deployed(self, revisions=1):
        """A service with revisions of which the first serves. It is set up once, and copied after that."""
        if Stubbed.first is None:
            self.secrets()
            self.script("deploy-staging", "--image", IMAGE)
            self.script("promote")
            Stubbed.first = {file.name: file.read_text() for file in self.folder.iterdir() if file.is_file()}
        for name, text in Stubbed.first.items():
            (self.folder / name).write_text(text)
        for number in range(2, revisions + 1):
            self.script("deploy-staging", "--no-setup", "--image", IMAGE.replace("a" * 64, str(number) * 64))

    def service(self):
        return self.state()["services"][SERVICE]


@contextlib.contextmanager
def program(folder, keys, **settings):
    """The service itself, with the free provider."""
    command = [PROGRAM, "serve"]
    environment = {"PATH": os.environ["PATH"], "PORT": "0", "DATA_DIR": str(folder / "data"), "AUTH": "keys",
                   "API_KEYS_FILE": str(keys), "LOG_FORMAT": "json", "SYNTHETIC_LATENCY": "10ms"} | settings
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as service:
        try:
            line = next(line for line in service.stderr if '"message":"listening"' in line)
            rest = threading.Thread(target=service.stderr.read, daemon=True)
            rest.start()
            yield f"http://{json.loads(line)['address']}"
        finally:
            service.terminate()


@contextlib.contextmanager
def listening(handler):
    """The address of a server on loopback whose requests `handler` answers."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def pretender(answers):
    """A service that answers `METHOD PATH` or, for who shows no key, `anonymous`, as it is told: (status, body)."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            known = "X-API-Key" in self.headers
            status, body = answers[f"{self.command} {self.path}" if known else "anonymous"]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    with listening(Handler) as url:
        yield url


def blocks(section, document="RUNBOOK.md"):
    """The shell blocks of a section of a document."""
    text = (ROOT / "docs" / document).read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
