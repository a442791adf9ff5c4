"""docs/DRILL.md, from top to bottom, with the program itself."""
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import unittest

from stubbed import PROGRAM, ROOT

# Longer than the drill takes on any machine: it ends by itself, or something hangs.
DEADLINE = 600


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Drill(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """Runs it once, in a shell of its own; what each section says stands after its heading."""
        text = (ROOT / "docs/DRILL.md").read_text()
        parts = re.split(r"^## (.*)\n", "## The beginning\n" + text, flags=re.MULTILINE)[1:]
        script = ""
        for heading, section in zip(parts[::2], parts[1::2]):
            script += f"printf '## %s\\n' {heading!r}\n" + "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))
        script = script.replace("9191", str(free_port()))
        with tempfile.TemporaryDirectory() as folder:
            # The program by the name that the drill calls it.
            pathlib.Path(folder, "bin").mkdir()
            pathlib.Path(folder, "bin/orchestrator").symlink_to(pathlib.Path(PROGRAM).resolve())
            environment = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": folder}
            with subprocess.Popen(["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as shell:
                try:
                    cls.said, _ = shell.communicate(timeout=DEADLINE)
                finally:
                    # A service that it left behind, where it stopped in the middle.
                    try:
                        os.killpg(shell.pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            cls.status = shell.returncode
            cls.left = [name.name for name in pathlib.Path(folder).iterdir() if name.name != "bin"]
        cls.sections = dict(zip(*[iter(re.split(r"^## (.*)\n", cls.said, flags=re.MULTILINE)[1:])] * 2))

    def says(self, heading, *patterns):
        self.assertIn(heading, self.sections, self.said)
        for pattern in patterns:
            self.assertRegex(self.sections[heading], pattern)

    def test_every_command_works_and_nothing_is_left(self):
        self.assertEqual(self.status, 0, self.said)
        self.assertEqual(self.left, [])

    def test_a_crash_costs_no_picture_and_the_books_agree(self):
        self.says("A crash", r"exit code 137", r"12 of 12 pictures made", r"resuming what was accepted before",
                  r"\d+ lines agree", r"charged +12 +12")

    def test_an_exhausted_budget_refuses_and_says_what_is_left(self):
        self.says("The budget is exhausted", r"the batch would reserve \$5", r"exit code 75", r'"status":402')

    def test_a_provider_that_fails_is_left_alone_and_comes_back(self):
        self.says("The provider fails", r"0 of 2 pictures made", r"exit code 1\b", r"the provider fails again and again",
                  r'"ready":true', r"1 of 1 pictures made")

    def test_a_ledger_that_is_away_loses_nothing(self):
        self.says("The ledger cannot be written", r"1 of 1 pictures made", r"charges wait in the database since",
                  r'"ledger":null', r"\d+ lines agree")

    def test_a_ledger_that_somebody_changed_is_found_out(self):
        self.says("Somebody wrote in the ledger", r"missing in the ledger: chg_\w+, which was line 1", r"exit code 1\b",
                  r"\d+ lines agree\n\Z")

    def test_a_key_that_is_revoked_is_refused_at_once(self):
        self.says("A key is leaked", r"The key [0-9a-f]{12} of alice is revoked", r"exit code 77", r'"a caller was refused"')

    def test_it_stops_cleanly(self):
        self.says("The end", r'"clean":true')


if __name__ == "__main__":
    unittest.main()
