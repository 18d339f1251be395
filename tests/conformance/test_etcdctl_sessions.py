"""Sessions of the real etcdctl, command by command, on a fresh etcd and a fresh boathouse: each prints the same on
both, but for ids, terms, sizes and times.

A line is what a person types. `=> NAME` keeps the first id that it prints, for `{NAME}` in later ones; what follows
`<<<` is given to it, with `\\n` for the ends of lines."""

from __future__ import annotations

import os
import queue
import re
import shlex
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

import pytest

from tests.conformance.conftest import PATIENCE, running
from tests.conformance.versions import FORGETS_WHO_LEARNS, GOES_BACK_TO_ITS_OWN_PAST, TELLS_EVERYBODY_OF_AUTH
from tools.bench import systems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.bench.systems import System

COMMAND_S: Final = 30
KV: Final = r"""
put a 1
put a 2 --prev-kv
put a 3 --prev-kv -w fields
put a --ignore-value
put missing --ignore-value
put a --ignore-value --ignore-lease
put b <<< from stdin
put "two words" "\u00e4"
put "" x
put x
put -w json c 3
get a
get a -w json
get a -w fields
get a -w json --hex
get a --hex
get a c
get a c --limit 1
get "" --prefix --keys-only
get "" --from-key --print-value-only
get b --from-key --keys-only
get a --prefix --count-only
get a --prefix --count-only -w fields
get "" --prefix --sort-by VALUE --order DESCEND
get "" --prefix --sort-by MODIFY --order ASCEND --keys-only
get "" --prefix --sort-by CREATE --order DESCEND --limit 2 -w json
get "" --prefix --sort-by VERSION --order DESCEND --keys-only
get "" --prefix --sort-by nothing
get a --order sideways
get a --consistency s
get a --consistency x
get a --rev 2
get a --rev 1000
get a b --prefix
get a --prefix --from-key
get
del
del nothing
del a --prev-kv
put a 1
del a c --prev-kv -w fields
put p1 1
put p2 2
del p --prefix -w json
put z 1
del y --from-key
put a 1
txn <<< value("a") = "1"\n\nput a 2\nget a\ndel nothing\n\nput a 3\n\n
txn <<< value("a") = "1"\n\nput a 2\n\nget a\nput b 5\n\n
txn -i <<< mod("a") > "0"\n\nput a "3"\n\nput a "4"\n\n
txn -w json <<< create("new") = "0"\nver("a") > "1"\n\nput new 1\n\n\n
txn -w fields <<< c("a") != "0"\n\nget a\n\n\n
txn <<< nonsense\n\n\n\n
compaction 5
compaction 5
compaction 6 --physical
compaction 100000
compaction
compaction five
get a --rev 3
endpoint hashkv
endpoint hashkv --rev 8
endpoint hashkv --rev 100000
lock l echo held
lock l --ttl 5 sh -c "exit 3"
elect e v sh
"""

LEASES: Final = r"""
lease grant 100 => L
lease grant
lease grant x
lease grant 9000000001
put k 1 --lease {L}
put k2 1 --lease {L}
put k --ignore-lease --ignore-value
put k 2 --ignore-lease
get k -w fields
lease timetolive {L}
lease timetolive {L} --keys
lease timetolive {L} --keys -w json
lease timetolive {L} -w fields
lease list
lease list -w json
lease keep-alive --once {L}
lease keep-alive --once {L} -w json
lease grant 50 -w fields
lease revoke {L}
get k
lease revoke {L}
lease timetolive {L}
lease keep-alive --once {L}
put k 1 --lease 1234
put k 1 --lease nothex
lease revoke
lease timetolive
"""

USERS: Final = r"""
auth status
auth status -w json
auth enable
user list
user add root:rootpw
user add alice <<< alicepw\n
user add alice:again
user add bob:bobpw
user add guest --no-password
user add ":pw"
user list
user list -w json
user get alice
user get nobody
user passwd alice --interactive=false <<< newpw\n
user passwd nobody --interactive=false <<< newpw\n
role add reader
role add reader
role add writer
role list
role get reader
role get nothing
role grant-permission reader read public
role grant-permission reader read from to
role grant-permission reader readwrite dir/ --prefix
role grant-permission reader write zz --from-key
role grant-permission reader sideways k
role grant-permission nothing read k
role get reader
role get reader -w json
role get reader -w fields
role revoke-permission reader from to
role revoke-permission reader from to
role revoke-permission reader dir/ --prefix
user grant-role alice reader
user grant-role alice nothing
user grant-role nobody reader
user grant-role alice writer
user revoke-role alice writer
user revoke-role alice writer
user get alice --detail
user grant-role root root
auth enable
auth status
get public
--user alice:wrong get public
--user alice:newpw get public
--user alice:newpw get secret
--user alice:newpw put public x
--user alice:newpw put zzz 1
--user alice:newpw --password newpw get public
--user alice --password newpw get public
--user bob:bobpw get public
--user guest get public
--user nobody:x get public
--user root:rootpw put public 1
--user alice:newpw get public
--user alice:newpw user list
--user alice:newpw user get alice
--user alice:newpw role get reader
--user alice:newpw auth disable
--user alice:newpw endpoint health
--user root:rootpw auth status
--user root:rootpw user delete root
--user root:rootpw role delete root
--user root:rootpw user revoke-role root root
--user root:rootpw role delete reader
--user root:rootpw user get alice
--user root:rootpw user delete alice
--user root:rootpw auth disable
auth status
user delete bob
user delete nobody
role delete nothing
role delete writer
role list
"""

CLUSTER: Final = r"""
version
endpoint health
endpoint health --cluster
endpoint health -w fields
endpoint status -w table
endpoint status -w fields
endpoint status -w json
endpoint hashkv -w table
endpoint hashkv -w fields
alarm list
alarm list -w json
alarm disarm
defrag
defrag --cluster
member list
member list -w table
member list -w fields
move-leader
move-leader 1234
move-leader nothex
downgrade validate
downgrade validate 3.4
downgrade validate 3.4.7
downgrade validate 3.5
downgrade validate old
downgrade enable 3.3
downgrade enable old
downgrade cancel
snapshot save
snapshot restore
check
nonsense
get --nonsense
get a --endpoints 127.0.0.1:1 --command-timeout 500ms --dial-timeout 200ms
"""

MEMBERS: Final = r"""
member list => SELF
member list -w json
member add
member add other
member add other --peer-urls=nonsense
member add other --peer-urls=http://127.0.0.1:1/path
member add other --peer-urls=ftp://127.0.0.1:1
member remove
member remove nothex
member remove 1234
member update
member update 1234 --peer-urls=http://127.0.0.1:1
member update {SELF}
member promote
member promote 1234
member promote {SELF}
member remove {SELF}
member add learner --learner --peer-urls=http://127.0.0.1:1 => OTHER
member list
member list -w table
member list -w fields
member add another --learner --peer-urls=http://127.0.0.1:2
member add another --learner --peer-urls=http://127.0.0.1:1,http://127.0.0.1:2
member promote {OTHER}
member update {OTHER} --peer-urls=http://127.0.0.1:3
member update {OTHER} --peer-urls=http://127.0.0.1:3,http://127.0.0.1:4
member list
endpoint status --cluster -w json
put while it is away
member remove {OTHER}
member remove {OTHER}
member update {SELF} --peer-urls=http://127.0.0.1:5
member list
"""

SESSIONS: Final = {"kv": KV, "leases": LEASES, "users": USERS, "cluster": CLUSTER, "members": MEMBERS}

DIFFERENT: Final = {
    "auth status": TELLS_EVERYBODY_OF_AUTH,
    "downgrade validate 3": GOES_BACK_TO_ITS_OWN_PAST,
    "downgrade cancel": GOES_BACK_TO_ITS_OWN_PAST,
    "member update {OTHER}": FORGETS_WHO_LEARNS,
}
"""Lines that are left out, by what is in them, where the etcd at hand does otherwise."""

BY_ID: Final = ("member list", "member add")
"""What tells of members in the order of their ids, which are drawn."""


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, System]]:
    etcd = systems.Etcd(tmp_path_factory.mktemp("etcd"), 1, prefix="n")
    folder = tmp_path_factory.mktemp("boathouse")
    boathouse = systems.Boathouse(folder, nodes=1, shards=1, replicas=1, tables=("default",))
    with running(etcd), running(boathouse):
        yield etcd, boathouse


@pytest.mark.parametrize("session", list(SESSIONS))
def test_each_command_prints_the_same(pair: tuple[System, System], session: str) -> None:
    sides: list[tuple[str, dict[str, str]]] = [(system.endpoints[0], {}) for system in pair]
    differing = {}
    with ThreadPoolExecutor(len(sides)) as both:
        for line in SESSIONS[session].strip().splitlines():
            if any(words in line and difference.is_met for words, difference in DIFFERENT.items()):
                continue
            theirs, ours = both.map(lambda side, line=line: said(side[0], line, side[1]), sides)
            if line.startswith(BY_ID):
                theirs, ours = words(theirs), words(ours)
            if ours != theirs:
                differing[line] = (theirs, ours)
    assert differing == {}


def words(text: str) -> str:
    """In an order of their own."""
    return " ".join(sorted(re.split(r'[\s,"]+', text)))


@pytest.mark.long
def test_what_goes_on_prints_the_same(pair: tuple[System, System]) -> None:
    """A lease that is kept alive, a listener of an election, and a lock that one has and another waits for."""
    with ThreadPoolExecutor(len(pair)) as both:
        theirs, ours = both.map(lambda system: what_goes_on(system.endpoints[0]), pair)
    assert ours == theirs


def what_goes_on(endpoint: str) -> list[str]:
    """Everything that was printed, and how each command ended."""
    kept: dict[str, str] = {}
    told = [said(endpoint, "lease grant 3 => L", kept)]
    with Running(endpoint, "lease", "keep-alive", kept["L"]) as keeping:
        told += [keeping.line(), keeping.line()]
        told.append(said(endpoint, "lease revoke {L}", kept))
        told += [keeping.line(), *keeping.end()]
    with Running(endpoint, "elect", "--listen", "e") as listening:
        for value in ("first", "second"):
            with Running(endpoint, "elect", "e", value) as leading:
                told += [leading.line(), leading.line(), listening.line(), listening.line()]
                told += leading.end(signal.SIGINT)
        told += listening.end(signal.SIGINT)
    with Running(endpoint, "lock", "l") as holding:
        told.append(holding.line())
        with Running(endpoint, "lock", "l", "echo", "mine") as waiting:
            assert waiting.is_quiet()
            told += holding.end(signal.SIGINT)
            told += [waiting.line(), *waiting.end()]
    return [re.sub(r"\b[0-9a-f]{14,16}\b", "LEASE", line) for line in told]


class Running:
    """An etcdctl that goes on by itself."""

    def __init__(self, endpoint: str, *words: str) -> None:
        self._process = subprocess.Popen(
            [str(systems.etcd_program("etcdctl")), *PATIENCE, "--endpoints", endpoint, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "ETCDCTL_API": "3"},
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.startswith('{"level"'):  # what the client's own log says
                self._lines.put(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def line(self) -> str:
        """The next one that it prints."""
        return self._lines.get(timeout=COMMAND_S)

    def is_quiet(self) -> bool:
        """Whether it prints nothing for as long as it takes to begin."""
        try:
            self._lines.get(timeout=1)
        except queue.Empty:
            return True
        return False

    def end(self, by: signal.Signals | None = None) -> list[str]:
        """What it still printed until it had ended, and its exit code."""
        if by is not None:
            self._process.send_signal(by)
        code = self._process.wait(COMMAND_S)
        self._reader.join()
        rest = []
        while not self._lines.empty():
            rest.append(self._lines.get())
        return [*rest, str(code)]


def said(endpoint: str, line: str, kept: dict[str, str]) -> str:
    """Everything that a command prints, and its exit code, without what differs between any two clusters."""
    typed, _, given = line.partition(" <<< ")
    typed, _, name = typed.partition(" => ")
    for each, value in kept.items():
        typed = typed.replace(f"{{{each}}}", value)
    done = subprocess.run(
        [str(systems.etcd_program("etcdctl")), *_endpoints(typed, endpoint), *PATIENCE, *shlex.split(typed)],
        input=given.replace("\\n", "\n"),
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
        env={**os.environ, "ETCDCTL_API": "3"},
    )
    if name:
        found = re.search(r"\b[0-9a-f]{12,16}\b", done.stdout)
        assert found is not None, done
        kept[name] = found[0]
    printed = f"{done.stdout}--- {done.stderr}--- {done.returncode}"
    for value in kept.values():
        printed = printed.replace(value, "LEASE").replace(str(int(value, 16)), "LEASE")
    return alike(printed.replace(endpoint, "ENDPOINT"))


def _endpoints(typed: str, endpoint: str) -> list[str]:
    return [] if "--endpoints" in typed else ["--endpoints", endpoint]


def alike(printed: str) -> str:
    """Ids, terms, sizes, versions and times under one name each."""
    for pattern, name in (
        (r'("(?:cluster_id|member_id|ID|leader|raft_term|raftTerm)":)\d+', r"\1N"),
        (r'("(?:dbSize|dbSizeInUse|raftIndex|raftAppliedIndex)":)\d+', r"\1N"),
        (
            r'("(?:ClusterID|MemberID|ID|Leader|RaftTerm|DBSize|DBSizeInUse|RaftIndex|RaftAppliedIndex)" :) \d+',
            r"\1 N",
        ),
        (r"\{\"level\".*\}\n", ""),  # what the client's own log says has addresses and times in it
        (r"\b[0-9a-f]{14,16}\b", "ID"),
        (r"\b3\.[5-7]\.\d+\b", "VERSION"),
        (r"\b\d+(\.\d+)? ?(µs|ms|s|kB|MB|B)\b", "SIZE"),
        (r"http://127\.0\.0\.1:\d+", "URL"),
        (r"remaining\(\d+s\)", "remaining(N)"),
        (r'"ttl":\d+', '"ttl":N'),
        (r'"TTL" : \d+', '"TTL" : N'),
        (r"-{3,}", "--"),
        (r" +", " "),
        (r"\| \d+ (?=\|)", "| N "),
    ):
        printed = re.sub(pattern, name, printed)
    # etcd tells a lease's keys in any order.
    return re.sub(
        r'(?<=attached keys\(\[)[^]]*|(?<="keys":\[)[^]]*',
        lambda keys: " ".join(sorted(re.split("[ ,]", keys[0]))),
        printed,
    )
