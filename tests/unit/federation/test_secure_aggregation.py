"""Secure aggregation: exact for every pattern of drop-outs, silent below the threshold, and blind to single phones."""

import base64
import itertools
import secrets
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.secure_aggregation import graph, keys, seats, shamir
from federation.secure_aggregation.client import ProtocolError, SecureClient, Trust
from federation.secure_aggregation.identity import (
    Certificates,
    IdentityError,
    enrol,
    verify_certificate,
    verify_signature,
)
from federation.secure_aggregation.messages import (
    Gathering,
    Mailbox,
    Roster,
    SealedShares,
    Signatures,
    Survivors,
    survivors_text,
    to_bits,
)
from federation.secure_aggregation.ring import COHORT_MAX, STEPS, from_ring, from_wire, to_ring, to_wire
from federation.secure_aggregation.server import AggregationError, BelowThresholdError, SecureSum
from tests.unit.federation.secure import (
    BEFORE_SHARES,
    BEFORE_UNMASKING,
    BEFORE_UPDATE,
    ISSUER,
    NEVER,
    NOW_MS,
    REGION,
    ROUND_ID,
    TASK,
    TRUST,
    Session,
    device,
    phone,
)


def _values(count: int, length: int = 4, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 2**32, size=length, dtype=np.uint32) for _ in range(count)]


# Each of 5 phones stays, or drops out at one of three moments: 4**5 = 1,024 patterns, of which this is every one.
@pytest.mark.parametrize("first", [NEVER, BEFORE_SHARES, BEFORE_UPDATE, BEFORE_UNMASKING])
def test_five_phones_every_pattern_of_dropouts(first: int) -> None:
    moments = (NEVER, BEFORE_SHARES, BEFORE_UPDATE, BEFORE_UNMASKING)
    outcomes = {"exact": 0, "aborted": 0}
    for rest in itertools.product(moments, repeat=4):
        session = Session(_values(5))
        drops = dict(enumerate((first, *rest)))
        left = sum(moment == NEVER for moment in drops.values())
        try:
            total = session.run(drops)
        except (BelowThresholdError, ProtocolError):
            outcomes["aborted"] += 1
            assert left < graph.threshold(5)
        else:
            outcomes["exact"] += 1
            assert left >= graph.threshold(5)
            np.testing.assert_array_equal(total, session.plain())
    assert sum(outcomes.values()) == 256
    assert outcomes["exact"] > 0
    assert outcomes["aborted"] > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_phones_sampled_dropouts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    session = Session(_values(100, 6, seed))
    moments = rng.choice([NEVER, BEFORE_SHARES, BEFORE_UPDATE, BEFORE_UNMASKING], size=100, p=[0.91, 0.03, 0.03, 0.03])
    shamir._weights.cache_clear()
    total = session.run(dict(enumerate(moments.tolist())))
    np.testing.assert_array_equal(total, session.plain())
    assert 0 < len(session.sum.survivors) < 100
    # Phones beside each other on the ring share most of their holders: what these weigh is worked out once for several.
    assert 0 < shamir._weights.cache_info().misses < 50


def test_below_the_threshold_nothing_is_given_and_it_is_said() -> None:
    session = Session(_values(5))
    drops = dict.fromkeys(range(3), BEFORE_UNMASKING)
    with pytest.raises((BelowThresholdError, ProtocolError), match=r"threshold|too few"):
        session.run(drops)
    assert not session.sum.complete
    with pytest.raises(BelowThresholdError, match="where 4 are needed"):
        session.sum.total()


def test_masked_updates_are_uniform_whatever_is_under_them() -> None:
    """Two phones that swap their values leave transcripts that no statistic tells apart."""
    zeros, ones = np.zeros(4096, dtype=np.uint32), np.full(4096, 1 << 20, dtype=np.uint32)
    seen = {}
    for name, values in (("one way", [zeros, ones, zeros]), ("swapped", [ones, zeros, zeros])):
        session = Session([value.copy() for value in values])
        total = session.run({})
        np.testing.assert_array_equal(total, ones)
        seen[name] = session.masked
    for masked in seen.values():
        for value in masked.values():
            counts = np.bincount(value >> 28, minlength=16)
            # Chi-square with 15 degrees of freedom: 50 is passed once in 100,000.
            assert ((counts - 256) ** 2 / 256).sum() < 50
            assert abs(np.corrcoef(value, ones + np.arange(4096))[0, 1]) < 0.1
    pooled = [np.concatenate(list(one.values())) >> 28 for one in seen.values()]
    histograms = [np.bincount(one, minlength=16) for one in pooled]
    difference = ((histograms[0] - histograms[1]) ** 2 / (histograms[0] + histograms[1])).sum()
    assert difference < 50


def test_what_the_gateway_holds_has_no_update_in_it() -> None:
    values = [np.frombuffer(b"SECRET-OF-PHONE-" + bytes([index]) * 16, dtype=np.uint32) for index in range(6)]
    session = Session(list(values))
    session.run({2: BEFORE_UPDATE, 4: BEFORE_UNMASKING})
    held = msgspec.json.encode([_plain(one) for one in (*session.seen, *vars(session.sum).values())])
    raw = b"".join(one.tobytes() for one in session.seen if isinstance(one, np.ndarray))
    for value in values:
        assert base64.b64encode(value.tobytes())[:20] not in held
        assert value.tobytes()[:16] not in raw


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, set):
        return sorted(value)
    return value


def test_a_gateway_that_tells_two_lists_learns_neither_secret() -> None:
    session = Session(_values(5))
    for index, one in enumerate(session.phones):
        session.sum.add_shares(index, one.share(session.sum.roster(index)))
    for index, one in enumerate(session.phones):
        session.sum.add_masked(index, one.mask(session.values[index], session.sum.mailbox(index), task=TASK))
    whole, without = (
        Survivors(survivor_bits=to_bits({0, 1, 2, 3, 4}, 5)),
        Survivors(survivor_bits=to_bits({0, 1, 2, 3}, 5)),
    )
    told = [whole, whole, without, without, whole]
    signed = {index: one.sign(told[index]).device_signature for index, one in enumerate(session.phones)}
    for index in (2, 3):
        others = {other: signature for other, signature in signed.items() if other != index}
        with pytest.raises(ProtocolError, match="too few neighbours were told"):
            session.phones[index].unmask(Signatures(neighbour_signatures=others))
    with pytest.raises(ProtocolError, match="cannot be right"):
        session.phones[0].sign(without)


def _lying(session: Session, index: int) -> None:
    honest = session.phones[index].unmask

    def lying(signatures: Signatures) -> object:
        given = honest(signatures)
        wrong = {owner: bytes(33) for owner in given.seeds}
        return msgspec.structs.replace(given, seeds=wrong, mask_keys=dict.fromkeys(given.mask_keys, b"short"))

    session.phones[index].unmask = lying  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("liar", range(6))
def test_a_wrong_share_is_left_out_and_the_sum_is_exact(liar: int) -> None:
    session = Session(_values(7))
    _lying(session, liar)
    np.testing.assert_array_equal(session.run({6: BEFORE_UPDATE}), session.plain())


def test_a_phone_that_seals_a_wrong_share_does_not_discredit_who_holds_it() -> None:
    session = Session(_values(7))
    for owner, holder in ((0, 1), (2, 3)):
        bad, honest = session.phones[owner], session.phones[owner].share

        def wrong(
            roster: Roster,
            bad: SecureClient = bad,
            honest: Callable[[Roster], SealedShares] = honest,
            owner: int = owner,
            holder: int = holder,
        ) -> SealedShares:
            given = honest(roster)
            sealed = keys.seal(
                bad._secrets[holder], bytes(66), round_id=ROUND_ID, sender=owner, receiver=holder
            )  # fmt: skip
            return msgspec.structs.replace(given, sealed={**given.sealed, holder: sealed})

        session.phones[owner].share = wrong  # type: ignore[method-assign]
    # Six give shares and five are needed: were holders 1 and 3 believed in nothing, four would be left.
    np.testing.assert_array_equal(session.run({6: BEFORE_UPDATE}), session.plain())


def test_wrong_shares_void_the_sum_and_never_change_it() -> None:
    session = Session(_values(5))
    for liar in (0, 2):
        _lying(session, liar)
    with pytest.raises(BelowThresholdError, match=r"committed|threshold"):
        session.run({})


# Selected are more phones than are wanted: without the late ones' shares these sums would be lost.
@pytest.mark.parametrize("count", [10, 40])
def test_who_came_too_late_is_not_in_the_sum_and_helps_to_unmask_it(count: int) -> None:
    late = frozenset(range(0, count, 3))
    helped, alone = Session(_values(count), late=late), Session(_values(count))
    np.testing.assert_array_equal(helped.run({}), helped.plain())
    assert not helped.sum.survivors & late
    assert helped.sum.agreed
    with pytest.raises((BelowThresholdError, ProtocolError)):
        alone.run(dict.fromkeys(late, BEFORE_UPDATE))
    assert not alone.sum.agreed


def _shared(session: Session) -> None:
    for index, one in enumerate(session.phones):
        session.sum.add_shares(index, one.share(session.sum.roster(index)))


@pytest.mark.parametrize("count", [5, 10, 24, 25, 64, 333, 8191])
def test_a_quarter_of_a_neighbourhood_cannot_have_both_secrets_of_a_phone(count: int) -> None:
    """Honest neighbours give one share each, colluders both: two thresholds take more than a quarter of colluders."""
    closed = graph.degree(count) + 1
    assert 2 * graph.threshold(count) - closed > closed / 4


def test_one_colluding_phone_does_not_give_a_lying_gateway_both_secrets_of_another() -> None:
    """Half of the honest are told that phone 0 is in the sum, half that it is not; the colluder signs both lists.

    With a bare majority, 5 of 9, each half and the colluder would be enough: both secrets of phone 0 would be out.
    """
    session = Session(_values(9))
    _shared(session)
    for index, one in enumerate(session.phones):
        one.mask(session.values[index], session.sum.mailbox(index), task=TASK)
    colluder = session.phones[8]
    for half, gone in ((range(4), set[int]()), (range(4, 8), {0})):
        bits = Survivors(survivor_bits=to_bits(set(range(9)) - gone, 9))
        signed = {index: session.phones[index].sign(bits).device_signature for index in half}
        text = survivors_text(ROUND_ID, bits.survivor_bits, mask_key=session.adverts[8].mask_key)
        signed[8] = colluder._identity.sign(text)
        for index in half:
            with pytest.raises(ProtocolError, match="too few neighbours were told"):
                session.phones[index].unmask(Signatures(neighbour_signatures=signed))


def test_a_neighbourhood_is_as_many_devices() -> None:
    """A gateway with one certified device of its own must not fill a phone's neighbourhood with it."""
    own, colluder = phone(), device()
    adverts = [own.advert(), *(phone(identity=colluder).advert() for _ in range(4))]
    roster = SecureSum(round_id=ROUND_ID, adverts=adverts, length=1, task=TASK).roster(0)
    with pytest.raises(ProtocolError, match="one key"):
        own.share(roster)
    mirrored = [own.advert(), phone(identity=own._identity).advert(), *(phone().advert() for _ in range(3))]
    with pytest.raises(ProtocolError, match="one key"):
        own.share(SecureSum(round_id=ROUND_ID, adverts=mirrored, length=1, task=TASK).roster(0))


def test_a_gateway_that_gives_one_phone_another_task_does_not_read_its_update() -> None:
    """All others are made to send zeros; what is left of the sum is masked still."""
    secret = np.arange(8, dtype=np.uint32)
    session = Session([secret, *(np.zeros(8, dtype=np.uint32) for _ in range(4))])
    honest = session.phones[0].mask
    session.phones[0].mask = lambda values, mailbox, *, task: honest(values, mailbox, task=task + b"!")  # type: ignore[method-assign]
    assert not np.array_equal(session.run({}), secret)


def test_a_gateway_that_calls_a_phones_neighbours_lost_is_given_nothing() -> None:
    """With all of its neighbours' mask keys and its self seed it would read that phone's update, without a colluder."""
    session = Session(_values(60))
    _shared(session)
    for index, one in enumerate(session.phones):
        one.mask(session.values[index], session.sum.mailbox(index), task=TASK)
    victim, near = 30, set(graph.neighbours(30, 60))
    cut_off = Survivors(survivor_bits=to_bits(set(range(60)) - near, 60))
    for index in (victim, *sorted(near), 0):  # whose shares it would need, the victim, and somebody far away
        with pytest.raises(ProtocolError, match="stand alone"):
            session.phones[index].sign(cut_off)
        with pytest.raises(ProtocolError, match="too few neighbours were told"):
            session.phones[index].unmask(Signatures(neighbour_signatures={}))


def _gathered(phones: list[SecureClient]) -> Gathering:
    return Gathering(draw=1, seat_commitments=b"".join(one.advert().seat_commitment for one in phones))


def test_a_gateway_does_not_choose_who_sits_beside_a_phone() -> None:
    """It puts its accomplices around one phone, by an order of its own, or by nonces that nobody committed to."""
    phones = [phone() for _ in range(40)]
    gathering = _gathered(phones)
    shown = [one.seat(gathering).nonce for one in phones]
    adverts = [one.advert() for one in phones]
    chosen = SecureSum(round_id=ROUND_ID, adverts=adverts, length=1, task=TASK, nonces=b"".join(shown))
    with pytest.raises(ProtocolError, match="not those that were drawn"):
        phones[20].share(chosen.roster(20))
    for nonces in (b"", b"".join([secrets.token_bytes(16), *shown[1:]]), b"".join(shown[:-1])):
        forged = SecureSum(round_id=ROUND_ID, adverts=adverts, length=1, task=TASK, nonces=nonces)
        with pytest.raises(ProtocolError, match="committed"):
            phones[20].share(forged.roster(20))
    with pytest.raises(ProtocolError, match="nobody drew"):
        phone().share(chosen.roster(20))
    assert Session(_values(40)).run({}).size  # as drawn it is taken


def test_a_list_that_is_made_after_the_nonces_are_known_is_not_drawn_from() -> None:
    """A phone's nonce is for the list that it saw: another one, fitted to the nonces, has other seats or is refused."""
    phones = [phone() for _ in range(30)]
    nonces = {one.advert().seat_commitment: one.seat(_gathered(phones)).nonce for one in phones}
    swapped = b"".join(sorted(nonces))
    order = seats.order(ROUND_ID, 1, swapped, b"".join(nonces[one] for one in sorted(nonces)))
    adverts = {one.advert().seat_commitment: one.advert() for one in phones}
    fitted = SecureSum(
        round_id=ROUND_ID, adverts=[adverts[one] for one in order], length=1, task=TASK,
        nonces=b"".join(nonces[one] for one in sorted(nonces)),
    )  # fmt: skip
    own = phones[0].advert().seat_commitment
    with pytest.raises(ProtocolError, match=r"committed|drawn"):
        phones[0].share(fitted.roster(order.index(own)))


def test_a_phone_shows_a_nonce_for_each_of_a_few_draws_and_for_no_list_without_it() -> None:
    phones = [phone() for _ in range(30)]
    own, gathering = phones[0], _gathered(phones)
    with pytest.raises(ProtocolError, match="without this phone"):
        own.seat(_gathered(phones[1:]))
    with pytest.raises(ProtocolError, match="no use"):
        own.seat(_gathered(phones[:2]))
    with pytest.raises(ProtocolError, match="twice"):
        own.seat(msgspec.structs.replace(gathering, seat_commitments=2 * gathering.seat_commitments))
    with pytest.raises(ProtocolError, match="one draw after the other"):
        own.seat(msgspec.structs.replace(gathering, draw=2))
    shown = [own.seat(msgspec.structs.replace(gathering, draw=draw)).nonce for draw in range(1, seats.DRAWS_MAX + 1)]
    assert len({*shown, own.advert().seat_commitment}) == seats.DRAWS_MAX + 1
    for draw, nonce in enumerate(shown, start=1):
        assert seats.commitment_of(nonce, draw=draw) == own.advert().seat_commitment
    for draw in (1, seats.DRAWS_MAX, seats.DRAWS_MAX + 1):
        with pytest.raises(ProtocolError, match="a few times"):
            own.seat(msgspec.structs.replace(gathering, draw=draw))


def test_survivors_that_fall_apart_are_told_from_those_that_do_not() -> None:
    rng = np.random.default_rng(3)
    count, half = 333, graph.degree(333) // 2
    for _ in range(200):  # as over-selection has it: 256 of 333, of which every list must do
        left = set(rng.choice(count, 256, replace=False).tolist())
        assert graph.holds_together(to_bits(left, count), count)
    halves = set(range(count)) - set(range(50, 50 + half)) - set(range(200, 200 + half))
    assert not graph.holds_together(to_bits(halves, count), count)
    wrapped = set(range(half, count))  # the ring has no end: this gap lies across it
    assert not graph.holds_together(to_bits(wrapped, count), count)
    assert not graph.holds_together(to_bits(set(range(0, count, 3)), count), count)
    assert graph.holds_together(to_bits({0, 1, 2}, 24), 24)


def test_a_phone_decides_itself_in_how_large_a_crowd_it_hides() -> None:
    wary = phone(trust=Trust(REGION, TRUST.issuer_public, cohort_min=6))
    adverts = [wary.advert(), *(phone().advert() for _ in range(5))]
    with pytest.raises(ProtocolError, match="no use"):
        wary.share(SecureSum(round_id=ROUND_ID, adverts=adverts[:5], length=1, task=TASK).roster(0))
    wary.share(SecureSum(round_id=ROUND_ID, adverts=adverts, length=1, task=TASK).roster(0))
    with pytest.raises(ProtocolError, match="cannot be right"):
        wary.sign(Survivors(survivor_bits=to_bits({0}, 6)))


def test_a_signature_under_survivors_says_nothing_in_another_sum() -> None:
    """A gateway that gives two rounds one name cannot use the signatures of the first in the second."""
    identities = [device() for _ in range(5)]
    bits = Survivors(survivor_bits=to_bits(set(range(5)), 5))
    old: dict[int, bytes] = {}
    for number in range(2):
        phones = [phone(identity=identity) for identity in identities]
        adverts = [one.advert() for one in phones]
        total = SecureSum(round_id=ROUND_ID, adverts=adverts, length=2, task=TASK)
        for index, one in enumerate(phones):
            total.add_shares(index, one.share(total.roster(index)))
        for index, one in enumerate(phones):
            one.mask(np.zeros(2, dtype=np.uint32), total.mailbox(index), task=TASK)
        fresh = {index: one.sign(bits).device_signature for index, one in enumerate(phones)}
        if number:
            with pytest.raises(ProtocolError, match="too few"):
                phones[0].unmask(Signatures(neighbour_signatures=old))
        assert phones[0].unmask(Signatures(neighbour_signatures=fresh)).seeds
        old = fresh


def test_a_phone_refuses_what_the_gateway_may_not_do() -> None:
    session = Session(_values(5))
    roster = session.sum.roster(0)
    fewer = msgspec.structs.replace(roster, neighbours={1: roster.neighbours[1]})
    with pytest.raises(ProtocolError, match="graph"):
        phone().share(fewer)
    with pytest.raises(ProtocolError, match="no use"):
        phone().share(msgspec.structs.replace(roster, roster_count=2))
    twice = {**roster.neighbours, 2: roster.neighbours[1]}
    with pytest.raises(ProtocolError, match="one key"):
        session.phones[0].share(msgspec.structs.replace(roster, neighbours=twice))
    other_round = phone(round_id="cd" * 8).advert()
    with pytest.raises(ProtocolError, match="signature"):
        session.phones[0].share(
            msgspec.structs.replace(roster, neighbours={**roster.neighbours, 2: other_round})
        )  # fmt: skip
    session.phones[0].share(roster)
    with pytest.raises(ProtocolError, match="does not open"):
        session.phones[0].mask(session.values[0], Mailbox(sealed={1: bytes(82)}), task=TASK)
    with pytest.raises(ProtocolError, match="too few"):
        session.phones[0].mask(session.values[0], Mailbox(sealed={}), task=TASK)


def test_the_gateway_takes_each_message_once_and_from_its_sender_only() -> None:
    session = Session(_values(5))
    shares = session.phones[0].share(session.sum.roster(0))
    session.sum.add_shares(0, shares)
    with pytest.raises(AggregationError):
        session.sum.add_shares(0, shares)
    with pytest.raises(AggregationError):
        session.sum.add_masked(1, session.values[1])
    with pytest.raises(AggregationError):
        session.sum.add_masked(0, session.values[0][:2])
    with pytest.raises(AggregationError):
        session.sum.add_signature(1, b"")


def test_a_key_of_small_order_signs_nothing() -> None:
    # The neutral point as key and as the signature's point: the equation of RFC 8032 then holds for every message.
    neutral = b"\x01" + bytes(31)
    with pytest.raises(IdentityError):
        verify_signature(neutral, neutral + bytes(32), b"whatever")


@pytest.mark.parametrize(("key", "signature"), [(bytes(31), bytes(64)), (bytes(32), bytes(63)), (b"", b"")])
def test_keys_and_signatures_of_other_lengths_are_refused(key: bytes, signature: bytes) -> None:
    with pytest.raises(IdentityError):
        verify_signature(key, signature, b"whatever")


def test_certificates_hold_for_their_region_and_their_time() -> None:
    identity = enrol(region=REGION, issuer_private=ISSUER, device_private=secrets.token_bytes(32), expires_ms=NOW_MS)
    verify_certificate(identity.certificate, region=REGION, issuer_public=TRUST.issuer_public, now_ms=NOW_MS - 1)
    for region, now_ms in (("us-west", NOW_MS - 1), (REGION, NOW_MS)):
        with pytest.raises(IdentityError):
            verify_certificate(
                identity.certificate, region=region, issuer_public=TRUST.issuer_public, now_ms=now_ms
            )  # fmt: skip
    forged = msgspec.structs.replace(identity.certificate, certificate_expires_ms=NOW_MS + 10**9)
    with pytest.raises(IdentityError):
        verify_certificate(forged, region=REGION, issuer_public=TRUST.issuer_public, now_ms=NOW_MS)


def test_a_certificate_that_was_verified_is_kept_and_nothing_that_only_looks_like_it() -> None:
    known = Certificates(region=REGION, issuer_public=TRUST.issuer_public, kept_max=2)
    identity = enrol(region=REGION, issuer_private=ISSUER, device_private=secrets.token_bytes(32), expires_ms=NOW_MS)
    certificate = identity.certificate
    with pytest.raises(IdentityError):
        known.verify(msgspec.structs.replace(certificate, issuer_signature=bytes(64)), now_ms=NOW_MS - 1)
    known.verify(certificate, now_ms=NOW_MS - 1)
    known.verify(certificate, now_ms=NOW_MS - 1)
    with pytest.raises(IdentityError, match="expired"):
        known.verify(certificate, now_ms=NOW_MS)
    for changed in (
        {"certificate_expires_ms": NOW_MS + 10**9}, {"device_key": bytes(32)}, {"region": "us-west"},
        {"issuer_signature": bytes(64)}, {"issuer_signature": certificate.issuer_signature + b"x"},
    ):  # fmt: skip
        with pytest.raises(IdentityError):
            known.verify(msgspec.structs.replace(certificate, **changed), now_ms=NOW_MS - 1)
    for _ in range(5):
        other = enrol(region=REGION, issuer_private=ISSUER, device_private=secrets.token_bytes(32), expires_ms=NOW_MS)
        known.verify(other.certificate, now_ms=NOW_MS - 1)
    assert len(known) == 2


@given(st.binary(min_size=32, max_size=32), st.integers(1, 9), st.integers(0, 5), st.randoms())
@settings(max_examples=60, deadline=None)
def test_any_threshold_of_shares_gives_the_secret_back(secret: bytes, threshold: int, more: int, rng) -> None:
    holders = list(range(threshold + more))
    shares = shamir.split(secret, holders=holders, threshold=threshold, entropy=secrets.token_bytes)
    kept = dict(rng.sample(sorted(shares.items()), threshold))
    assert shamir.join(kept, threshold=threshold) == secret
    if threshold > 1:
        kept.popitem()
        with pytest.raises(shamir.ShareError):
            shamir.join(kept, threshold=threshold)


def test_the_prime_is_prime() -> None:
    # Miller-Rabin with 40 bases: wrong with a probability of 4**-40.
    odd, twos = shamir.PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 42):
        power = pow(base, odd, shamir.PRIME)
        chain = [pow(power, 2**step, shamir.PRIME) for step in range(twos)]
        assert power == 1 or shamir.PRIME - 1 in chain


@pytest.mark.parametrize("count", [3, 5, 24, 25, 100, 333, 1000])
def test_the_graph_is_symmetric_and_its_majorities_meet(count: int) -> None:
    near = [set(graph.neighbours(index, count)) for index in range(count)]
    assert all(index in near[other] for index in range(count) for other in near[index])
    assert {len(one) for one in near} == {graph.degree(count)}
    assert 2 * graph.threshold(count) > graph.degree(count) + 1


@given(st.lists(st.floats(-1.0, 1.0, width=32), min_size=1, max_size=20), st.integers(2, 30))
@settings(max_examples=60, deadline=None)
def test_ring_sums_are_sums(numbers: list[float], count: int) -> None:
    update = np.array(numbers, dtype=np.float32)
    one = to_ring(update, clipping_norm=1.0)
    total = np.zeros_like(one)
    for _ in range(count):
        total += one
    single = from_ring(one, clipping_norm=1.0)
    np.testing.assert_array_equal(from_ring(total, clipping_norm=1.0), count * single)
    assert (np.abs(single) <= np.abs(update)).all()
    np.testing.assert_allclose(single, update, atol=1.0 / STEPS)
    np.testing.assert_array_equal(from_wire(to_wire(one)), one)


def test_the_largest_cohort_fits_the_ring() -> None:
    largest = to_ring(np.array([1.0, -1.0]), clipping_norm=1.0).astype(np.uint64) * COHORT_MAX
    total = (largest % 2**32).astype(np.uint32)
    np.testing.assert_allclose(from_ring(total, clipping_norm=1.0), [COHORT_MAX, -COHORT_MAX])
    with pytest.raises(ValueError, match="clipped"):
        to_ring(np.array([1.5]), clipping_norm=1.0)
    with pytest.raises(ValueError, match="clipped"):
        to_ring(np.array([np.nan]), clipping_norm=1.0)


def test_masks_differ_by_round_and_pair() -> None:
    secret = bytes(32)
    masks = [
        keys.pair_mask(secret, round_id=round_id, task=task, low=low, high=high, length=8).tobytes()
        for round_id, task, low, high in (
            ("a", b"t", 0, 1),
            ("b", b"t", 0, 1),
            ("a", b"t", 0, 2),
            ("a", b"u", 0, 1),
        )
    ]
    assert len({*masks, keys.self_mask(secret, round_id="a", length=8).tobytes()}) == 5
    assert SecureSum(round_id=ROUND_ID, adverts=[], length=1, task=TASK).count == 0
