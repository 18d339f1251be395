"""The pods of config/examples/kubernetes, without Kubernetes: each in a network of its own, with the container's
command, user, environment, volumes and a root that can't be written; brought up all at once and updated one at a time,
as a StatefulSet does it, while a client writes.

What a kubelet does is done here: the init container, probes, preStop, SIGTERM to process 1. A pod that comes back has
another address behind its name."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.conformance.foreign.hosts import BOATHOUSE, ROOT, Hosts
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MANIFESTS: Final = {
    (each["kind"], each["metadata"]["name"]): each
    for each in yaml.safe_load_all((ROOT / "config/examples/kubernetes/boathouse.yaml").read_text())
}
STATEFUL_SET: Final[Mapping[str, Any]] = MANIFESTS["StatefulSet", "boathouse"]["spec"]
POD: Final[Mapping[str, Any]] = STATEFUL_SET["template"]["spec"]
(CONTAINER,) = POD["containers"]
(INIT,) = POD["initContainers"]
CLUSTER: Final = MANIFESTS["ConfigMap", "boathouse"]["data"]["cluster.yaml"]
NAMES: Final = [f"boathouse-{ordinal}" for ordinal in range(STATEFUL_SET["replicas"])]
HOSTS: Final = {name: node["host"] for name, node in yaml.safe_load(CLUSTER)["nodes"].items()}
CLIENT: Final = "client"
USER: Final = POD["securityContext"]["runAsUser"]
START_S: Final = 100

_AS_A_POD: Final = """
set -e
{python}
for volume in data:/var/lib/boathouse etc:/etc/boathouse run:/run keys:/run/keys; do
    mount --bind "$HOST/${{volume%%:*}}" "${{volume#*:}}"
    test $volume != run:/run || mkdir -p /run/keys /run/boathouse /run/all-keys
done
mount --bind "$SHARED/secret" /run/all-keys
mount --bind "$HOST/hosts" /etc/hosts
chown {user}:{user} /run/boathouse && chmod 2777 /run/boathouse
mount -o remount,bind,ro /etc/boathouse && mount -o remount,bind,ro /run/all-keys
{tmp}
mount -o remount,bind,ro /
cd /var/lib/boathouse
unset HOST SHARED OLDPWD
exec setpriv --reuid={user} --regid={user} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def _readable_python() -> str:
    """Lines of a shell: the interpreter is reached by any user, also below a home that is closed to him."""
    base = Path(sys.base_prefix).resolve()
    closed = [folder for folder in reversed(base.parents) if not folder.stat().st_mode & 0o001]
    if not closed:
        return ""
    kept = '"$SHARED/python"'
    return (
        f"mkdir -p {kept} && mount --bind {base} {kept} && mount -t tmpfs -o mode=755 none {closed[0]} && "
        f"mkdir -p {base} && mount --bind {kept} {base}"
    )


class Pods(Hosts):
    """Hosts that are pods, and one that is none: the client."""

    def __init__(self) -> None:
        self._last = 10
        self._made: list[Path] = []
        super().__init__({name: self._next_address() for name in (*NAMES, CLIENT)})

    def _next_address(self) -> str:
        self._last += 1
        return f"10.78.0.{self._last}"

    def _remove(self) -> None:
        for pod in NAMES:
            if pod in self._started and (first := self._first(pod)):
                os.kill(first, signal.SIGKILL)  # it takes all of the pod with it
        super()._remove()
        while self._made:
            self._made.pop().rmdir()

    def _build(self) -> None:
        for place in map(Path, ("/var/lib/boathouse", "/etc/boathouse")):
            if not place.exists():  # to mount on; empty, and gone in the end
                place.mkdir()
                self._made.append(place)
        self.shared.chmod(0o755)
        super()._build()
        for name in (*NAMES, CLIENT):
            for volume in ("data", "keys", "tmp"):
                folder = self.folder(name, volume)
                folder.mkdir()
                folder.chmod(0o2777)  # as with an fsGroup
            self.folder(name, "etc").chmod(0o755)
            self.folder(name, "hosts").touch()
        self.resolve()

    def resolve(self) -> None:
        """Say to everybody who is where."""
        lines = [f"{self.addresses[name]} {host}\n" for name, host in HOSTS.items()]
        for name in (*NAMES, CLIENT):
            self.folder(name, "hosts").write_text("".join(["127.0.0.1 localhost\n", *lines]))

    def move(self, pod: str) -> None:
        """Give it another address, as each pod gets."""
        old, new = self.addresses[pod], self._next_address()
        self._ip_in(pod, "addr", "del", f"{old}/24", "dev", "eth0")
        self._ip_in(pod, "addr", "add", f"{new}/24", "dev", "eth0")
        self.addresses = {**self.addresses, pod: new}
        self.resolve()

    def _command(self, host: str, words: Sequence[str]) -> list[str]:
        if host == CLIENT:
            mounted = 'mount --bind "$HOST/hosts" /etc/hosts && exec "$@"'
            return ["ip", "netns", "exec", self._space(host), "sh", "-c", mounted, "sh", *words]
        # Below /tmp there may be the source, which an image has in it.
        tmp = "" if ROOT.is_relative_to("/tmp") else 'mount --bind "$HOST/tmp" /tmp'
        script = _AS_A_POD.format(user=USER, python=_readable_python(), tmp=tmp)
        unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--ipc"]
        return ["ip", "netns", "exec", self._space(host), *unshare, "sh", "-c", script, "sh", *words]

    def _environment(self, host: str, more: Mapping[str, str]) -> dict[str, str]:
        if host == CLIENT:
            return super()._environment(host, more)
        given = {
            each["name"]: each.get("value", host)  # the one without a value is the pod's name
            for each in CONTAINER["env"]
        }
        own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        return {**own, **given, "HOST": str(self.shared / host), "SHARED": str(self.shared)}

    # ---- what a kubelet does -----------------------------------------------------------------------------------

    def start_pod(self, pod: str) -> None:
        done = self.run(pod, *INIT["command"], *INIT["args"])
        assert done.returncode == 0, done.stderr
        words = [word.replace("$(NODE)", pod) for word in CONTAINER["args"]]
        self.start(pod, *BOATHOUSE, *words)

    def probe(self, pod: str, kind: str) -> str:
        """Empty if the probe succeeds, else what it was told."""
        asked = CONTAINER[kind]["httpGet"]
        port = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}[asked["port"]]
        url = f"{asked['scheme'].lower()}://{self.addresses[pod]}:{port}{asked['path']}"
        time_s = str(CONTAINER[kind]["timeoutSeconds"])
        done = self.run(CLIENT, "curl", "-sSk", "--max-time", time_s, "-w", "%{http_code}", url)
        return "" if done.stdout.endswith("200") else done.stdout + done.stderr

    def wait_ready(self, pod: str) -> None:
        """Until the probes say so."""

        def is_ready() -> bool:
            self.assert_runs(pod)
            said.append(self.probe(pod, "startupProbe") or self.probe(pod, "readinessProbe"))
            return not said[-1]

        said: list[str] = []
        try:
            wait_until(is_ready, timeout_s=START_S, what=f"{pod} to be ready", interval_s=1.0)
        except AssertionError as error:
            raise AssertionError(f"{error}: {said[-1]}{self._output(pod).read_text()}") from None

    def wait_available(self, pod: str) -> None:
        """Until it has been ready for as long as the update waits before it takes the next."""

        def has_stayed_ready() -> bool:
            assert not (unready := self.probe(pod, "readinessProbe")), f"{pod} was ready, and then: {unready}"
            return time.monotonic() >= until

        self.wait_ready(pod)
        least_s = float(STATEFUL_SET["minReadySeconds"])
        until = time.monotonic() + least_s
        wait_until(has_stayed_ready, timeout_s=2 * least_s, what=f"{pod} to stay ready", interval_s=1.0)

    def _first(self, pod: str) -> int:
        """Process 1 of a pod, by its number outside; 0 if that has ended."""
        outer = self._started[pod].pid
        with contextlib.suppress(FileNotFoundError):
            if inner := Path(f"/proc/{outer}/task/{outer}/children").read_text().split():
                return int(inner[0])
        return 0

    def assert_runs(self, pod: str) -> None:
        assert self._started[pod].poll() is None, self._output(pod).read_text()

    def stop_pod(self, pod: str) -> float:
        """As when it is deleted; how many seconds it took of its grace period."""
        begun_s = time.monotonic()
        hook = self.run(pod, *CONTAINER["lifecycle"]["preStop"]["exec"]["command"])
        assert hook.returncode == 0, hook.stderr
        first = self._first(pod)
        assert first, f"it has ended by itself: {self._output(pod).read_text()}"
        process = self._started.pop(pod)
        os.kill(first, signal.SIGTERM)
        try:
            assert process.wait(POD["terminationGracePeriodSeconds"]) == 0, self._output(pod).read_text()
        except subprocess.TimeoutExpired:
            pytest.fail(f"{pod} outlived its grace period: {self._output(pod).read_text()}")
        return time.monotonic() - begun_s


@pytest.fixture(name="pods")
def _pods() -> Iterator[Pods]:
    assert not str(ROOT).startswith("/run/"), "that is the pods' own"
    with Pods() as pods:
        yield pods


def _make_secret(pods: Pods) -> Path:
    """By the commands that the manifests' first lines say, into the Secret and the ConfigMap."""
    made = pods.shared / "made"
    made.mkdir()
    (made / "cluster.yaml").write_text(CLUSTER)
    for words in (["tls", "init", "--dir", str(made / "certs")], ["keygen", "--dir", str(made / "keys")]):
        done = pods.run(CLIENT, *BOATHOUSE, *words, BOATHOUSE_FILE=str(made / "cluster.yaml"))
        assert done.returncode == 0, done.stderr
    secret = pods.shared / "secret"
    secret.mkdir()
    for path in (*made.glob("certs/server*.pem"), *made.glob("keys/*")):
        shutil.copy(path, secret)
        shutil.chown(secret / path.name, 0, USER)
        (secret / path.name).chmod(0o440)  # the Secret's defaultMode, and the fsGroup
    for pod in NAMES:
        shutil.copy(made / "cluster.yaml", pods.folder(pod, "etc"))
    return made / "certs"


def test_pods_come_up_and_are_updated_one_at_a_time(pods: Pods) -> None:
    certs = _make_secret(pods)
    for pod in NAMES:  # all at once, as the podManagementPolicy says
        pods.start_pod(pod)
    for pod in NAMES:
        pods.wait_ready(pod)
    secured = {f"BOATHOUSE_{name.upper()}": str(certs / file) for name, file in (
        ("cacert", "ca.pem"), ("cert", "client.pem"), ("key", "client-key.pem"))}  # fmt: skip
    endpoints = ",".join(f"https://{host}:2379" for host in HOSTS.values())
    pods.start(CLIENT, sys.executable, "-m", "tests.conformance.foreign.writer", endpoints, **secured)
    took: dict[str, float] = {}
    for pod in reversed(NAMES):  # from the highest ordinal down
        took[pod] = pods.stop_pod(pod)
        assert pods.probe(pod, "readinessProbe")
        pods.move(pod)
        pods.start_pod(pod)
        pods.wait_available(pod)
        for other in NAMES:
            assert not pods.probe(other, "livenessProbe")
    seen = json.loads(pods.stop(CLIENT))
    print(f"{seen['written']} writes, slowest {seen['slowest_s']:.2f} s; pods stopped within {took} s")  # noqa: T201
    assert seen["failed"] == []
    assert seen["written"] > 100
    for pod in NAMES:  # the volumes hold a node each, for its user alone
        (folder,) = pods.folder(pod, "data").iterdir()
        assert (folder.name, folder.stat().st_uid, folder.stat().st_mode & 0o077) == (pod, USER, 0)
