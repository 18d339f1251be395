"""Who may decide over a lease may do so with all its keys, however they lie among his permissions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import errors
from shardworker.machine import Who
from shardworker.machine.auth import Access, Caller, Permission, TableAuth, User


@given(
    st.sets(st.binary(min_size=1, max_size=2), max_size=12),
    st.lists(st.tuples(st.binary(max_size=2), st.binary(max_size=2))),
)
def test_all_keys_of_a_lease_are_held_against_permissions_in_a_few_looks(
    attached: set[bytes], permitted: list[tuple[bytes, bytes]]
) -> None:
    looks = 0

    def next_key(_lease: int, start: bytes) -> bytes | None:
        nonlocal looks
        looks += 1
        return min((key for key in attached if key >= start), default=None)

    permissions = tuple(Permission(Access.READWRITE, key, end) for key, end in permitted)
    auth = TableAuth(
        enabled=True, users={"u": User("", no_password=True, roles=("r",))}, roles={"r": permissions}
    )
    caller = Caller(auth, Who("u", auth.revision), next_key)
    readable = auth.rights("u").readable
    if all(readable.covers((key, key + b"\0")) for key in attached):
        caller.check_lease_readable(1)
    else:
        with pytest.raises(errors.PermissionDenied):
            caller.check_lease_readable(1)
    assert looks <= len(readable.spans) + 1
