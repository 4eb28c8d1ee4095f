"""The nursery: what is forked of it is the owner's child, has its descriptors alone, and runs only when it is told to."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mstore.workers import births

OWNER = """
    import errno, json, os, signal, sys, time
    from pathlib import Path
    from mstore.workers import births, nursery
    from mstore.workers.births import Nursery, reap

    def wait(process):
        return os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])

    def children():
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
"""


def owner(code: str, *arguments: str) -> list[str]:
    """What an owner that runs `code` prints. A process of its own: a fork takes everything along that a test run has."""
    whole = textwrap.dedent(OWNER) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", whole, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_forked_process_is_the_owner_s_child_with_its_descriptors_alone() -> None:
    lines = owner("""
        def main(argument):
            fds = sorted(set(map(int, os.listdir("/proc/self/fd"))) - {3})  # 3: of the listing itself
            print(json.dumps([argument, os.getppid() == owner, fds, os.read(40, 9).decode()]))
            return 7

        owner = os.getpid()
        nursery.MAINS["test"] = main
        one = Nursery.fork("nursery", Path("/some/dir"))
        reading, writing = os.pipe()
        told, telling = os.pipe()
        os.write(writing, b"hello")
        # What the one is called here, the other is called there: neither may take the other's place.
        process = one.start("test", "an argument", {40: reading, 41: telling, 1: telling, reading: writing})
        print(wait(process), os.read(told, 999).decode().strip())
        print(reading)
    """)
    status, found = lines[0].split(" ", 1)
    assert status == "7"
    reading = int(lines[1])
    expected = sorted({0, 1, 2, 40, 41, reading} - {3})
    assert found == f'["an argument", true, {expected}, "hello"]'


def test_the_death_of_a_nursery_is_nobody_else_s_and_the_next_order_starts_another() -> None:
    lines = owner("""
        nursery.MAINS["sleep"] = lambda argument: time.sleep(600)
        one = Nursery.fork("nursery", Path("/some/dir"))
        sleeper = one.start("sleep", "", {})
        before = [int(pid) for pid in children() if int(pid) != sleeper.pid]
        os.kill(before[0], signal.SIGKILL)
        other = one.start("ingest", "no JSON", {})  # of one started by exec, which knows no "sleep"
        print(len(before), wait(other), Path(f"/proc/{sleeper.pid}").exists(), len(children()))
        one.close()
        print(children() == [str(sleeper.pid)])
        os.kill(sleeper.pid, signal.SIGKILL)
        print(wait(sleeper))
    """)
    assert lines == ["1 4 True 2", "True", "-9"]


def test_a_process_whose_owner_never_got_its_pid_runs_nothing() -> None:
    lines = owner("""
        def main(argument):
            print("it ran", flush=True)
            return 0

        def fork_then_die(order, descriptors):
            pid = start(order, descriptors)
            os._exit(9)

        start, nursery._start = nursery._start, fork_then_die
        nursery.MAINS["ingest"] = main
        one = Nursery.fork("nursery", Path("/some/dir"))
        again = one.start("ingest", "no JSON", {})
        until = time.monotonic() + 20
        known, codes = {again.pid}, []
        while time.monotonic() < until and len(codes) < 1:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            if dead.si_pid == again.pid:
                print("the second try ended with", wait(again))
            else:
                codes.append(os.waitstatus_to_exitcode(os.waitpid(dead.si_pid, 0)[1]))
        print(codes)
    """)
    assert lines[-1] == "[3]", lines
    assert "it ran" not in lines


def test_what_cannot_be_started_is_an_error_and_the_nursery_goes_on() -> None:
    lines = owner("""
        nursery.MAINS["test"] = lambda argument: 5
        one = Nursery.fork("nursery", Path("/some/dir"))
        for size, n_descriptors in ((200_000, 0), (10, 300)):
            try:
                one.start("test", "x" * size, {1000 + k: 2 for k in range(n_descriptors)})
            except OSError as error:
                print(error)
        def refuse(pid, flags=0):
            raise OSError(errno.EMFILE, "too many open files")
        opened, os.pidfd_open = os.pidfd_open, refuse
        try:
            one.start("test", "", {})
        except OSError as error:
            print(error.errno == errno.EMFILE)
        os.pidfd_open = opened
        print(wait(one.start("test", "", {})))
    """)
    assert "at most 131072 and 250 are possible" in lines[0]
    assert lines[0].startswith("200")
    assert "300 descriptors" in lines[1] or "301 descriptors" in lines[1]
    assert lines[2:] == ["True", "5"]


def test_a_fork_that_is_refused_is_told_with_the_reason() -> None:
    lines = owner("""
        real = os.fork

        def refused():
            if os.getpid() != owner:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return real()

        owner, os.fork = os.getpid(), refused
        one = Nursery.fork("nursery", Path("/some/dir"))
        try:
            one.start("ingest", "", {})
        except OSError as error:
            print(error)
    """)
    assert len(lines) == 1
    assert "too many processes and threads" in lines[0]
    assert "ulimit -u" in lines[0]


def test_a_nursery_that_cannot_be_forked_is_told_with_the_limit() -> None:
    lines = owner("""
        from mstore.errors import MstoreError

        def refused():
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        os.fork = refused
        try:
            Nursery.fork("nursery", Path("/some/dir"))
        except MstoreError as error:
            print(error)
    """)
    assert len(lines) == 1
    assert lines[0].startswith("cannot start the process nursery: too many processes and threads")


def test_a_process_for_which_descriptors_do_not_suffice_says_so_in_one_line() -> None:
    lines = owner("""
        import resource
        told, telling = os.pipe()
        os.dup2(telling, 2)
        one = Nursery.fork("nursery", Path("/some/dir"))
        resource.prlimit(int(children()[0]), resource.RLIMIT_NOFILE, (30, 30))
        print(wait(one.start("ingest", "no JSON", {100 + k: 0 for k in range(12)})))
        print(os.read(told, 99_999).decode(), end="")
    """)
    assert len(lines) == 2
    assert lines[0] == "4"
    assert "ingest cannot begin: too many open files: the limit is 30" in lines[1]


def test_the_end_waits_for_the_store_s_own_orphans_and_not_for_those_of_others() -> None:
    """As the first process of a container, which is given the orphans of everybody."""
    lines = owner("""
        def orphan(name):  # of somebody who ended at once
            command = ["bash", "-c", 'exec -a "$0" sleep "$1" >/dev/null & echo $!', name, "600"]
            pid = int(subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL).stdout)
            while not Path(f"/proc/{pid}/cmdline").read_text().startswith(name):
                time.sleep(0.01)
            return pid

        import subprocess, threading
        one = Nursery.fork("nursery", Path("/some/dir"))
        one.close()
        foreign = orphan("foreign")
        births.reap_all(600)
        print(Path(f"/proc/{foreign}").exists())
        own = [orphan("mstore: helpers"), orphan("python -m mstore.workers.providers /some/dir")]
        for pid in own:
            threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        births.reap_all(600)
        print([Path(f"/proc/{pid}").exists() for pid in own])
        os.kill(foreign, signal.SIGKILL)
        os.waitpid(foreign, 0)
        births.reap_all(600)  # nobody is left
    """)
    assert lines == ["True", "[False, False]"]


def test_a_thread_that_ends_while_children_are_listed_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "glob", lambda *_: [tmp_path / "children"])  # in /proc it has just gone
    assert births._children() == []


def test_orphans_are_buried_and_those_that_somebody_watches_are_left() -> None:
    lines = owner("""
        def dead(code):
            pid = os.fork()
            if not pid:
                os._exit(code)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            return pid

        stranger, watched = dead(1), dead(2)
        reap([watched])
        print(stranger in map(int, children()), watched in map(int, children()))
        print(os.waitstatus_to_exitcode(os.waitpid(watched, 0)[1]))
        reap([])
        reap([])
    """)
    assert lines == ["False True", "2"]


def test_a_nursery_that_does_not_answer_is_replaced_and_what_it_answers_later_is_nobody_s() -> None:
    lines = owner("""
        births._ANSWER_S_MAX = 1.0
        nursery.MAINS["test"] = lambda argument: 5
        one = Nursery.fork("nursery", Path("/some/dir"))
        stopped = int(children()[0])
        os.kill(stopped, signal.SIGSTOP)
        other = one.start("ingest", "no JSON", {})  # of one started by exec, which knows no "test"
        with_it = [int(pid) for pid in children() if int(pid) not in (other.pid, stopped)]
        print(wait(other), Path(f"/proc/{stopped}").exists(), len(with_it))

        # The new one does not answer either: as long as it takes to load is not waited for here.
        births._LOADED_S_MAX = 0.01
        os.kill(with_it[0], signal.SIGSTOP)
        try:
            one.start("ingest", "no JSON", {})
        except OSError as error:
            print(error)
        print(children())
        births._LOADED_S_MAX = 60.0
        again = one.start("ingest", "no JSON", {})
        print(wait(again))
    """)
    assert lines == ["4 False 1", "the process nursery does not answer", "[]", "4"]


def test_a_nursery_that_could_not_be_started_anew_is_tried_again_by_the_next_order() -> None:
    lines = owner("""
        def refuse(*_, **__):
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        one = Nursery.fork("nursery", Path("/some/dir"))
        for name in ("posix_spawn", "pidfd_open"):
            for pid in map(int, children()):
                os.kill(pid, signal.SIGKILL)
            real = getattr(os, name)
            setattr(os, name, refuse)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(2):
                try:
                    one.start("ingest", "no JSON", {})
                except OSError as error:
                    print(error.errno == errno.EAGAIN, children())
            print(len(os.listdir("/proc/self/fd")) <= before)
            setattr(os, name, real)
            print(wait(one.start("ingest", "no JSON", {})))
    """)
    assert lines == ["True []", "True []", "True", "4"] * 2


def test_a_fork_that_is_refused_leaves_no_descriptor_in_the_nursery() -> None:
    lines = owner("""
        def refused():
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        def fork_or_not(order, descriptors):
            os.fork = refused if order["main"] == "none" else real
            return start(order, descriptors)

        real, start, nursery._start = os.fork, nursery._start, fork_or_not
        nursery.MAINS["none"] = nursery.MAINS["test"] = lambda argument: 0
        one = Nursery.fork("nursery", Path("/some/dir"))
        pid = children()[0]

        def n_open():
            wait(one.start("test", "", {}))  # by now it is done with the order before
            time.sleep(0.1)
            return len(os.listdir(f"/proc/{pid}/fd"))

        before = n_open()
        for _ in range(3):
            try:
                one.start("none", "", {})
            except OSError as error:
                print(error)
        print(n_open() - before)
    """)
    assert len(lines) == 4
    assert all("too many processes and threads" in line for line in lines[:3])
    assert lines[3] == "0"


def test_the_death_of_the_process_between_costs_a_nursery_and_nothing_else() -> None:
    lines = owner("""
        def ended(order, descriptors, writing):
            os.kill(os.getpid(), signal.SIGKILL)

        nursery._fork_and_end = ended
        one = Nursery.fork("nursery", Path("/some/dir"))
        print(wait(one.start("ingest", "no JSON", {})), len(children()))
    """)
    assert lines == ["4 1"]


def test_an_owner_that_was_started_with_its_children_s_ends_ignored_hears_of_them() -> None:
    lines = owner("""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as whoever started it may have left it
        nursery.MAINS["test"] = lambda argument: 5
        print(wait(Nursery.fork("nursery", Path("/some/dir")).start("test", "", {})))
    """)
    assert lines == ["5"]


def test_what_the_owner_logged_is_not_among_a_forked_process_s_last_lines() -> None:
    lines = owner("""
        import logging
        from mstore.log import recent, set_up_logging

        def main(argument):
            set_up_logging("test")
            logging.warning("of the forked one")
            Path(argument).write_text("\\n".join(recent()))
            return 0

        set_up_logging("supervisor")
        logging.warning("of the owner")
        nursery.MAINS["test"] = main
        read, _ = os.pipe()
        one = Nursery.fork("nursery", Path("/some/dir"))
        fd = os.memfd_create("lines")
        wait(one.start("test", f"/proc/{os.getpid()}/fd/{fd}", {}))
        print(os.read(fd, 999).decode())
    """)
    assert len(lines) == 1, lines
    assert lines[0].endswith("of the forked one")


def test_a_forked_process_imports_nothing_from_where_the_operator_stands(tmp_path: Path) -> None:
    lines = owner(
        """
        def main(argument):
            try:
                import mine_alone
            except ImportError:
                return 0
            return 1

        os.chdir(sys.argv[1])
        Path("mine_alone.py").write_text("")
        nursery.MAINS["test"] = main
        print(repr(sys.path[0]), wait(Nursery.fork("nursery", Path("/some/dir")).start("test", "", {})))
    """,
        str(tmp_path),
    )
    assert lines == ["'' 0"]  # what -c put there; -m and a script put a directory there


def test_a_nursery_has_loaded_what_every_start_needs_and_no_more() -> None:
    lines = owner("""
        print([name for name in ("mstore.workers.query", "numpy", "uvloop") if name not in sys.modules])
        print([name for name in ("pyarrow", "pandas", "rich", "textual", "matplotlib") if name in sys.modules])
    """)
    assert lines == ["[]", "[]"]


def test_a_nursery_whose_owner_has_ended_meanwhile_ends_without_a_word() -> None:
    lines = owner("""
        import socket
        _, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if not pid:
            os.dup2(1, 2)
            nursery.serve(theirs, 1, "nursery", Path("/some/dir"), False)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """)
    assert lines == ["3"]
