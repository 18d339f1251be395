"""What tests of several files of this folder begin with."""

from __future__ import annotations

import pytest

from tests.unit.machine.realm import Realm, probed_realm


@pytest.fixture
def realm() -> Realm:
    return Realm()


@pytest.fixture
def probed() -> Realm:
    return probed_realm()
