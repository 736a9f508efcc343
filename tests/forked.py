"""`d3bed …` as a user types it, many times: forked from a process that has imported what the command needs.

Importing takes ten times as long as most of these commands. Each still is a process of its own, with its
arguments, its folder, its streams and its exit code, and runs what `python -m d3bed` runs.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_PARENT = """
import contextlib, gc, importlib, io, json, os, sys, traceback
for name in sys.argv[1].split():
    sys.modules[name] = None
for name in sys.argv[2].split():
    importlib.import_module(name)
from d3bed.cli import main
sys.argv = ["d3bed", "networks"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()  # what is imported on the way to any command
gc.freeze()
for line in sys.stdin:
    arguments, folder, out, err = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        for number, path in enumerate((os.devnull, out, err)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        sys.argv = ["d3bed", *arguments]
        code = 1
        try:
            code = main() or 0
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what was imported need not be taken down
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class _Parent:
    def __init__(self, forbidden: str, imported: str, columns: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PARENT, forbidden, imported],
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": str(columns)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.end)

    def end(self) -> None:
        self.process.communicate()

    def run(self, arguments: tuple[str, ...], folder: Path | None) -> subprocess.CompletedProcess[str]:
        assert self.process.stdin is not None and self.process.stdout is not None
        with tempfile.TemporaryDirectory() as streams:
            out, err = Path(streams, "out"), Path(streams, "err")
            asked = json.dumps([arguments, str(folder or Path.cwd()), str(out), str(err)])
            self.process.stdin.write(asked + "\n")
            self.process.stdin.flush()
            code = int(self.process.stdout.readline())
            return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


#: One for each way to be: no two tests run at once in a process.
_parent = functools.cache(_Parent)


def run(
    *arguments: str, folder: Path | None = None, columns: int, imported: str, forbidden: str = ""
) -> subprocess.CompletedProcess[str]:
    """`d3bed ARGUMENTS` to its end, in `folder`. `imported`: modules that the command would import;
    `forbidden`: those that it must do without, for whom an import fails."""
    return _parent(forbidden, imported, columns).run(arguments, folder)
