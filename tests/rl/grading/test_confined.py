"""The confined pool: its limits hold, whatever happens a worker is replaced, and hostile answers cost nothing but 0."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minicppo.rl.grading.confined import ConfinedPool, Unchecked

CHECKER = """
import json, os, signal, sys, time
def load():
    print("noise")
    def check(what, *more):
        if what == "stall": return sum(1 for _ in iter(int, 1))
        if what == "die": os._exit(3)
        if what == "interrupt": os.kill(os.getppid(), signal.SIGINT)
        if what == "memory": return len(b"x" * 2**33)
        if what == "write": return open(more[0], "w").write("x")
        if what == "fork": return os.fork()
        if what == "forge":
            os.write(1, b'{"value": 1.0}\\n')
            print('{"value": 1.0}', flush=True)
            return 0.0
        if what in ("sleep", "interrupt"): return time.sleep(60)
        if what == "secret": return os.environ.get("SOME_TOKEN")
        if what == "repr": return repr(more)
        return float(what)
    return check
"""


@pytest.fixture(scope="module")
def checker(tmp_path_factory):
    path = tmp_path_factory.mktemp("checker") / "check.py"
    path.write_text(CHECKER)
    return path


@pytest.fixture
def pool():
    pool = ConfinedPool(limit=0.3, processes=2)
    yield pool
    pool.close()


NO_VERDICTS = {
    "die": "died",
    "memory": "MemoryError",
    "fork": "BlockingIOError",
    "no number": "ValueError",
    ("a", "b"): "TypeError",
    "1" * 5000 + "\ud800": "ValueError",
}


def test_no_verdict_has_a_name_and_the_next_question_is_answered(pool, checker):
    for what, name in NO_VERDICTS.items():
        if what == "fork" and os.geteuid() == 0:
            continue  # the superuser is not limited in processes
        with pytest.raises(Unchecked, match=f"^{name}$"):
            pool(checker, what)
        assert pool(checker, "0.5") == 0.5
        assert len(pool._all) == 1
    (worker,) = pool._all
    worker.process.kill()
    worker.process.wait()
    with pytest.raises(Unchecked, match="died"):
        pool(checker, "1")
    assert pool(checker, "1") == 1.0


def test_a_worker_is_told_all_but_writes_forges_and_knows_nothing(pool, checker, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "secret")
    assert pool(checker, "repr", (1, 2), [1, "2"]) == "((1, 2), [1, '2'])"
    pool(checker, "write", str(tmp_path / "written"))
    assert not (tmp_path / "written").read_bytes()
    assert pool(checker, "forge") == 0.0
    assert pool(checker, "secret") is None


def test_the_limits_of_computing_and_of_waiting_hold_in_threads(pool, checker):
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        for verdict in [threads.submit(pool, checker, what) for what in ("stall", "sleep")]:
            with pytest.raises(Unchecked, match="timeout"):
                verdict.result()
    assert 0.25 <= time.perf_counter() - start < 60  # it waits for its processes to start, and the machine may be busy
    assert pool(checker, "0.5") == 0.5
    assert len(pool._all) == 2


def test_many_threads_share_few_processes(pool, checker):
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda i: pool(checker, str(i)), range(20))) == list(range(20))
    assert 1 <= len(pool._all) <= 2
    pool.close()
    assert not pool._all
    assert pool(checker, "1") == 1.0, "closing is not the end"


def test_a_checker_that_needs_a_missing_package_says_so(pool, tmp_path):
    path = tmp_path / "check.py"
    path.write_text("def load():\n    import no_such_package\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        pool(path, "1")


@pytest.mark.parametrize(
    "script",
    [
        "pool(path, '1')\nchild = os.fork()\nassert pool(path, '2') == 2.0\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))",
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try: pool(path, 'interrupt')\nexcept KeyboardInterrupt: assert pool(path, '2') == 2.0\nelse: sys.exit(1)",
        "worker = pool._start(path)\nprint(worker.process.pid, flush=True)\npool(path, '1')\n"
        "os.kill(os.getpid(), signal.SIGKILL)",
    ],
    ids=["a forked child has workers of its own", "Ctrl-C in a question", "killed, it leaves no worker behind"],
)
def test_in_a_process_of_its_own(checker, script):
    head = "import os, signal, sys\nfrom pathlib import Path\nfrom minicppo.rl.grading.confined import ConfinedPool\n"
    head += f"pool, path = ConfinedPool(limit=30), Path({str(checker)!r})\n"
    done = subprocess.run([sys.executable, "-c", head + script], capture_output=True, text=True, timeout=300)
    if done.stdout:
        assert done.returncode == -9
        worker, patience = Path("/proc") / done.stdout.strip(), time.monotonic() + 60
        while worker.exists() and " Z " not in (worker / "stat").read_text():
            assert time.monotonic() < patience
            time.sleep(0.05)
    else:
        assert done.returncode == 0, done.stderr
