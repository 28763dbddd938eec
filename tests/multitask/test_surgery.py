"""Surgery gives TorchJD's weights, keeps what methods promise at any scale, and lets absent tasks and ranks be."""

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.multitask.seen import seen
from torch import Tensor, nn
from torchjd.aggregation import (
    AlignedMTLWeighting,
    CRMOGMWeighting,
    GradVacWeighting,
    IMTLGWeighting,
    MGDAWeighting,
    PCGradWeighting,
    UPGradWeighting,
)
from torchjd.linalg import QuadprogProjector

from truestep.multitask._surgery import Surgery, in_binary_unit
from truestep.multitask.balancing._normalize import normalized

TASKS = ("a", "b", "c", "d")
WEIGHTINGS: dict[str, Any] = {
    "UPGrad": UPGradWeighting,
    "MGDA": MGDAWeighting,
    "IMTL-G": IMTLGWeighting,
    "PCGrad": PCGradWeighting,
    "Aligned-MTL": AlignedMTLWeighting,
}
every_weighting = pytest.mark.parametrize("make", WEIGHTINGS.values(), ids=WEIGHTINGS)


def started(weighting: Any, tasks: int = 4, **settings: Any) -> Surgery:
    rule = Surgery(weighting, **settings)
    rule.start(TASKS[:tasks])
    return rule


def conflicting(tasks: int = 4, spread: float = 1.0) -> Tensor:
    """Gramian of gradients whose sum opposes one of them; then the last is made `spread` times the first."""
    while True:
        g = torch.randn(tasks, 6, dtype=torch.float64)
        if float((g @ g.sum(0)).min()) < 0:
            g = g * torch.logspace(0, 1, tasks, base=spread, dtype=torch.float64)[:, None]
            return g @ g.T


def cosines(gram: Tensor, w: Tensor) -> Tensor:
    """Between the weighted step and each gradient."""
    return gram @ w / (gram.diagonal() * (w @ gram @ w)).sqrt()


@every_weighting
def test_weights_are_those_of_torchjd_on_the_same_gramian(make: Any) -> None:
    for call in range(1, 6):
        gram = conflicting()
        rule = started(make(), unit="none", seed=7 - call)
        found = rule.weigh(seen(gram=gram, losses=[1.0] * 4))
        torch.manual_seed(8 - call)  # seed and number of the call: what PCGrad draws its order from
        assert found.equal(make()(gram))


@every_weighting
@settings(max_examples=8)
@given(power=st.integers(-300, 300))
def test_a_common_factor_on_the_losses_changes_no_weight(make: Any, power: int) -> None:
    torch.manual_seed(0)
    gram, scale = conflicting(), torch.tensor(2.0, dtype=torch.float64) ** power
    mine, other = (started(make()).weigh(seen(gram=k, losses=[1.0] * 4)) for k in (gram, gram * scale * scale))
    assert mine.equal(other)


@pytest.mark.parametrize("trace", [1.0, 1.999, 2.0, 3.999, 4.0, 7.0, 1e-200, 1e200])
def test_the_binary_unit_is_exact_and_brings_the_trace_between_1_and_4(trace: float) -> None:
    gram = torch.diag(torch.tensor([trace / 4, 3 * trace / 4], dtype=torch.float64))
    found = in_binary_unit(gram)
    assert 1 <= float(found.trace()) < 4
    assert float(gram[0, 0] / found[0, 0]).hex().startswith(("0x1.0000000000000p",))
    assert in_binary_unit(torch.zeros_like(gram)).equal(torch.zeros_like(gram))


def test_upgrad_in_the_losses_own_unit_overlooks_small_gradients() -> None:
    gram = conflicting() * 2.0**-40
    readings = seen(gram=gram, losses=[1.0] * 4)
    assert started(UPGradWeighting(), unit="none").weigh(readings).tolist() == [0.25] * 4
    assert bool((gram @ started(UPGradWeighting()).weigh(readings) > -1e-4 * gram.trace()).all())


@pytest.mark.parametrize(
    ("weighting", "tasks"),
    [(UPGradWeighting(projector=QuadprogProjector(reg_eps=1e-12)), 4), (MGDAWeighting(), 2), (PCGradWeighting(), 2)],
    ids=["UPGrad", "MGDA", "PCGrad"],
)
def test_the_step_is_against_no_task_where_the_method_promises_it(weighting: Any, tasks: int) -> None:
    for _ in range(20):
        gram = conflicting(tasks)
        w = started(weighting, tasks).weigh(seen(gram=gram, losses=[1.0] * tasks))
        assert float(cosines(gram, torch.ones_like(w)).min()) < 0
        assert float(cosines(gram, w).min()) > 0


@pytest.mark.parametrize(("make", "off"), [(UPGradWeighting, 0.01), (MGDAWeighting, 0.05)], ids=["UPGrad", "MGDA"])
def test_with_torchjd_s_default_accuracy_the_promise_is_kept_to_some_hundredths(make: Any, off: float) -> None:
    for _ in range(20):
        gram = conflicting()
        assert float(cosines(gram, started(make()).weigh(seen(gram=gram, losses=[1.0] * 4))).min()) > -off


def test_imtl_g_may_climb_on_every_task_and_a_budget_then_keeps_the_old_weights() -> None:
    cosine = torch.tensor([[1.0, 0.0, 0.7], [0.0, 1.0, 0.7], [0.7, 0.7, 1.0]], dtype=torch.float64)
    norms = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64)  # the small one lies between the others
    readings = seen([1.0] * 3, norms=norms, gram=cosine * torch.outer(norms, norms), weights=[3.0, 2.0, 1.0])
    raw = started(IMTLGWeighting(), 3).weigh(readings)
    assert bool((cosines(readings.gram, raw) < 0).all())
    assert normalized(raw, readings, "budget").tolist() == [3, 2, 1]


def test_imtl_g_gives_equal_projections_and_aligned_mtl_equal_principal_components() -> None:
    for _ in range(10):
        gram = conflicting()
        readings = seen(gram=gram, losses=[1.0] * 4)
        projections = gram @ started(IMTLGWeighting()).weigh(readings) / gram.diagonal().sqrt()
        torch.testing.assert_close(projections, projections.mean().expand(4), rtol=1e-8, atol=0)
        values, vectors = torch.linalg.eigh(gram)
        w = started(AlignedMTLWeighting()).weigh(readings)
        expected = vectors @ ((values[0] / values).sqrt() * (vectors.T @ torch.full((4,), 0.25, dtype=torch.float64)))
        torch.testing.assert_close(w, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("unit", "kept"), [("norm", True), ("common", False)])
def test_upgrad_keeps_its_promise_over_a_spread_of_norms_on_unit_gradients_only(unit: Any, kept: bool) -> None:
    worst = 0.0
    for _ in range(20):
        gram = conflicting(spread=1e4)
        w = started(UPGradWeighting(), unit=unit).weigh(seen(gram=gram, losses=[1.0] * 4))
        worst = min(worst, float(cosines(gram, w).min()))
    assert worst > -2e-3 if kept else worst < -0.05


@every_weighting
@settings(max_examples=8)
@given(powers=st.lists(st.integers(-20, 20), min_size=4, max_size=4))
def test_on_unit_gradients_a_factor_on_one_loss_cancels(make: Any, powers: list[int]) -> None:
    torch.manual_seed(0)
    gram, scale = conflicting(), 2.0 ** torch.tensor(powers, dtype=torch.float64)
    mine = started(make(), unit="norm").weigh(seen(gram=gram, losses=[1.0] * 4))
    other = started(make(), unit="norm").weigh(seen(gram=gram * torch.outer(scale, scale), losses=[1.0] * 4))
    torch.testing.assert_close(other * scale, mine, rtol=1e-9, atol=1e-12)


@every_weighting
@pytest.mark.parametrize("absent", ["drop", "zero"])
def test_an_absent_task_gets_nothing_and_its_readings_do_not_leak(make: Any, absent: Any) -> None:
    gram, here = conflicting(), torch.tensor([True, True, False, True])
    bad = torch.where(here[:, None] & here, gram, torch.nan)
    losses, zeroed = [1.0, 1.0, torch.nan, 1.0], torch.where(here[:, None] & here, gram, 0.0)
    found = started(make(), absent=absent).weigh(seen(losses, gram=bad, active=here))
    assert found[2] == 0
    assert bool(found.isfinite().all())
    assert found.equal(started(make(), absent=absent).weigh(seen(losses, gram=zeroed, active=here)))
    if absent == "drop":
        alone = started(make(), 3).weigh(seen([1.0] * 3, gram=gram[here][:, here]))
        assert found[here].equal(alone)


def test_mgda_with_a_zero_row_stops_all_tasks_and_without_it_does_not() -> None:
    readings = seen([1.0] * 4, gram=conflicting(), active=[True, True, False, True])
    assert started(MGDAWeighting(), absent="zero").weigh(readings).tolist() == [0, 0, 0, 0]
    assert started(MGDAWeighting()).weigh(readings).sum() == pytest.approx(1)


def test_a_preference_for_each_task_needs_all_rows() -> None:
    preference = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    gram = torch.eye(4, dtype=torch.float64)
    readings = seen([1.0] * 4, gram=gram, active=[True, True, False, True])
    found = started(UPGradWeighting(preference), absent="zero").weigh(readings)
    torch.testing.assert_close(found, preference * torch.tensor([1, 1, 0, 1]), rtol=1e-8, atol=0)


def test_with_all_tasks_absent_nothing_is_asked() -> None:
    readings = seen([1.0] * 4, gram=torch.full((4, 4), torch.nan), active=[False] * 4)
    assert started(UPGradWeighting()).weigh(readings).tolist() == [0, 0, 0, 0]


def test_random_orders_are_the_rule_s_own_and_the_user_s_numbers_stay() -> None:
    gram = conflicting()
    readings = seen([1.0] * 4, gram=gram)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    mine = [started(PCGradWeighting()).weigh(readings) for _ in range(2)]
    assert torch.rand(3).equal(expected)
    torch.manual_seed(2)  # another rank
    assert started(PCGradWeighting()).weigh(readings).equal(mine[0])
    rule = started(PCGradWeighting())
    assert len({tuple(rule.weigh(readings).tolist()) for _ in range(20)}) > 1  # each call has an order of its own


def goes_on(make: Any, *, calls: int = 3) -> list[bool]:
    """Whether a loaded, a copied and a pickled rule give the weights of the one that went on."""
    rule = started(make())
    for _ in range(calls):
        rule.weigh(seen([1.0] * 4, gram=conflicting()))
    copies = [started(make()), copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))]
    copies[0].load_state_dict(rule.state_dict())
    readings = [seen([1.0] * 4, gram=conflicting()) for _ in range(3)]
    expected = [rule.weigh(one) for one in readings]
    return [all(other.weigh(r).equal(e) for r, e in zip(readings, expected, strict=True)) for other in copies]


@every_weighting
def test_a_run_goes_on_bit_exactly_from_its_state(make: Any) -> None:
    assert goes_on(make) == [True, True, True]


def test_a_weighting_s_own_memory_is_saved_and_where_it_is_not_that_is_what_we_say() -> None:
    assert goes_on(lambda: CRMOGMWeighting(UPGradWeighting())) == [True, True, True]
    assert goes_on(GradVacWeighting) == [False, True, True]


def test_state_that_a_weighting_does_not_know_is_still_refused() -> None:
    saved = started(CRMOGMWeighting(UPGradWeighting()))
    saved.weigh(seen([1.0] * 4, gram=conflicting()))
    with pytest.raises(RuntimeError, match=r"weighting\._lambda"):
        started(UPGradWeighting()).load_state_dict(saved.state_dict())


def test_a_module_is_moved_and_saved_with_the_rule_and_a_function_does_as_well() -> None:
    linear = nn.Linear(4, 1, dtype=torch.float64)
    rule = started(lambda gram: linear(gram).squeeze(1))
    gram = conflicting()
    assert not rule.weigh(seen([1.0] * 4, gram=gram)).requires_grad
    assert isinstance(started(UPGradWeighting()).weighting, UPGradWeighting)
    assert "weighting" in dict(started(UPGradWeighting()).named_children())


@pytest.mark.parametrize(
    ("answer", "found"), [(torch.ones(3), r"shape \(3,\)"), (torch.ones(4, 1), r"shape \(4, 1\)"), ([1.0] * 4, "list")]
)
def test_anything_but_one_weight_a_task_is_refused(answer: Any, found: str) -> None:
    with pytest.raises(
        ValueError, match=f"`weighting` must give a tensor of 4 weights for that many tasks; got {found}"
    ):
        started(lambda _: answer).weigh(seen([1.0] * 4, gram=conflicting()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weighting": 3}, "`weighting` must be a callable"),
        ({"unit": "metre"}, "`unit` must be one of common, norm, none"),
        ({"absent": "keep"}, "`absent` must be one of drop, zero"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_that_are_none_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Surgery(**{"weighting": MGDAWeighting(), **arguments})


def test_it_asks_for_inner_products_and_takes_losses_of_any_sign() -> None:
    rule = started(MGDAWeighting())
    assert (rule.reads, rule.positive) == ("gram", False)
    with pytest.raises(ValueError, match="Surgery reads the tasks' gradients"):
        rule(torch.ones(4))
