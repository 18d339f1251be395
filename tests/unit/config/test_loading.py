"""Each way to get a cluster file wrong: the line it names and the words it finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config import ClusterConfig, ConfigError, ProcessSpec
from config.loading import FILE_BYTES_MAX, load, parse

EXAMPLES = sorted((Path(__file__).parents[3] / "config" / "examples").glob("*.yaml"))

THREE = """\
cluster: demo
nodes:
  n1: {client_port: 2379, http_port: 8079, peer_port: 7101}
  n2: {client_port: 2389, http_port: 8089, peer_port: 7201}
  n3: {client_port: 2399, http_port: 8099, peer_port: 7301}
shards: 4
replicas: 3
"""

ONE = "nodes:\n  n1: {}\n"

BAD = {
    "empty file": ("", "f.yaml: is empty; a cluster needs at least `nodes:`"),
    "comments only": ("# nothing\n", "f.yaml: is empty; a cluster needs at least `nodes:`"),
    "a list": ("- n1\n", "f.yaml:1: must be a mapping with `nodes:` in it"),
    "no nodes": ("cluster: demo\n", "f.yaml:1: nodes: is missing; write it"),
    "empty nodes": ("cluster: demo\nnodes: {}\n", "f.yaml:2: nodes: a cluster needs at least one node"),
    "nodes as a list": (
        "nodes: [n1]\n",
        "f.yaml:1: nodes: must be a mapping of keys to values, is a list",
    ),
    "unknown key at the top": (
        "shard: 4\n" + ONE,
        "f.yaml:1: shard: unknown key; did you mean shards?",
    ),
    "unknown key in a node": (
        "nodes:\n  n1:\n    client_prt: 2379\n",
        "f.yaml:3: nodes.n1.client_prt: unknown key; did you mean client_port?",
    ),
    "unknown key like none": (
        ONE + "tables:\n  default:\n    colour: red\n",
        (
            "f.yaml:5: tables.default.colour: unknown key; known here: shard, history, type, owner, client_port,"
            " client_socket, users, quota, compaction"
        ),
    ),
    "unknown key in a section": (
        ONE + "raft:\n  tick: 100\n",
        "f.yaml:4: raft.tick: unknown key; did you mean tick_ms?",
    ),
    "unknown key of watches": (
        ONE + "watch:\n  progress_interval: 100\n",
        "f.yaml:4: watch.progress_interval: unknown key; did you mean progress_interval_ms?",
    ),
    "unknown key of signed tokens": (
        ONE + "auth:\n  jwt: {sign_method: RS256, privat_key: k.pem}\n",
        "f.yaml:4: auth.jwt.privat_key: unknown key; did you mean private_key?",
    ),
    "signed tokens without a key": (
        ONE + "auth:\n  jwt: {sign_method: RS256}\n",
        "f.yaml:4: auth.jwt: needs a private_key, or the public_key of who signs elsewhere",
    ),
    "key written twice": (
        "nodes:\n  n1: {}\n  n2: {}\n  n1: {}\n",
        "f.yaml:4: nodes.n1: is written twice, first on line 2; remove one",
    ),
    "key that is no text": (
        "nodes:\n  no: {}\n",
        "f.yaml:2: nodes.False: a key must be text; put it in quotes",
    ),
    "text for a number": (
        "nodes:\n  n1:\n    client_port: http\n",
        "f.yaml:3: nodes.n1.client_port: must be a whole number, is the text 'http'",
    ),
    "quoted number": (
        ONE + 'shards: "4"\n',
        "f.yaml:3: shards: must be a whole number, is the text '4'",
    ),
    "fraction": (ONE + "shards: 2.5\n", "f.yaml:3: shards: must be a whole number, is 2.5"),
    "true for a number": (ONE + "shards: true\n", "f.yaml:3: shards: must be a whole number, is true"),
    "nothing for a number": (ONE + "shards:\n", "f.yaml:3: shards: must be a whole number, is empty"),
    "number for text": ("cluster: 7\n" + ONE, "f.yaml:1: cluster: must be text, is 7"),
    "port over the range": (
        "nodes:\n  n1:\n    client_port: 70000\n",
        "f.yaml:3: nodes.n1.client_port: must be at most 65535, is 70000",
    ),
    "port zero": (
        "nodes:\n  n1: {client_port: 0}\n",
        "f.yaml:2: nodes.n1.client_port: must be at least 1, is 0",
    ),
    "no shards": (ONE + "shards: 0\n", "f.yaml:3: shards: must be at least 1, is 0"),
    "too many shards": (ONE + "shards: 1000\n", "f.yaml:3: shards: must be at most 256, is 1000"),
    "negative limit": (
        ONE + "limits: {txn_ops_max: -1}\n",
        "f.yaml:3: limits.txn_ops_max: must be at least 1, is -1",
    ),
    "taken client port": (
        THREE.replace("2389", "2379"),
        "f.yaml:4: nodes.n2.client_port: 2379 is already used by nodes.n1.client_port; choose another port",
    ),
    "client port taken by http": (
        "nodes:\n  n1:\n    client_port: 8079\n    http_port: 8079\n",
        "f.yaml:4: nodes.n1.http_port: 8079 is already used by nodes.n1.client_port; choose another port",
    ),
    "peer ports that overlap": (
        THREE.replace("7201", "7104"),
        (
            "f.yaml:4: nodes.n2.peer_port: 7104..7107, one port per shard, overlaps 7101..7104, one port per shard, "
            "of nodes.n1.peer_port; choose another port"
        ),
    ),
    "port inside another node's peer ports": (
        THREE.replace("2399", "7202"),
        (
            "f.yaml:5: nodes.n3.client_port: 7202 overlaps 7201..7204, one port per shard, of nodes.n2.peer_port; "
            "choose another port"
        ),
    ),
    "localhost is 127.0.0.1": (
        THREE.replace("{client_port: 2389", "{host: localhost, client_port: 2379"),
        "f.yaml:4: nodes.n2.client_port: 2379 is already used by nodes.n1.client_port; choose another port",
    ),
    "peer ports past the last": (
        "nodes:\n  n1: {peer_port: 65534}\nshards: 4\n",
        "f.yaml:2: nodes.n1.peer_port: 65534..65537 goes past 65535, one port per shard; choose a lower port",
    ),
    "more replicas than nodes": (
        ONE + "replicas: 3\n",
        "f.yaml:3: replicas: 3 replicas of a shard need 3 nodes, and there is 1 node; add nodes or lower replicas",
    ),
    "even replicas": (
        THREE.replace("replicas: 3", "replicas: 2"),
        "f.yaml:7: replicas: 2 replicas survive no more failures than 1 and need a larger majority; use an odd number",
    ),
    "table on no shard": (
        THREE + "tables:\n  users: {shard: 5}\n",
        "f.yaml:9: tables.users.shard: there is no shard 5; this cluster has shards 1 to 4",
    ),
    "a user of two tables": (
        ONE + "tables:\n  one: {users: [web]}\n  other: {users: [batch, web]}\n",
        "f.yaml:5: tables.other.users: web means tables.one already; name a user in one table",
    ),
    "reserved table name": (
        ONE + "tables:\n  _catalog: {}\n",
        "f.yaml:4: tables._catalog: names that begin with _ are reserved for boathouse itself; choose another name",
    ),
    "table name with a slash": (
        ONE + "tables:\n  a/b: {}\n",
        "f.yaml:4: tables.a/b: a table name has no / and no control characters; choose another name",
    ),
    "empty table name": (ONE + 'tables:\n  "": {}\n', "f.yaml:4: tables.: a table needs a name"),
    "long table name": (
        ONE + f"tables:\n  {'t' * 256}: {{}}\n",
        f"f.yaml:4: tables.{'t' * 256}: a table name has at most 255 bytes",
    ),
    "history of nothing": (
        ONE + "tables:\n  t: {history: 0}\n",
        "f.yaml:4: tables.t.history: must be all, none, or a number of revisions from 1",
    ),
    "history of a word": (
        ONE + "tables:\n  t: {history: some}\n",
        "f.yaml:4: tables.t.history: must be all, none, or a number of revisions from 1",
    ),
    "history of yes": (
        ONE + "tables:\n  t: {history: true}\n",
        "f.yaml:4: tables.t.history: must be all, none, or a number of revisions from 1",
    ),
    "node name with a slash": (
        "nodes:\n  a/b: {}\n",
        "f.yaml:2: nodes.a/b: a node name is 1 to 32 letters, digits, - _ and ., and begins with a letter or digit",
    ),
    "node name like a shard": (
        "nodes:\n  shard-2: {}\n",
        "f.yaml:2: nodes.shard-2: the command line takes shard-N for a shard; choose another node name",
    ),
    "node renamed inside": (
        "nodes:\n  n1: {name: n2}\n",
        "f.yaml:2: nodes.n1.name: a node's name is its key; remove name: n2",
    ),
    "cluster name with a blank": (
        "cluster: my cluster\n" + ONE,
        "f.yaml:1: cluster: a cluster name is 1 to 64 letters, digits, - _ and ., and begins with a letter or digit",
    ),
    "one id twice": (
        THREE.replace("n3: {", "n3: {id: 1, "),
        "f.yaml:5: nodes.n3.id: 1 is already the id of nodes.n1; give every node its own",
    ),
    "wildcard host among several": (
        THREE.replace("n2: {", "n2: {host: 0.0.0.0, ") + "insecure: true\n",
        "f.yaml:4: nodes.n2.host: 0.0.0.0 is no address that other nodes can reach; write the node's own address",
    ),
    "host that is none": (
        "nodes:\n  n1: {host: http://x}\ninsecure: true\n",
        "f.yaml:2: nodes.n1.host: 'http://x' is neither an IP address nor a host name",
    ),
    "reachable by others, without TLS": (
        "nodes:\n  n1:\n    host: 10.0.0.1\n",
        (
            "f.yaml:3: nodes.n1.host: 10.0.0.1 can be reached by others, and there is no tls.client and no tls.peer; "
            "`boathouse tls init` and `boathouse keygen` make what they need, or write insecure: true to do without"
        ),
    ),
    "reachable by others, with half of it": (
        "nodes:\n  n1:\n    host: 10.0.0.1\ntls:\n  client: {cert: c, key: k}\n",
        (
            "f.yaml:3: nodes.n1.host: 10.0.0.1 can be reached by others, and there is no tls.peer; `boathouse tls "
            "init` and `boathouse keygen` make what they need, or write insecure: true to do without"
        ),
    ),
    "an unknown key of watches": (
        ONE + "watch:\n  progress_ms: 1\n",
        "f.yaml:4: watch.progress_ms: unknown key; did you mean progress_interval_ms?",
    ),
    "an unknown key of TLS": (
        ONE + "tls:\n  client:\n    cert: c\n    key: k\n    cacert: a\n",
        "f.yaml:7: tls.client.cacert: unknown key; did you mean cert?",
    ),
    "a certificate without its key": (
        ONE + "tls:\n  client:\n    cert: c\n",
        "f.yaml:4: tls.client.key: is missing; write it",
    ),
    "client certificates of nobody": (
        ONE + "tls:\n  client:\n    cert: c\n    key: k\n    client_cert_auth: true\n",
        (
            "f.yaml:7: tls.client.client_cert_auth: there is nothing to check certificates against; "
            "name the authority as ca"
        ),
    ),
    "an authority that is not asked": (
        ONE + "tls:\n  client:\n    cert: c\n    key: k\n    ca: a\n",
        "f.yaml:7: tls.client.ca: no certificate is asked for; write client_cert_auth: true, or remove ca",
    ),
    "a name of nobody": (
        ONE + "tls:\n  client:\n    cert: c\n    key: k\n    allowed_cn: ann\n",
        "f.yaml:7: tls.client.allowed_cn: no certificate is asked for; write client_cert_auth: true and ca",
    ),
    "two ways to name who may connect": (
        ONE + "tls:\n  client:\n    cert: c\n    key: k\n    ca: a\n    client_cert_auth: true\n"
        "    allowed_cn: ann\n    allowed_hostname: ann.example\n",
        "f.yaml:10: tls.client.allowed_hostname: allowed_cn is there, too; choose one",
    ),
    "election before heartbeat": (
        ONE + "raft:\n  heartbeat_ticks: 10\n",
        (
            "f.yaml:3: raft.election_ticks: 10 is not above heartbeat_ticks (10): followers would campaign against a "
            "living leader; raise it"
        ),
    ),
    "back-off the wrong way round": (
        ONE + "supervisor:\n  backoff_max_ms: 50\n",
        "f.yaml:4: supervisor.backoff_max_ms: 50 is below backoff_min_ms (100); raise it",
    ),
    "follows itself": (
        "cluster: a\n" + ONE + "follows:\n  cluster: a\n  endpoints: [localhost:1]\n",
        "f.yaml:5: follows.cluster: a cluster can't follow itself; name the leader cluster",
    ),
    "follows no address": (
        ONE + "follows:\n  cluster: a\n  endpoints:\n    - localhost:1\n    - y\n",
        "f.yaml:7: follows.endpoints.1: 'y' is not host:port",
    ),
    "follows in the clear over a network": (
        ONE + "follows:\n  cluster: a\n  endpoints: [127.0.0.1:1, 10.0.0.1:1]\n",
        (
            "f.yaml:5: follows.endpoints.1: 10.0.0.1:1 is reached over a network, and there is no follows.tls; write"
            " it, or insecure: true to do without"
        ),
    ),
    "follows with half a certificate": (
        ONE + "follows:\n  cluster: a\n  endpoints: [localhost:1]\n  tls:\n    ca: a\n    cert: b\n",
        "f.yaml:6: follows.tls: cert and key come together; write both, or neither",
    ),
    "follows nowhere": (
        ONE + "follows:\n  cluster: a\n  endpoints: []\n",
        "f.yaml:5: follows.endpoints: must not be empty",
    ),
    "broken YAML": (
        "nodes:\n  n1: {\n",
        "f.yaml:3: is not valid YAML: expected the node content, but found '<stream end>'",
    ),
    "tabs": (
        "nodes:\n\tn1: {}\n",
        "f.yaml:2: is not valid YAML: found character '\\t' that cannot start any token",
    ),
    "two documents": (
        ONE + "---\n" + ONE,
        "f.yaml:3: is not valid YAML: but found another document",
    ),
    "code in a tag": (
        "cluster: !!python/object/apply:os.getcwd []\n" + ONE,
        (
            "f.yaml:1: is not valid YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.getcwd'"
        ),
    ),
    "an alias of itself": (
        "nodes: &all\n  n1: *all\n",
        "f.yaml:1: is not valid YAML: aliases nest too deeply",
    ),
}


@pytest.mark.parametrize(("text", "complaint"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_told_where_and_what(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    assert str(caught.value) == complaint


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    text = "shardz: 1\nnodes:\n  n1: {client_port: x}\n  n2: {host: 3}\nreplicas: none\n"
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    assert [problem.line for problem in caught.value.problems] == [1, 3, 4, 5]
    assert len(str(caught.value).splitlines()) == 4


def test_aliases_that_multiply_are_stopped() -> None:
    rows = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]"
        for before, name in zip("abcdefg", "bcdefgh", strict=True)
    ]
    with pytest.raises(ConfigError, match="aliases nest too deeply"):
        parse("\n".join(rows), "f.yaml")


def test_a_merge_key_keeps_the_lines_of_what_it_merges() -> None:
    text = "nodes:\n  n1: &base\n    host: 127.0.0.1\n    client_port: 2379\n  n2:\n    <<: *base\n    peer_port: 72\n"
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    first = str(caught.value).splitlines()[0]
    assert first.startswith("f.yaml:4: nodes.n2.client_port: 2379 is already used by nodes.n1.client_port")


def test_a_merge_key_can_be_overridden() -> None:
    text = (
        "nodes:\n  n1: &base {client_port: 2379, http_port: 8079}\n"
        "  n2: {<<: *base, client_port: 2389, http_port: 8089, peer_port: 7201}\n"
    )
    cluster = parse(text, "f.yaml")
    assert (cluster.node("n2").client_port, cluster.node("n2").id) == (2389, 2)


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: can't be read: No such file or directory"


def test_a_folder_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load(tmp_path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"nodes: \xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="is it a cluster file"):
        load(path)


def test_the_built_in_cluster() -> None:
    cluster = load(None)
    node = cluster.node("n1")
    assert list(cluster.nodes) == ["n1"]
    assert (node.id, node.host) == (1, "127.0.0.1")
    assert (node.client_port, node.http_port, node.peer_port) == (2379, 8079, 7101)
    assert (cluster.shards, cluster.replicas, list(cluster.tables)) == (2, 1, ["default"])
    assert cluster.data_dir == Path.cwd() / "boathouse-data"
    assert cluster.follows is None


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_fine(path: Path) -> None:
    cluster = load(path)
    assert all(node.is_loopback for node in cluster.nodes.values()) != (path.stem == "secure-cluster")


def test_there_are_examples_of_each_kind() -> None:
    clusters = {path.stem: load(path) for path in EXAMPLES}
    assert set(clusters) == {
        "single-node",
        "three-nodes",
        "leader-cluster",
        "follower-cluster",
        "secure-cluster",
    }
    three = clusters["three-nodes"]
    assert (len(three.nodes), three.shards, three.replicas) == (3, 4, 3)
    follows = clusters["follower-cluster"].follows
    assert follows is not None
    leader = clusters["leader-cluster"]
    assert follows.cluster == leader.cluster
    assert follows.endpoints == [node.client_endpoint for node in leader.nodes.values()]


def test_the_pair_can_run_on_one_machine() -> None:
    def ports(cluster: ClusterConfig) -> set[int]:
        return {
            port
            for node in cluster.nodes.values()
            for port in (
                node.client_port,
                node.http_port,
                *range(node.peer_port, node.peer_port + cluster.shards),
            )
        }

    leader, follower = (
        load(path) for name in ("leader", "follower") for path in EXAMPLES if path.stem.startswith(name)
    )
    assert not ports(leader) & ports(follower)


def test_a_table_may_be_just_its_name() -> None:
    assert parse(ONE + "tables:\n  users:\n", "f.yaml").tables["users"].history == "all"


def test_no_tables_at_all() -> None:
    assert parse(ONE + "tables: {}\n", "f.yaml").tables == {}


def test_a_node_may_be_just_its_name() -> None:
    assert parse("nodes:\n  n1:\n", "f.yaml").node("n1").client_port == 2379


def test_history_takes_its_three_forms() -> None:
    tables = parse(
        ONE + "tables: {a: {history: all}, b: {history: none}, c: {history: 7}}\n", "f.yaml"
    ).tables
    assert [tables[name].history for name in "abc"] == ["all", "none", 7]


def test_three_nodes_mean_three_replicas_unless_said_otherwise() -> None:
    assert parse(THREE.replace("replicas: 3\n", ""), "f.yaml").replicas == 3
    assert parse(THREE.replace("replicas: 3", "replicas: 1"), "f.yaml").replicas == 1


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("data_dir: ~/data\n" + ONE, "f.yaml").data_dir == tmp_path / "data"


def test_a_spec_survives_its_trip_to_the_child() -> None:
    compaction = "compaction: {mode: periodic, retention: 90s}"
    users = f"{{shard: 2, history: 5, quota: 2GiB, {compaction}}}"
    cluster = parse(THREE + f"tables: {{users: {users}}}\n", "f.yaml")
    spec = ProcessSpec(cluster=cluster, kind="shardworker", node="n2", number=3, sockets={"client": 7})
    line = spec.model_dump_json()
    assert "\n" not in line
    assert ProcessSpec.model_validate_json(line) == spec


@pytest.mark.parametrize(
    ("kind", "node", "number", "complaint"),
    [
        ("coordinator", "n9", None, "the cluster has no node n9"),
        ("coordinator", "n1", 1, "node n1 has no process coordinator-1"),
        ("shardworker", "n1", None, "node n1 has no process shard"),
        ("shardworker", "n1", 3, "node n1 has no process shard-3"),
        ("gardener", "n1", None, "there is no kind of process named gardener"),
    ],
)
def test_a_spec_that_makes_no_sense(kind: str, node: str, number: int | None, complaint: str) -> None:
    cluster = parse(ONE, "f.yaml")
    with pytest.raises(ValueError, match=complaint):
        ProcessSpec.model_validate({"cluster": cluster, "kind": kind, "node": node, "number": number})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nodes: " + "[" * 2000 + "]" * 2000, "f.yaml: is not valid YAML: it nests too deeply"),
        (ONE + "shards: !!bool maybe\n", "f.yaml: is not valid YAML: a value does not fit its tag"),
        (ONE + "shards: !!timestamp soon\n", "f.yaml: is not valid YAML: a value does not fit its tag"),
        (ONE + "shards: !!int ''\n", "f.yaml: is not valid YAML: a value does not fit its tag"),
        (
            "nodes: \x01",
            "f.yaml: is not valid YAML: unacceptable character #x0001: special characters are not allowed",
        ),
        ("nodes: {n1: {<<: {? [a] : b}}}", "f.yaml:1: nodes.n1.['a']: a key must be text; put it in quotes"),
        (
            f"nodes: {{n1: {{client_port: {'9' * 30}}}}}",
            "f.yaml:1: nodes.n1.client_port: must be at most 65535, is a number of more than 64 bits",
        ),
        (
            f"{ONE}raft: {'9' * 30}",
            "must be a mapping of keys to values, is a number of more than 64 bits",
        ),
        (ONE + 'data_dir: "a\\0b"\n', "data_dir: must not hold a zero byte"),
    ],
)
def test_what_the_parser_stumbles_over_is_a_problem_of_the_file(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        parse(text, "f.yaml")


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("07101", "07101 is 3649 in YAML; write whole numbers in decimal digits, or text in quotes"),
        ("39:39", "39:39 is 2379 in YAML; write whole numbers in decimal digits, or text in quotes"),
        ("2_379", "2_379 is 2379 in YAML; write whole numbers in decimal digits"),
        ("0x94b", "0x94b is 2379 in YAML; write whole numbers in decimal digits"),
        ("0b11", "0b11 is 3 in YAML; write whole numbers in decimal digits"),
        ("+2379", "+2379 is 2379 in YAML; write whole numbers in decimal digits"),
        (
            "0x" + "f" * 6000,
            "is a number of more than 64 bits in YAML; write whole numbers in decimal digits",
        ),
    ],
)
def test_a_number_that_yaml_reads_in_another_way_than_people_is_named(written: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)) as caught:
        parse(f"nodes:\n  n1:\n    client_port: {written}\n", "f.yaml")
    assert str(caught.value).startswith("f.yaml:3: nodes.n1.client_port: ")


@pytest.mark.parametrize("written", ["1:20.5", "1_0.5", ".5", "1.", "6e2", "-.inf", ".NaN"])
def test_a_number_with_a_point_is_written_as_people_do(written: str) -> None:
    with pytest.raises(ConfigError, match=r"f.yaml:3: nodes.n1.client_port: "):
        parse(f"nodes:\n  n1:\n    client_port: {written}\n", "f.yaml")


@pytest.mark.parametrize("written", ["no", "On", "YES", "off"])
def test_a_word_that_yaml_takes_for_a_truth_value_is_named(written: str) -> None:
    with pytest.raises(ConfigError, match=rf"f.yaml:2: cluster: {written} is (true|false) in YAML; put"):
        parse(f"nodes: {{n1: {{}}}}\ncluster: {written}\n", "f.yaml")


@pytest.mark.parametrize("written", ["'no'", '"07101"', "!!str 39:39", "o7101", "a-07"])
def test_what_is_in_quotes_is_text(written: str) -> None:
    text = f"cluster: {written}\nnodes: {{n1: {{}}}}\n"
    if ":" in written:
        with pytest.raises(ConfigError, match="a cluster name is"):
            parse(text, "f.yaml")
    else:
        assert parse(text, "f.yaml").cluster == written.strip("'\"")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("localhost", "127.0.0.1"),
        ("localhost", "'::1'"),
        ("'::1'", "'0:0:0:0:0:0:0:1'"),
        ("127.0.0.1", "'::ffff:127.0.0.1'"),
        ("LOCALHOST", "127.0.0.1"),
    ],
)
def test_hosts_that_mean_the_same_share_their_ports(one: str, other: str) -> None:
    text = f"nodes:\n  n1: {{host: {one}}}\n  n2: {{host: {other}}}\nreplicas: 1\n"
    with pytest.raises(ConfigError, match=r"nodes\.n2\.client_port: 2379 is already used by nodes\.n1"):
        parse(text, "f.yaml")


def test_the_two_loopback_addresses_have_ports_of_their_own() -> None:
    cluster = parse("nodes:\n  n1: {host: 127.0.0.1}\n  n2: {host: '::1'}\nreplicas: 1\n", "f.yaml")
    assert cluster.node("n2").client_endpoint == "[::1]:2379"
    assert cluster.worker_tcp("n2", 1) == "tcp://[::1]:7101"
