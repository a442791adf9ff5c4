"""scripts/image-check: what it reads in the Dockerfile, and what it finds out about a program."""
import importlib.machinery
import importlib.util
import os
import pathlib
import re
import subprocess
import tempfile
import unittest
import unittest.mock

from stubbed import PROGRAM, ROOT

SCRIPT = ROOT / "scripts/image-check"


def module():
    loader = importlib.machinery.SourceFileLoader("image_check", str(SCRIPT))
    made = importlib.util.module_from_spec(importlib.util.spec_from_loader("image_check", loader))
    loader.exec_module(made)
    return made


class Image(unittest.TestCase):
    def test_the_dockerfile_is_read_as_it_is_meant(self):
        check = module()
        stages = check.instructions((ROOT / "Dockerfile").read_text())
        image = check.Image(stages)
        self.assertEqual([word for word, _ in image.build], ["FROM", "WORKDIR", "COPY", "RUN", "COPY", "RUN"])
        self.assertEqual(image.copied, [["/src/target/release/orchestrator", "/usr/local/bin/orchestrator"], ["/data", "/data"]])
        self.assertEqual((image.user, image.entry, image.command), ("65532:65532", ["orchestrator"], ["serve"]))
        self.assertEqual(image.health, ["orchestrator", "healthcheck"])
        self.assertEqual((image.environment["MALLOC_ARENA_MAX"], image.environment["DATA_DIR"]), ("1", "/data"))

    def test_only_what_the_ignore_file_lets_through_is_sent(self):
        with tempfile.TemporaryDirectory() as folder:
            module().context(pathlib.Path(folder))
            sent = {file.name for file in pathlib.Path(folder).iterdir()}
        self.assertLessEqual({"Cargo.toml", "Cargo.lock", "src", "migrations"}, sent)
        self.assertEqual(sent & {"docs", "tests", "target", ".git", "rust-toolchain.toml"}, set())

    def test_the_steps_of_the_build_are_done_in_a_clean_folder_by_the_dockerfiles_toolchain(self):
        check = module()
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for tool, text in (("cargo", 'ls src benches >>"$SAID"; echo "$RUSTUP_TOOLCHAIN $*" >>"$SAID"; mkdir -p target/release;'
                                'touch target/release/orchestrator'), ("strip", 'echo "strip $*" >>"$SAID"')):
                (folder / tool).write_text(f"#!/bin/sh\n{text}\n")
                (folder / tool).chmod(0o755)
            said = {"PATH": f"{folder}:{os.environ['PATH']}", "SAID": str(folder / "said"), "CARGO_TARGET_DIR": "/nowhere"}
            with unittest.mock.patch.dict(os.environ, said):
                program = check.build(check.Image(check.instructions((ROOT / "Dockerfile").read_text())), folder)
            self.assertTrue(program.exists())
            first, second, _ = (folder / "said").read_text().split("--release --locked\n")
            channel = re.search(r'channel = "(.*)"', (ROOT / "rust-toolchain.toml").read_text())[1]
            self.assertTrue(first.endswith(f"{channel} build "), first)
            self.assertNotIn("domain.rs", first, "dependencies are built without the sources")
            self.assertIn("domain.rs", second)
            self.assertTrue((folder / "data").is_dir())
            self.assertFalse((folder / "src/docs").exists())

    @unittest.skipUnless(os.geteuid() == 0, "a root folder of its own needs root")
    def test_a_program_is_tried_as_the_image_runs_it_and_nothing_is_left(self):
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run([SCRIPT, "--program", PROGRAM], env=environment, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            for said in ("program: ", "exec to the first 200 of /health: ", "memory: ", "user 65532:65532, without capabilities"):
                self.assertIn(said, done.stdout)
            self.assertEqual(list(pathlib.Path(folder).iterdir()), [])

    @unittest.skipUnless(os.geteuid() == 0, "a root folder of its own needs root")
    def test_a_program_that_does_not_start_fails_the_check(self):
        done = subprocess.run([SCRIPT, "--program", "/bin/true"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("image-check: ", done.stderr)


if __name__ == "__main__":
    unittest.main()
