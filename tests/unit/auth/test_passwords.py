"""Passwords: what is checked, what is remembered, and what it costs."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from typing import TYPE_CHECKING

import bcrypt
import pytest

from coordinator.auth import passwords
from coordinator.auth.passwords import COST_MAX, Passwords, hash_given
from proto import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def run(test: Callable[[Passwords], Awaitable[None]], *, cost: int = 4) -> None:
    async def within() -> None:
        checked = Passwords(cost=cost)
        try:
            await test(checked)
        finally:
            checked.close()

    asyncio.run(within())


def test_the_right_password_matches_and_no_other() -> None:
    async def test(checked: Passwords) -> None:
        for password in ("secret", "", "mit Umläuten", "with\0zero", "x" * 72):
            hash_ = await checked.hash(password)
            assert "secret" not in hash_
            assert await checked.matches("ann", password, hash_)
            assert await checked.matches("ann", password, hash_)  # remembered
            assert not await checked.matches("ann", password + "x", hash_)
            assert not await checked.matches("ann", "other", hash_)

    run(test)


def test_a_given_salt_makes_the_same_hash_each_time_as_bcrypt_does() -> None:
    async def test(checked: Passwords) -> None:
        for salt in (bytes(16), b"\xff" * 16, bytes(range(16))):
            hash_ = await checked.hash("secret", salt)
            assert hash_ == await checked.hash("secret", salt)
            assert hash_.encode() == bcrypt.hashpw(b"secret", hash_.encode())
            assert await checked.matches("ann", "secret", hash_)
        assert len({await checked.hash("secret", bytes([first] * 16)) for first in range(8)}) == 8
        assert await checked.hash("secret") != await checked.hash("secret")

    run(test)


def test_no_password_opens_an_account_without_one() -> None:
    async def test(checked: Passwords) -> None:
        for password in ("", "anything"):
            assert not await checked.matches("ann", password, "")

    run(test)


def test_bcrypts_limit_is_told_and_not_passed_over() -> None:
    async def test(checked: Passwords) -> None:
        with pytest.raises(errors.PasswordTooLong):
            await checked.hash("x" * 73)
        hash_ = await checked.hash("x" * 72)
        assert not await checked.matches("ann", "x" * 73, hash_)

    run(test)


def test_an_unknown_user_costs_what_a_known_one_does() -> None:
    async def test(checked: Passwords) -> None:
        hash_ = await checked.hash("right")

        async def seconds(hash_: str) -> float:
            begun = time.process_time()
            assert not await checked.matches("ann", "wrong", hash_)
            return time.process_time() - begun

        known = min([await seconds(hash_) for _ in range(5)])
        unknown = min([await seconds("") for _ in range(5)])
        assert 0.5 < unknown / known < 2

    run(test, cost=9)


def test_an_unknown_user_costs_what_others_do_though_new_hashes_cost_another() -> None:
    for usual_cost in (0, 4, 7, 12, 99):
        told = passwords.nobodys_hash(usual_cost)
        assert told.startswith(f"$2b${min(max(usual_cost, 4), 16):02}$")
        if usual_cost < 8:
            assert not bcrypt.checkpw(b"", told.encode())


def test_a_password_that_was_right_costs_once() -> None:
    async def test(checked: Passwords) -> None:
        hash_ = await checked.hash("right")
        assert await checked.matches("ann", "right", hash_)
        begun = time.process_time()
        for _ in range(100):
            assert await checked.matches("ann", "right", hash_)
        assert time.process_time() - begun < 0.05, "a hundred real checks take a tenth of a second at least"
        other = await checked.hash("right")
        assert other != hash_
        assert not await checked.matches("ann", "wrong", hash_)

    run(test, cost=6)


def test_what_is_remembered_is_no_password() -> None:
    async def test(checked: Passwords) -> None:
        await checked.matches("ann", "right", await checked.hash("right"))
        assert all(b"right" not in digest for digest in checked._remembered)
        assert len(checked._remembered) == 1

    run(test)


@pytest.mark.parametrize("exists", [True, False])
def test_who_asks_the_same_at_once_shares_one_check(exists: bool) -> None:
    async def test(checked: Passwords) -> None:
        hash_ = await checked.hash("right") if exists else ""
        logins = [
            asyncio.create_task(checked.matches("ann", "right", hash_))
            for _ in range(2 * passwords.WAITING_MAX)
        ]
        await asyncio.sleep(0)
        logins[0].cancel()  # one who goes takes nobody's answer with him
        assert set(await asyncio.gather(*logins[1:])) == {exists}
        assert not await checked.matches("ann", "wrong", hash_)
        assert not checked._under_way

    run(test)


def test_two_users_who_do_not_exist_share_nothing() -> None:
    """As two who do: else the time that both take would tell."""

    async def test(checked: Passwords) -> None:
        asked = [asyncio.create_task(checked.matches(name, "guess", "")) for name in ("ann", "bob")]
        await asyncio.sleep(0)
        assert len(checked._under_way) == 2
        assert not any(await asyncio.gather(*asked))

    run(test)


def test_checks_that_wait_have_a_bound() -> None:
    async def test(checked: Passwords) -> None:
        hash_ = await checked.hash("right")
        waiting = [
            asyncio.create_task(checked.matches("ann", f"wrong {number}", hash_))
            for number in range(passwords.WAITING_MAX)
        ]
        await asyncio.sleep(0)
        with pytest.raises(errors.TooManyLogins):
            await checked.matches("ann", "one more", hash_)
        assert not any(await asyncio.gather(*waiting))
        assert not await checked.matches("ann", "one more", hash_)

    run(test, cost=5)


def test_a_hash_that_a_client_made_is_taken_in_base64_and_only_one_that_can_be_checked() -> None:
    async def test(checked: Passwords) -> None:
        hash_ = bcrypt.hashpw(b"secret", bcrypt.gensalt(4))
        encoded = b64encode(hash_).decode()
        assert hash_given(encoded) == hash_given(f"{encoded[:9]}\r\n{encoded[9:]}\n") == hash_.decode()
        assert await checked.matches("ann", "secret", hash_given(encoded))
        cheap = hash_.replace(b"$04$", b"$03$")
        for other in (b"nonsense", b"", hash_ + b"x", b"\xff" * 60, hash_[:28] + b"z" + hash_[29:], cheap):
            assert hash_given(b64encode(other).decode()) == ""
        for broken in (hash_.decode(), encoded[:-1], f"{encoded} ", "\u00fc"):
            with pytest.raises(errors.NoPasswordUser):
                hash_given(broken)
        costly = b64encode(hash_.replace(b"$04$", b"$%02d$" % (COST_MAX + 1))).decode()
        with pytest.raises(errors.InvalidRequest, match=f"at most {COST_MAX}"):
            hash_given(costly)

    run(test)
