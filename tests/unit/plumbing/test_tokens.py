"""Tokens and keys: who can read what, and what is refused."""

import stat
from pathlib import Path

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import InvalidInputError, SettingsError, UnauthorizedError
from infra.plumbing.keys import ACTIVATION_S, LiveTrust, RegionKeys, TrustDirectory, decode_base64url, encode_base64url
from infra.plumbing.tokens import (
    ISSUED_AHEAD_S_MAX,
    LIFE_S_MAX,
    TOKEN_BYTES_MAX,
    Principal,
    issue_token,
    open_subject,
    verify_token,
)

EAST, WEST = RegionKeys.generate("us-east"), RegionKeys.generate("us-west")
TRUST = TrustDirectory.of([EAST, WEST])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_token_is_verified_by_all_and_opened_at_home(clock: ManualClock):
    principal = verify_token(issue_token(EAST, "anna", clock=clock), TRUST, clock=clock)
    assert principal.home == "us-east"
    assert open_subject(principal, EAST) == EAST.pseudonym("user", "anna")
    with pytest.raises(UnauthorizedError, match="cannot be opened in this region"):
        open_subject(principal, WEST)


def test_the_subject_cannot_be_read_from_the_token(clock: ManualClock):
    token = issue_token(EAST, "anna", clock=clock)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert b"anna" not in decode_base64url(claims["sub"])
    assert EAST.pseudonym("user", "anna") not in token
    assert (
        claims["sub"] != jwt.decode(issue_token(EAST, "anna", clock=clock), options={"verify_signature": False})["sub"]
    )


def test_pseudonyms_differ_by_region_kind_and_name():
    names = {keys.pseudonym(kind, name) for keys in (EAST, WEST) for kind in ("user", "session") for name in ("a", "b")}
    assert len(names) == 8


def forge(clock: ManualClock, key: Ed25519PrivateKey, kid: str, **changes: object) -> str:
    now_s = clock.now_ms() // 1000
    claims = {"iss": kid, "aud": "atoll", "home": kid, "sub": "AAAA", "iat": now_s, "exp": now_s + 60, **changes}
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm="EdDSA", headers={"kid": kid})


WEST_SIGNER = Ed25519PrivateKey.from_private_bytes(WEST.issuer_private)


def test_an_expired_token_is_refused_after_the_skew(clock: ManualClock):
    token = issue_token(EAST, "anna", clock=clock, life_s=60)
    clock.advance(89)
    verify_token(token, TRUST, clock=clock)
    clock.advance(2)
    with pytest.raises(UnauthorizedError, match="expired"):
        verify_token(token, TRUST, clock=clock)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "e30.e30.", "x" * (TOKEN_BYTES_MAX + 1)])
def test_garbage_is_refused(token: str, clock: ManualClock):
    with pytest.raises(UnauthorizedError):
        verify_token(token, TRUST, clock=clock)


def times(clock: ManualClock, ahead_s: int) -> dict[str, int]:
    now_s = clock.now_ms() // 1000
    return {"iat": now_s + ahead_s, "exp": now_s + ahead_s + 60}


def test_forgeries_are_refused(clock: ManualClock):
    stranger = Ed25519PrivateKey.generate()
    for token in (
        forge(clock, stranger, "us-west"),  # wrong signature
        forge(clock, stranger, "elsewhere"),  # unknown issuer
        forge(clock, WEST_SIGNER, "us-west", home="us-east"),  # speaks for another region
        forge(clock, WEST_SIGNER, "us-west", aud="other"),
        forge(clock, WEST_SIGNER, "us-west", exp=None),
        forge(clock, WEST_SIGNER, "us-west", exp="soon"),
        forge(clock, WEST_SIGNER, "us-west", iat=None),
        forge(clock, WEST_SIGNER, "us-west", **times(clock, ISSUED_AHEAD_S_MAX + 1)),  # of the future
        forge(
            clock, WEST_SIGNER, "us-west", exp=clock.now_ms() // 1000 + LIFE_S_MAX + 1
        ),  # for longer than anybody may
        forge(clock, WEST_SIGNER, "us-west/2", home="us-west"),  # a key that was never made
        jwt.encode({"home": "us-west", "sub": "x", "aud": "atoll", "exp": 9e9}, "k" * 32, "HS256", {"kid": "us-west"}),
    ):
        with pytest.raises(UnauthorizedError):
            verify_token(token, TRUST, clock=clock)


def test_a_subject_that_was_tampered_with_is_refused():
    with pytest.raises(UnauthorizedError):
        open_subject(Principal(home="us-east", sealed_subject="AAAA", expires_s=0), EAST)
    with pytest.raises(UnauthorizedError):
        open_subject(Principal(home="us-east", sealed_subject="!", expires_s=0), EAST)


def test_keys_are_kept_for_their_owner_only(tmp_path: Path):
    EAST.save(tmp_path / "keys.json")
    assert RegionKeys.load(tmp_path / "keys.json") == EAST
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    TRUST.save(tmp_path / "trust.json")
    assert TrustDirectory.load(tmp_path / "trust.json") == TRUST
    assert EAST.service_key not in (tmp_path / "trust.json").read_text()
    with pytest.raises(SettingsError):
        RegionKeys.load(tmp_path / "trust.json")


def test_base64url_has_no_padding():
    for raw in (b"", b"a", b"ab", b"abc", b"\xff\xfe"):
        assert "=" not in encode_base64url(raw)
        assert decode_base64url(encode_base64url(raw)) == raw


def test_issuer_keys_are_rotated_and_retired(tmp_path: Path, clock: ManualClock):
    old = issue_token(EAST, "anna", clock=clock)
    TRUST.save(tmp_path / "trust.json")
    live = LiveTrust(tmp_path / "trust.json", clock=clock)
    rotated = EAST.with_new_issuer(now_ms=clock.now_ms())
    assert rotated.signing_key(now_ms=clock.now_ms())[0] == "us-east"  # Not before everybody knows it.
    clock.advance(ACTIVATION_S)
    assert rotated.signing_key(now_ms=clock.now_ms())[0] == "us-east/2"
    new = issue_token(rotated, "anna", clock=clock)
    with pytest.raises(UnauthorizedError, match="issuer is not known"):
        verify_token(new, live, clock=clock)
    TrustDirectory.of([rotated, WEST]).save(tmp_path / "trust.json")
    clock.advance(1)
    edition = live.edition
    for token in (old, new):
        assert open_subject(verify_token(token, live, clock=clock), rotated) == EAST.pseudonym("user", "anna")
    retired = rotated.without_issuer("us-east")
    TrustDirectory.of([retired, WEST]).save(tmp_path / "trust.json")
    clock.advance(1)
    assert live.edition > edition
    verify_token(new, live, clock=clock)
    with pytest.raises(UnauthorizedError, match="issuer is not known"):
        verify_token(old, live, clock=clock)
    with pytest.raises(InvalidInputError, match="last issuer key"):
        retired.without_issuer("us-east/2")
    with pytest.raises(InvalidInputError, match="There are: us-east/2"):
        retired.without_issuer("us-east")
    retired.save(tmp_path / "keys.json")
    assert RegionKeys.load(tmp_path / "keys.json") == retired


def test_a_directory_that_cannot_be_read_changes_nothing(tmp_path: Path, clock: ManualClock):
    TRUST.save(tmp_path / "trust.json")
    live = LiveTrust(tmp_path / "trust.json", clock=clock)
    for broken in (b"{", b"{}", None):
        if broken is None:
            (tmp_path / "trust.json").unlink()
        else:
            (tmp_path / "trust.json").write_bytes(broken)
        clock.advance(1)
        assert live.regions == TRUST.regions


def test_directories_from_before_there_were_several_keys_still_verify(clock: ManualClock):
    before = TrustDirectory(
        regions={name: msgspec.structs.replace(keys, issuers={}) for name, keys in TRUST.regions.items()}
    )
    verify_token(issue_token(EAST, "anna", clock=clock), before, clock=clock)


def test_a_clock_set_back_by_minutes_locks_nobody_out(clock: ManualClock) -> None:
    token = issue_token(EAST, "anna", clock=clock)
    behind = ManualClock(wall_ms=clock.now_ms() - 600_000)
    assert verify_token(token, TRUST, clock=behind) == verify_token(token, TRUST, clock=clock)
