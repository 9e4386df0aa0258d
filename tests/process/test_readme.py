"""The session of the README, word for word, against a real server; only the ports come from the environment."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
ROOT = Path(__file__).parent.parent.parent


def session() -> list[str]:
    """The lines behind `$ ` of the README's console block."""
    block = re.search(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    return [line.removeprefix("$ ") for line in block.group(1).splitlines()]


def test_the_session_of_the_readme_works_word_for_word(tmp_path: Path) -> None:
    for program in ("etcdctl", "raftsched"):
        if not (ROOT / ".venv" / "bin" / program).exists():
            pytest.skip(f".venv/bin/{program} is missing: make setup brings it")
    lines = session()
    assert len(lines) == 5
    with ServerProcess(tmp_path / "server") as server:
        environment = {"ETCDCTL_ENDPOINTS": server.client_address, "RAFTSCHED_ADDRESS": server.scheduler_address, "PATH": "/usr/bin:/bin"}
        script = "\n".join(["set -e", f"cd {ROOT}", *lines])
        answer = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    assert re.fullmatch(
        r'OK\nscheduled hello\n(?:\d\d:\d\d:\d\d\.\d{3}  hello  \{"text": "hi"\}\n){3}dapr/jobs/app\|\|default\|\|cli\|\|hello\n\n',
        answer.stdout,
    ), answer.stdout


def test_what_the_readme_links_to_exists() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["job", "--help"],
        ["job", "schedule", "--help"],
        ["job", "watch", "--help"],
        ["import", "dapr", "--help"],
        ["export", "--help"],
        ["serve", "--help"],
        ["version"],
    ],
)
def test_every_help_is_there(words: list[str]) -> None:
    answer = subprocess.run([sys.executable, "-m", "raftsched", *words], capture_output=True, text=True, env={}, timeout=60, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout
