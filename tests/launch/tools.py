"""Commands that stand in for a cluster's: each notes its arguments and answers as it is told."""

import os

SCRIPT = """#!/bin/bash
printf '%s\\n' "$(basename "$0") $*" >> {calls}
{answer}
"""


class Tools:
    """A folder of commands on PATH, in front of all others."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.log = folder / "tools", folder / "calls"
        self.folder.mkdir()
        monkeypatch.setenv("PATH", f"{self.folder}{os.pathsep}{os.environ['PATH']}")

    def put(self, name, answer="true"):
        path = self.folder / name
        path.write_text(SCRIPT.format(calls=self.log, answer=answer))
        path.chmod(0o755)

    @property
    def calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []
