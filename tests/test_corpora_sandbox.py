"""The sandbox: what passes, what does not and why, and that hostile programs leave nothing behind."""

import functools
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hf_tasks.corpora import sandbox
from hf_tasks.corpora.sandbox import IMPORTS, OUTPUT, REASONS, Outcome, run, run_many

ROOT = Path(__file__).parents[1]
# Modules that no other test names: by them we know the processes of a test, which may run beside the others.
MARK_HOSTILE, MARK_CALLER, MARK_SERVER = "colorsys", "stringprep", "tabnanny"
OPEN_DOORS = (
    *IMPORTS,
    MARK_HOSTILE,
    "builtins",
    "ctypes",
    "os",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "sys",
    "threading",
)
FILTERED = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
RIGHT = "def double(x):\n    return 2 * x\n"
TEST = "assert double(2) == 4"

# Inside the interpreter every wall can be walked around: a formatter reads attributes whose names nobody has checked.
ESCAPE = """
import string
look = string.Formatter().get_field
base = look("0.__class__.__base__.__subclasses__", [()], {})[0]
[wrap] = [c for c in base() if c.__name__ == "_wrap_close"]
os = look("0.__init__.__globals__", [wrap], {})[0]
"""


FORGE = """
for number in range(64):
    try:
        os["write"](number, b'{"verdict": ["", ""]}\\n')
    except OSError:
        pass
"""


def processes(mark: str) -> list[str]:
    """Sandboxes that may import a module."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


# Reached through the front door; the tests ask for `double`.
REFUSED = {
    "wrong": ("def double(x):\n    return x\n", "wrong", TEST),
    "syntax": ("def double(x:\n", "syntax", "SyntaxError"),
    "return outside": ("return 1\n", "syntax", "outside function"),
    "nul": ("x = 1\0", "syntax", "null"),
    "exception": ("def double(x):\n    return x.y\n", "error", "AttributeError"),
    "recursion": ("def double(x):\n    return double(x + 1)\n", "error", "RecursionError"),
    "deep in C": ("x = []\nfor _ in range(10**4):\n    x = [x]\nrepr(x)\n", "error", "RecursionError"),
    "loop": ("while True:\n    pass\n", "timeout", "of CPU"),
    "swallowing loop": ("while True:\n    try: pass\n    except BaseException: pass\n", "timeout", "CPU"),
    "one long operation": ("x = 7 ** 10 ** 9\n", "timeout", "CPU"),
    "sleep": ("import time\ntime.sleep(60)\n", "timeout", "on the clock"),
    "memory at once": ("x = [0] * 10**9\n", "memory", ""),
    "memory in steps": ("x = []\nwhile True:\n    x.append(bytes(10**6))\n", "memory", ""),
    "output at once": ("print('x' * 10**7)\n", "output", str(OUTPUT)),
    "swallowed output": ("for _ in range(10**4):\n    try: print('x' * 10**3)\n    except Exception: pass\n" + RIGHT,
                         "output", str(OUTPUT)),
    "exit": ("raise SystemExit(0)\n", "exit", "SystemExit"),
    "sys.exit": ("import sys\nsys.exit(0)\n", "forbidden_import", "sys"),
    "os._exit": ("import os\nos._exit(0)\n", "forbidden_import", "os"),
    "_exit from inside": (ESCAPE + "os['_exit'](0)\n", "exit", "before the tests"),
    "writing to all pipes": (ESCAPE + FORGE, "exit", "something else"),
    "swallowed import": ("try: import numpy\nexcept ImportError: pass\n" + RIGHT, "forbidden_import", "numpy"),
    "relative import": ("from . import os\n", "forbidden_import", "."),
    "socket": ("import socket\nsocket.socket()\n", "forbidden_import", "socket"),
    "thread": ("import threading\nthreading.Thread(target=lambda: None).start()\n", "forbidden_import", "threading"),
    "__import__": ("__import__('os').getcwd()\n", "forbidden_call", "__import__"),
    "read": ("print(open('/etc/passwd').read())\n", "forbidden_call", "open"),
    "input": ("input()\n", "forbidden_call", "input"),
    "exec": ("exec('import os')\n", "forbidden_call", "exec"),
    "eval": ("eval('().__class__.__base__')\n", "forbidden_call", "__base__"),
    "subclasses": ("().__class__.__bases__[0].__subclasses__()\n", "forbidden_call", "__subclasses__"),
    "getattr": ("getattr((), '__cl' + 'ass__').mro()\ngetattr(int, '__ba' + 'ses__')\n", "forbidden_call", "__bases__"),
    "pattern": ("match print:\n    case object(__self__=found):\n        pass\n", "forbidden_call", "__self__"),
    "frame": ("def g():\n    yield\ng().gi_frame.f_back\n", "forbidden_call", "f_back"),
    "a module's own imports": ("import random\nrandom._os.getcwd()\n", "error", "AttributeError"),
    "and public ones": ("import typing\ntyping.sys.modules\n", "error", "'sys'"),
    "hidden function": ("import operator\noperator.attrgetter('__class__')\n", "error", "AttributeError"),
    "equal to everything": ("class X:\n    def __eq__(self, other): return True\ndef double(x): return X()\n",
                            "forbidden_call", "__eq__"),
    "patched builtins": ("import builtins\nbuiltins.all = lambda _: True\n", "forbidden_import", "builtins"),
    "patched module": ("import math\nmath.floor = round\n", "error", "math.floor"),
    "forged marker": ("def double(x):\n    print('[\"\", \"\"]')\n    print('ok')\n    return x\n", "wrong", TEST),
    "main only": ("if __name__ == '__main__':\n    def double(x):\n        return 2 * x\n", "error", "NameError"),
}  # fmt: skip

# With the doors of the allow-list open: what is behind them is refused as well.
HOSTILE = {
    "fork bomb": "import os\nwhile True:\n    os.fork()\n",
    "grandchildren": "import os\nif os.fork() == os.fork() == 0:\n    while True: pass\nos.abort()\n",
    "remove": "import os\nos.remove(VICTIM)\n",
    "rmtree": "import shutil\nshutil.rmtree(FOLDER)\n",
    "remove from inside": ESCAPE + "os['unlink'](VICTIM)\n",
    "overwrite from inside": ESCAPE + "os['open'](VICTIM, 1)\n",
    "rename": "import os\nos.rename(VICTIM, VICTIM + '.gone')\n",
    "write": "import os\nos.open(VICTIM + '.new', os.O_CREAT | os.O_WRONLY)\n",
    "socket": "import socket\nsocket.socket()\n",
    "lookup": "import socket\nsocket.getaddrinfo('localhost', 80)\n",
    "shell": "import os\nos.system('touch ' + VICTIM + '.new')\n",
    "subprocess": "import subprocess\nsubprocess.run(['true'])\n",
    "kill": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n",
    "thread": "import threading\ndef run():\n    while True: pass\nthreading.Thread(target=run).start()\n",
    "ctypes": "import ctypes\nctypes.CDLL(None).fork()\n",
    "hook": "import sys\nsys.addaudithook(print)\n",
    "swallowed": "import os\ntry:\n    os.fork()\nexcept BaseException:\n    pass\n",
}


@functools.cache
def refused() -> dict[str, Outcome]:
    programs = [(code, TEST) for code, _, _ in REFUSED.values()]
    return dict(zip(REFUSED, run_many(programs, workers=2, timeout=0.3), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_pass_and_why(name: str) -> None:
    _, reason, detail = REFUSED[name]
    outcome = refused()[name]
    assert (outcome.ok, outcome.reason) == (False, reason), outcome
    assert detail in outcome.detail
    assert reason in REASONS


def test_hostile_programs_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("alive")
    programs = [
        (code.replace("VICTIM", repr(str(victim))).replace("FOLDER", repr(str(tmp_path))), "")
        for code in HOSTILE.values()
    ]
    outcomes = dict(zip(HOSTILE, run_many(programs, workers=2, timeout=1, imports=OPEN_DOORS), strict=True))
    assert {name: outcome.reason for name, outcome in outcomes.items()} == dict.fromkeys(HOSTILE, "forbidden_call")
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]
    assert victim.read_text() == "alive"
    if sys.platform == "linux":
        assert processes(MARK_HOSTILE) == []


# No hook, no guard, nothing of this file's: what the kernel alone says.
BARE = """
import importlib.util, os, signal, socket, threading
spec = importlib.util.spec_from_file_location("sandbox", {path!r})
sandbox = importlib.util.module_from_spec(spec)
import sys; sys.modules["sandbox"] = sandbox
spec.loader.exec_module(sandbox)
attempts = [
    os.fork, lambda: open("/etc/passwd"), lambda: os.remove({victim!r}), socket.socket,
    lambda: os.kill(os.getppid(), signal.SIGKILL), lambda: os.kill(os.getpid(), signal.SIGTERM),
    lambda: os.execv("/bin/true", ["true"]), lambda: os.posix_spawn("/bin/true", ["true"], {{}}),
    lambda: signal.signal(signal.SIGPROF, signal.SIG_IGN), lambda: os.read(0, 1), os.setsid,
    lambda: threading.Thread(target=print).start(),
]
assert sandbox._filter_calls()
for number, attempt in enumerate(attempts):
    try:
        attempt()
    except (PermissionError, RuntimeError) as error:
        os.write(1, str(number).encode() + b" ")
os._exit(0)
"""


@pytest.mark.skipif(not FILTERED, reason="the filter is for Linux on x86_64 and aarch64")
def test_the_kernel_refuses_whatever_the_interpreter_lets_pass(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    code = BARE.format(path=sandbox.__file__, victim=str(victim))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [str(number) for number in range(12)], done.stderr
    assert victim.exists()


PASSING = {
    "plain": (RIGHT, TEST),
    "main is not run": (RIGHT + "if __name__ == '__main__':\n    open('x')\n", TEST),
    "own name of a builtin": ("def sum(values):\n    return 1\n" + RIGHT, TEST + "\nassert sum([2, 3]) == 5"),
    "imports": ("import collections.abc, math\nfrom typing import *\nx: Optional[int] = math.pi\n" + RIGHT, TEST),
    "future": ("from __future__ import annotations\n" + RIGHT, TEST),
    "lazy imports": ("from datetime import datetime\n" + RIGHT,
                     TEST + "\nassert datetime.strptime('2024-02-29', '%Y-%m-%d').day == 29"),
    "classes": ("from dataclasses import dataclass\n@dataclass(order=True)\nclass P:\n    x: int\n"
                "    def __post_init__(self): self.x += 0\n" + RIGHT, TEST + "\nassert P(1) < P(2) and P(1) == P(1)"),
    "named tuple": ("from collections import namedtuple\nP = namedtuple('P', 'x y')\n", "assert P(1, 2).y == 2"),
    "eval": ("def double(x):\n    return eval('2 * x')\n", TEST),
    "some output": ("print('x' * 1000)\n" + RIGHT, TEST),
    "getattr": ("def double(x):\n    return getattr(x, 'real') * 2\n", TEST),
    "unicode": ("# \u00e4\U0001f40d\n" + RIGHT, TEST),
    "generators": ("def numbers():\n    yield from (4, 5)\n" + RIGHT, "assert double(2) == next(numbers())"),
}  # fmt: skip


def test_what_passes() -> None:
    outcomes = dict(zip(PASSING, run_many(PASSING.values(), workers=2), strict=True))
    assert {name: outcome for name, outcome in outcomes.items() if not outcome.ok} == {}


# Each patches what a test leans on; a test has a name space and builtins of its own.
@pytest.mark.parametrize(
    "patch",
    [
        "all = lambda _: True\n",
        "globals()['__builtins__']['all'] = lambda _: True\n",
        "AssertionError = ValueError\n",
        "def check(*_):\n    return True\n",
    ],
)
def test_patching_the_checker_is_no_pass(patch: str) -> None:
    code = patch + "def double(x):\n    return x\n"
    assert run(code, "assert all(double(x) == 2 * x for x in (1, 2))").reason == "wrong"


def test_the_same_program_gets_the_same_verdict() -> None:
    code = "import random\nassert False, f'{random.random()} {set(\"abcdefgh\")} {id}'"
    assert run(code).detail == run(code).detail != ""


def test_limits_are_the_callers() -> None:
    assert run("x = bytes(100 * 2**20)").ok
    assert run("x = bytes(100 * 2**20)", memory=100 * 2**20).reason == "memory"
    assert run("import keyword").reason == "forbidden_import"
    assert run("import keyword", imports=(*IMPORTS, "keyword")).ok


def test_nothing_of_the_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert run(ESCAPE + "assert 'OPENAI_API_KEY' not in os['environ'] and 'HOME' not in os['environ']\n").ok


def test_outcomes_come_in_order_and_generators_may_stop_early() -> None:
    programs = [(f"x = {n}", "assert x % 3 == 0") for n in range(30)]
    assert [outcome.ok for outcome in run_many(programs, workers=3)] == [n % 3 == 0 for n in range(30)]
    outcomes = run_many(programs, workers=2)
    assert next(outcomes).ok
    outcomes.close()


def test_a_program_costs_a_few_milliseconds() -> None:
    before = os.times()
    assert all(outcome.ok for outcome in run_many([(RIGHT, TEST)] * 200, workers=1))
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent / 200 < 0.01  # seconds of CPU: a hundred a second on one core


def test_a_killed_interpreter_is_an_error_and_no_verdict() -> None:
    with sandbox._Server(list(IMPORTS)) as server:
        server._process.kill()
        with pytest.raises(RuntimeError, match="exit status -9"):
            server.run({"code": RIGHT, "tests": TEST, "timeout": 1, "memory": 2**28})


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_outlives_a_killed_caller() -> None:
    imports = "(*IMPORTS, 'string' 'prep')"  # so written, the caller does not bear the mark
    code = f"from hf_tasks.corpora.sandbox import *\nrun('while True: pass', timeout=300, imports={imports})"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_for(lambda: len(processes(MARK_CALLER)) == 2)  # the interpreter and its child
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    wait_for(lambda: processes(MARK_CALLER) == [])


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_outlives_a_killed_interpreter() -> None:
    with sandbox._Server([MARK_SERVER]) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.run, {"code": "while True: pass", "tests": "", "timeout": 300, "memory": 2**28})
        wait_for(lambda: len(processes(MARK_SERVER)) == 2)
        server._process.kill()
        with pytest.raises(RuntimeError):
            answer.result()
    wait_for(lambda: processes(MARK_SERVER) == [])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
