"""The measurement computes what the phone's own code computes, in another order, and notices when it does not."""

import numpy as np
import pytest

from infra.bench.federated import phone
from infra.bench.federated.phone import Examples, PhoneDiffersError, PhoneSlice, personal_part

ITEMS, DIM, RANK = 40, 8, 3


def made(seed: int = 0) -> tuple[Examples, "phone.FloatArray", "phone.FloatArray"]:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
    base = rng.normal(size=(17, DIM)).astype(np.float32)
    directions = np.linalg.qr(rng.normal(size=(DIM, RANK)))[0].astype(np.float32)
    return Examples(base, rng.integers(0, ITEMS, size=17)), table, directions


@pytest.mark.parametrize("rows", [np.arange(0, ITEMS, 3), np.arange(ITEMS)])
def test_statistics_are_the_phones_own_whatever_the_slice(rows: "phone.IntArray") -> None:
    """`check` compares; a slice may be the whole catalogue, with nothing outside of it."""
    one, table, directions = made()
    core = np.random.default_rng(1).normal(size=(len(rows), RANK))
    found = PhoneSlice(one, table, rows=rows, directions=directions, check=True).statistics(core)
    assert found.shape == (len(rows), RANK + 1)


def test_a_local_step_follows_the_statistics() -> None:
    """One step of the local training is the mean gradient at the core that came in, times the rate."""
    one, table, directions = made()
    rows = np.arange(5, 25)
    core = np.zeros((len(rows), RANK))
    here = PhoneSlice(one, table, rows=rows, directions=directions, check=True)
    expected = 0.5 * here.statistics(core)[:, :-1] / len(one.base)
    assert np.allclose(here.stepped(core, rate=0.5, steps=1), expected)
    assert not np.allclose(here.stepped(core, rate=0.5, steps=2), 2 * expected)


def test_the_personal_part_is_held_against_the_phones_own_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another gradient the measurement ends instead of reporting."""
    one, table, _ = made()
    assert np.linalg.norm(personal_part(one, table, check=True)) > 0.0
    monkeypatch.setattr(phone, "loss_and_gradients", lambda *a, **k: _Other())
    with pytest.raises(PhoneDiffersError, match="differ from its own code's"):
        personal_part(one, table, check=True)


class _Other:
    personal = np.ones(DIM)
