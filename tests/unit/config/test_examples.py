"""Examples for systemd, Kubernetes and containers say what the product really has: ports, pages, paths and names.

That systemd takes the unit is tried by `make conformance`."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from cryptography import x509
from typer.testing import CliRunner

from config.loading import load, parse
from config.models import ClusterConfig, NodeConfig
from config.paths import RUNTIME_DIR_VARIABLE
from coordinator.services.readiness import Readiness
from coordinator.supervisor.refusal import StartRefused
from coordinator.supervisor.runtime_dir import RuntimeDir
from tools.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES: Final = Path(__file__).parents[3] / "config" / "examples"
ROOT: Final = Path(__file__).parents[3]
MANIFESTS: Final = list(yaml.safe_load_all((EXAMPLES / "kubernetes" / "boathouse.yaml").read_text()))
DEFAULTS: Final = NodeConfig(name="n1", id=1)


def _manifest(kind: str, name: str = "boathouse") -> dict[str, Any]:
    (found,) = [each for each in MANIFESTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return dict(found)


def _cluster() -> ClusterConfig:
    return parse(_manifest("ConfigMap")["data"]["cluster.yaml"], "ConfigMap")


STATEFUL_SET: Final = _manifest("StatefulSet")["spec"]
POD: Final = STATEFUL_SET["template"]["spec"]
(CONTAINER,) = POD["containers"]


# ---- Kubernetes -----------------------------------------------------------------------------------------------------


def test_pods_are_the_nodes_of_the_cluster_file() -> None:
    cluster, service = _cluster(), _manifest("Service")
    namespace = service["metadata"]["namespace"]
    assert STATEFUL_SET["replicas"] == len(cluster.nodes)
    assert STATEFUL_SET["serviceName"] == service["metadata"]["name"]
    for ordinal, (name, node) in enumerate(cluster.nodes.items()):
        assert name == f"boathouse-{ordinal}"
        assert node.host == f"{name}.{STATEFUL_SET['serviceName']}.{namespace}.svc.cluster.local"
        assert node.id == ordinal + 1, "written down: the order of lines may change"
    assert CONTAINER["args"] == ["up", "/etc/boathouse/cluster.yaml", "--node", "$(NODE)"]


def test_ports_are_those_that_are_bound() -> None:
    cluster = _cluster()
    for node in cluster.nodes.values():
        bound = {"client": node.client_port, "http": node.http_port}
        bound |= {f"shard-{shard}": node.peer_port + shard - 1 for shard in range(1, cluster.shards + 1)}
        assert {port["name"]: port["containerPort"] for port in CONTAINER["ports"]} == bound
        headless = _manifest("Service")["spec"]
        assert headless["clusterIP"] == "None"
        assert headless["publishNotReadyAddresses"] is True, "they need each other to become ready"
        assert {port["targetPort"]: port["port"] for port in headless["ports"]} == bound
    (clients,) = _manifest("Service", "boathouse-client")["spec"]["ports"]
    assert (clients["targetPort"], clients["port"]) == ("client", DEFAULTS.client_port)


def test_certificates_are_for_the_service_too(tmp_path: Path) -> None:
    """By the command that the manifests' first lines say."""
    text = (EXAMPLES / "kubernetes" / "boathouse.yaml").read_text()
    (words,) = re.findall(r"^#   boathouse tls init cluster.yaml (.*)$", text, re.MULTILINE)
    (tmp_path / "cluster.yaml").write_text(_manifest("ConfigMap")["data"]["cluster.yaml"])
    arguments = ["tls", "init", str(tmp_path / "cluster.yaml"), "--dir", str(tmp_path / "certs")]
    assert CliRunner().invoke(app, [*arguments, *words.split()]).exit_code == 0
    certificate = x509.load_pem_x509_certificate((tmp_path / "certs" / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    service = _manifest("Service", "boathouse-client")["metadata"]
    name = f"{service['name']}.{service['namespace']}.svc"
    wanted = {name, f"{name}.cluster.local", *(node.host for node in _cluster().nodes.values())}
    assert wanted <= set(names.get_values_for_type(x509.DNSName))


def test_clients_are_let_in_by_their_ports_and_nodes_by_all() -> None:
    policy = _manifest("NetworkPolicy")["spec"]
    assert policy["podSelector"] == STATEFUL_SET["selector"]
    nodes, clients = policy["ingress"]
    assert nodes == {"from": [{"podSelector": STATEFUL_SET["selector"]}]}
    assert [each["port"] for each in clients["ports"]] == ["client", "http"]


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_for_pages_that_are_served(probe: str) -> None:
    asked = CONTAINER[probe]["httpGet"]
    assert asked["port"] == "http"
    client = _cluster().tls.client
    assert client is not None
    assert asked["scheme"] == "HTTPS"
    assert not client.client_cert_auth, "a probe has no certificate to show"
    if probe == "readinessProbe":
        readiness = Readiness(None, None, None, None, None)  # type: ignore[arg-type]  # only the name of its page
        assert ("GET", asked["path"]) in readiness.pages
    else:
        assert asked["path"] == "/healthz", "a pod is not killed for one shard without a leader"


def test_a_rolling_update_takes_one_pod_at_a_time_and_drains_it() -> None:
    assert STATEFUL_SET["updateStrategy"] == {"type": "RollingUpdate"}
    assert STATEFUL_SET["podManagementPolicy"] == "Parallel", "alone the first pod never becomes ready"
    assert STATEFUL_SET["minReadySeconds"] > 0
    assert "preStop" in CONTAINER["lifecycle"]
    stop_s = _cluster().supervisor.stop_timeout_ms / 1000
    assert POD["terminationGracePeriodSeconds"] > 5 + 3 * stop_s
    budget = _manifest("PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["selector"]) == (1, STATEFUL_SET["selector"])
    assert STATEFUL_SET["selector"]["matchLabels"] == STATEFUL_SET["template"]["metadata"]["labels"]


def test_every_path_is_on_a_volume_and_every_volume_is_there() -> None:
    volumes = {volume["name"] for volume in POD["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in STATEFUL_SET["volumeClaimTemplates"]}
    for container in (CONTAINER, *POD["initContainers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    cluster = _cluster()
    assert mounts[str(cluster.data_dir)]["name"] == "data"
    assert cluster.tls.client is not None
    assert cluster.tls.peer is not None
    for path in (cluster.tls.client.key, cluster.tls.client.cert, cluster.tls.peer.keys / "x"):
        assert mounts[str(path.parent)]["readOnly"] is True
    environment = {each["name"]: each.get("value") for each in CONTAINER["env"]}
    assert str(Path(environment[RUNTIME_DIR_VARIABLE]).parent) in mounts
    assert mounts["/etc/boathouse"]["name"] == "config"


@pytest.fixture
def pod() -> Iterator[Path]:
    """A folder that another user can reach, and in it emptyDirs as an fsGroup makes them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for path in ("boathouse", "keys", "all-keys"):
            (folder / path).mkdir()
            if os.getuid() == 0:
                os.chown(folder / path, 0, POD["securityContext"]["fsGroup"])
            (folder / path).chmod(0o2777)
        yield folder


def as_in_the_pod() -> dict[str, Any]:
    """Of whom the pod's processes are. Whoever can't choose runs them as he is: the modes are the same."""
    context = POD["securityContext"]
    if os.getuid() != 0:
        return {}
    return {
        "user": context["runAsUser"],
        "group": context["runAsGroup"],
        "extra_groups": [context["fsGroup"]],
    }


def test_sockets_find_a_folder_of_their_own_on_a_volume_for_a_group(
    pod: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (value,) = [each["value"] for each in CONTAINER["env"] if each["name"] == RUNTIME_DIR_VARIABLE]
    monkeypatch.setenv(RUNTIME_DIR_VARIABLE, value.replace("/run", str(pod), 1))
    runtime_dir = RuntimeDir(_cluster())
    runtime_dir.prepare()
    runtime_dir.release()
    assert [path.stat().st_mode & 0o777 for path in (pod / "boathouse").rglob("*")] == [0o700, 0o700]
    monkeypatch.setenv(RUNTIME_DIR_VARIABLE, str(pod / "boathouse"))
    with pytest.raises(StartRefused, match="is not this user's alone"):
        RuntimeDir(_cluster()).prepare()


def test_keys_are_copied_for_the_node_alone_and_again_when_the_machine_was_restarted(pod: Path) -> None:
    (init,) = POD["initContainers"]
    (script,) = init["args"]
    names = ["server.pem", "server-key.pem", "boathouse-0.public", "boathouse-1.public", "boathouse-0.secret"]
    for content in ("first", "second"):
        for name in (*names, "boathouse-1.secret"):
            (pod / "all-keys" / name).write_text(content)
            (pod / "all-keys" / name).chmod(0o440)
            if os.getuid() == 0:
                os.chown(pod / "all-keys" / name, 0, POD["securityContext"]["fsGroup"])
        subprocess.run(
            [*init["command"], script.replace("/run/", f"{pod}/")],
            env={**os.environ, "NODE": "boathouse-0"},
            check=True,
            timeout=30,
            **as_in_the_pod(),
        )
        copied = {path.name: path for path in (pod / "keys").iterdir()}
        assert sorted(copied) == sorted(names)
        assert {path.read_text() for path in copied.values()} == {content}
        assert {path.stat().st_mode & 0o777 for path in copied.values()} == {0o400}
        for path in (pod / "all-keys").iterdir():
            path.unlink()


# ---- systemd --------------------------------------------------------------------------------------------------------


def _unit() -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser(strict=False, delimiters=["="])
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(EXAMPLES / "systemd" / "boathouse@.service")
    return unit


def test_the_unit_and_its_cluster_file_agree() -> None:
    service = _unit()["Service"]
    words = shlex.split(service["ExecStart"])
    assert [
        words[0].rpartition("/")[2],
        *words[1:],
    ] == "boathouse up /etc/boathouse/cluster.yaml --node %i".split()
    cluster = load(EXAMPLES / "systemd" / "cluster.yaml")
    assert str(cluster.data_dir) == f"/var/lib/{service['StateDirectory']}"
    assert service["Environment"] == f"{RUNTIME_DIR_VARIABLE}=/run/{service['RuntimeDirectory']}"
    assert service["StateDirectoryMode"] == service["RuntimeDirectoryMode"] == "0700"
    assert service["OOMPolicy"] == "continue", "a killed process is the supervisor's business"
    assert service["KillMode"] == "mixed", "the supervisor stops its processes itself, in order"
    assert int(service["TimeoutStopSec"].removesuffix("s")) > 3 * cluster.supervisor.stop_timeout_ms / 1000
    assert len({node.host for node in cluster.nodes.values()}) == len(cluster.nodes)


# ---- container ------------------------------------------------------------------------------------------------------


def test_the_container_copies_what_there_is_and_exposes_what_is_bound() -> None:
    text = (EXAMPLES / "container" / "Containerfile").read_text()
    copied = [
        word for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for word in line.split()
    ]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert {"config", "coordinator", "proto", "shardworker", "tools"} <= set(copied)
    (exposed,) = re.findall(r"^EXPOSE (.*)$", text, re.MULTILINE)
    last = DEFAULTS.peer_port + _cluster().shards - 1
    assert exposed == f"{DEFAULTS.client_port} {DEFAULTS.http_port} {DEFAULTS.peer_port}-{last}"
    (user,) = re.findall(r"^USER (.*)$", text, re.MULTILINE)
    context = POD["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert f"ENV {RUNTIME_DIR_VARIABLE}=/run/boathouse" in text
    image = CONTAINER["image"]
    assert f"-t {image} " in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert image == f"{project['name']}:{project['version']}"


def test_the_lock_without_hashes_is_plain_constraints(tmp_path: Path) -> None:
    """As the Containerfile's sed makes them."""
    kept = [
        re.sub(r" \\$", "", line)
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if not re.match(r" *(--hash|#)", line)
    ]
    assert [line for line in kept if line and not re.fullmatch(r"[\w.-]+==[\w.+-]+( ; .*)?", line)] == []
