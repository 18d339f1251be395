"""Random programs of users on two systems: everybody is allowed, and refused, the same on both."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto.etcd import rpc_pb2 as etcd
from tests.conformance.auth_programs import NOBODY, PASSWORDS, ROOT, STRANGER, AuthProgrammer, Step
from tests.conformance.conftest import running
from tests.conformance.keyspace import Answer, Keyspace
from tests.conformance.lengths import scaled, seeds
from tests.conformance.test_differential import is_same, without_time
from tests.conformance.versions import REFUSES_TOKENS_WITHOUT_AUTH
from tests.integration.cluster import Cluster
from tools.bench import systems

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS: Final = 60


class Side:
    """One system without users, and the tokens of those that a program makes."""

    def __init__(self, keyspace: Keyspace) -> None:
        self.keyspace = keyspace
        self._tokens: dict[str, str] = {NOBODY: "", STRANGER: "garbage.1"}
        self._is_on = False
        self._clear()
        keyspace.begin()
        self._auth_revision = self.keyspace.call(etcd.AuthStatusRequest()).message.authRevision

    def take(self, step: Step) -> Answer:
        request = step.request
        is_shown = self._is_on or not REFUSES_TOKENS_WITHOUT_AUTH.is_met
        token = self._tokens.get(step.who, "") if is_shown else ""
        answer = self.keyspace.call(request, token=token)
        if answer.message is not None:
            self._is_on |= isinstance(request, etcd.AuthEnableRequest)
            self._is_on &= not isinstance(request, etcd.AuthDisableRequest)
            if isinstance(request, etcd.AuthenticateRequest):
                self._tokens[request.name] = answer.message.token
                answer.message.token = ""
            if isinstance(answer.message, etcd.AuthStatusResponse):
                answer.message.authRevision -= self._auth_revision
        return without_time(answer)

    def _clear(self) -> None:
        """No users, and authentication off."""
        call = self.keyspace.call
        for password in PASSWORDS:
            root = call(etcd.AuthenticateRequest(name=ROOT, password=password))
            if root.message is not None:
                assert call(etcd.AuthDisableRequest(), token=root.message.token).message is not None
                break
        for user in call(etcd.AuthUserListRequest()).message.users:
            call(etcd.AuthUserDeleteRequest(name=user))
        for role in call(etcd.AuthRoleListRequest()).message.roles:
            call(etcd.AuthRoleDeleteRequest(role=role))


def check_same(reference: Keyspace, subject: Keyspace, rng: random.Random, steps: int) -> None:
    """Run one program on both. Fails with the steps so far and the two answers that differ."""
    sides = Side(reference), Side(subject)
    programmer = AuthProgrammer(rng)
    done: list[str] = []
    for _ in range(steps):
        step = programmer.step()
        text = text_format.MessageToString(step.request, as_one_line=True)
        done.append(f"{step.who or 'nobody'}: {type(step.request).__name__} {text}")
        wanted, given_ = [side.take(step) for side in sides]
        if not is_same(step.request, wanted, given_):
            program = "\n".join(done)
            pytest.fail(f"after\n{program}\nthe answer should be\n  {wanted}\nand is\n  {given_}")
        if wanted.message is not None:
            programmer.revision = max(programmer.revision, wanted.message.header.revision)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyspace]:
    """An etcd of its own: nobody else could use one that is left with users."""
    options = ("--bcrypt-cost", "4")
    with running(systems.Etcd(tmp_path_factory.mktemp("etcd"), 1, options=options)) as system:
        with Keyspace(system.endpoints[0]) as keyspace:
            yield keyspace


@pytest.fixture(scope="module")
def boathouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyspace]:
    folder = tmp_path_factory.mktemp("boathouse")
    with Cluster(folder, nodes=1, shards=1, settings={"auth": {"bcrypt_cost": 4}}) as cluster:
        cluster.wait_leaders()
        with Keyspace(cluster.endpoints[0]) as keyspace:
            yield keyspace


@pytest.mark.parametrize("seed", seeds(5))
def test_boathouse_allows_what_etcd_does(reference: Keyspace, boathouse: Keyspace, seed: int) -> None:
    check_same(reference, boathouse, random.Random(seed), STEPS)


@settings(
    max_examples=scaled(6),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rng=st.randoms(use_true_random=False))
def test_hypothesis_finds_no_program_that_etcd_allows_otherwise(
    reference: Keyspace, boathouse: Keyspace, rng: random.Random
) -> None:
    check_same(reference, boathouse, rng, 25)
