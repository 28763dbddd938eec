"""TorchJD's weightings weigh for us, and our rules for TorchJD, with its real engine."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.multitask.seen import seen
from torch import Tensor, nn
from torchjd import aggregation, autojac
from torchjd.aggregation import UPGrad, UPGradWeighting
from torchjd.scalarization import Scalarizer

from truestep.integrations import torchjd
from truestep.integrations.torchjd import Scalarized, surgery, weighting
from truestep.multitask._constant import Constant
from truestep.multitask._dynamic_task_priority import DynamicTaskPriority
from truestep.multitask._dynamic_weight_average import DynamicWeightAverage
from truestep.multitask._gradnorm import GradNorm
from truestep.multitask._shares import Shares
from truestep.multitask._surgery import Surgery
from truestep.multitask._uncertainty_weighting import UncertaintyWeighting
from truestep.multitask._unit_norm import UnitNorm

TASKS = ("a", "b", "c")
SHARES = {"a": 1.0, "b": 2.0, "c": 5.0}


def gramian() -> Tensor:
    g = torch.randn(3, 6, dtype=torch.float64)
    return g @ g.T


def losses_of(net: nn.Module, x: Tensor) -> list[Tensor]:
    return [one.square().mean() for one in (net(x) * torch.tensor([1.0, 10.0, 1000.0])).unbind(1)]


@pytest.mark.parametrize(
    ("aggregator", "same"),
    [
        (aggregation.UPGrad, aggregation.UPGradWeighting),
        (aggregation.MGDA, aggregation.MGDAWeighting),
        (aggregation.IMTLG, aggregation.IMTLGWeighting),
        (aggregation.PCGrad, aggregation.PCGradWeighting),
        (aggregation.AlignedMTL, aggregation.AlignedMTLWeighting),
        (aggregation.DualProj, aggregation.DualProjWeighting),
    ],
)
def test_an_aggregator_and_its_weighting_make_the_same_rule_with_torchjd_s_step(aggregator: Any, same: Any) -> None:
    jacobian = torch.randn(3, 6, dtype=torch.float64)
    gram, found = jacobian @ jacobian.T, []
    for given in (aggregator(), same()):
        rule = surgery(given, seed=2)
        assert isinstance(rule, Surgery)
        assert type(rule.weighting) is same
        rule.start(TASKS)
        found.append(rule.weigh(seen([1.0] * 3, gram=gram)))
    assert found[0].equal(found[1])
    torch.manual_seed(3)  # the rule's seed and call: PCGrad draws its order
    torch.testing.assert_close(found[0] @ jacobian, aggregator()(jacobian), rtol=1e-7, atol=1e-9)


def test_settings_of_a_surgery_go_through() -> None:
    rule = surgery(aggregation.MGDA(), unit="norm", absent="zero", seed=3)
    assert (rule._unit, rule._absent, rule._seed) == ("norm", "zero", 3)


@pytest.mark.parametrize(
    "make", [aggregation.ConFIG, aggregation.GradDrop, lambda: aggregation.TrimmedMean(1), aggregation.Mean]
)
def test_an_aggregator_that_reads_the_jacobian_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"must read the Gramian alone; .* reads the Jacobian: use mtl_backward"):
        surgery(make())


@pytest.mark.parametrize("make", [aggregation.ExcessMTLWeighting, aggregation.MoDoWeighting])
def test_a_weighting_that_reads_jacobians_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"must read one Gramian; .* reads Jacobians"):
        surgery(make())


def test_a_weighting_composed_with_the_gramian_is_refused_and_its_inner_one_taken() -> None:
    outer = UPGrad().weighting
    with pytest.raises(ValueError, match=r"composed with a function of the Jacobian: give its inner `\.weighting`"):
        surgery(outer)
    assert type(surgery(outer.weighting).weighting) is UPGradWeighting


@pytest.mark.parametrize("other", [nn.Linear(2, 2), UnitNorm()])
def test_what_is_none_of_torchjd_s_is_refused(other: nn.Module) -> None:
    with pytest.raises(ValueError, match="must be a TorchJD Aggregator or Weighting; found"):
        surgery(other)


@pytest.mark.parametrize("make", [UnitNorm, UncertaintyWeighting, DynamicWeightAverage, Constant])
def test_a_rule_is_a_scalarizer_with_the_rule_s_value_and_gradient(make: Callable[[], Any]) -> None:
    scalarizer, rule = Scalarized(make()), make()
    assert isinstance(scalarizer, Scalarizer)
    for _ in range(4):
        mine = torch.rand(2, 3, requires_grad=True)
        theirs = mine.detach().reshape(-1).requires_grad_()
        found, expected = scalarizer(mine), rule(theirs)  # values of any shape, as TorchJD allows
        assert found.equal(expected)
        (gradient,) = torch.autograd.grad(found, mine)
        assert gradient.reshape(-1).equal(torch.autograd.grad(expected, theirs)[0])


def test_a_scalarizer_s_state_goes_on_bit_exactly_and_it_has_no_parameters() -> None:
    scalarizer = Scalarized(UncertaintyWeighting(lr=0.1))
    for _ in range(3):
        scalarizer(torch.rand(3))
    copies = [
        Scalarized(UncertaintyWeighting(lr=0.1), num_tasks=3),
        copy.deepcopy(scalarizer),
        pickle.loads(pickle.dumps(scalarizer)),
    ]
    copies[0].load_state_dict(scalarizer.state_dict())
    for _ in range(3):
        values = torch.rand(3)
        expected = scalarizer(values)
        assert all(other(values).equal(expected) for other in copies)
    assert list(scalarizer.parameters()) == []
    assert repr(scalarizer) == "Scalarized(UncertaintyWeighting)"


@pytest.mark.parametrize("rule", [GradNorm(1.0), Surgery(UPGradWeighting()), DynamicTaskPriority(unit="norm")])
def test_a_rule_that_reads_gradients_is_no_scalarizer(rule: Any) -> None:
    with pytest.raises(ValueError, match="`rule` must read losses alone"):
        Scalarized(rule)


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("make", [lambda: Shares(SHARES), lambda: GradNorm(0)], ids=["Shares", "GradNorm"])
def test_in_torchjd_s_engine_the_parameters_gradients_get_the_shares_asked_for(make: Any, optimize: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    parameters = list(net.parameters())
    aggregator = aggregation.GramianWeightedAggregator(weighting(make(), TASKS))
    x = torch.randn(16, 4)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(one, parameters, retain_graph=True)])
        for one in losses_of(net, x)
    ]
    norms = torch.stack(rows).norm(dim=1)
    autojac.backward(losses_of(net, x), parallel_chunk_size=1)
    w = autojac.jac_to_grad(parameters, aggregator, optimize_gramian_computation=optimize)
    shares = torch.tensor([1.0, 2.0, 5.0]) / 8 if isinstance(make(), Shares) else torch.full((3,), 1 / 3)
    torch.testing.assert_close(w * norms, shares * norms.sum(), rtol=1e-4, atol=0)
    found = torch.cat([parameter.grad.flatten() for parameter in parameters])
    torch.testing.assert_close(found, w @ torch.stack(rows), rtol=1e-4, atol=1e-4)


def test_our_own_split_and_torchjd_s_engine_give_one_gradient_where_they_measure_at_the_same_place() -> None:
    jacobian = torch.randn(3, 6, dtype=torch.float64)
    rule = surgery(UPGrad())
    rule.start(TASKS)
    step = rule.weigh(seen([1.0] * 3, gram=jacobian @ jacobian.T)) @ jacobian
    parameter = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    autojac.backward(list(jacobian @ parameter), parallel_chunk_size=1)
    autojac.jac_to_grad([parameter], UPGrad())
    torch.testing.assert_close(step, parameter.grad, rtol=1e-7, atol=1e-9)


def test_a_weighting_s_state_goes_on_bit_exactly() -> None:
    made = weighting(Shares(SHARES), TASKS)
    for _ in range(3):
        made(gramian())
    copies = [weighting(Shares(SHARES), TASKS), copy.deepcopy(made), pickle.loads(pickle.dumps(made))]
    copies[0].load_state_dict(made.state_dict())
    gram = gramian()
    expected = made(gram)
    assert all(other(gram).equal(expected) for other in copies)


def test_a_task_without_a_gradient_keeps_its_weight() -> None:
    made = weighting(Shares(SHARES, smoothing=0), TASKS)
    first = made(torch.eye(3))
    torch.testing.assert_close(first, torch.tensor([1.0, 2.0, 5.0]) * 3 / 8)
    second = made(torch.diag(torch.tensor([1.0, 0.0, 4.0])))
    torch.testing.assert_close(second, torch.tensor([0.5, 0.75, 1.25]))


def test_a_gradient_of_zero_stays_out_of_the_rule_s_averages() -> None:
    made = weighting(Shares(SHARES, smoothing=0.5), TASKS)
    for squares in ([1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 9.0, 1.0]):
        w = made(torch.diag(torch.tensor(squares)))
    assert float(w[1] / w[0]) == pytest.approx(2 / 3**0.5)  # share 2, norms averaged from 1 to 3


@pytest.mark.parametrize("rule", [UnitNorm(), GradNorm(1.0), DynamicTaskPriority(unit="norm"), Constant()])
def test_a_rule_that_reads_losses_or_kpis_is_no_weighting(rule: Any) -> None:
    with pytest.raises(ValueError, match=r"`rule` must read gradients alone; .* also reads losses or KPIs"):
        weighting(rule, TASKS)


def test_a_surgery_is_no_weighting_since_it_has_one() -> None:
    with pytest.raises(ValueError, match="give TorchJD that weighting itself"):
        weighting(surgery(UPGrad()), TASKS)


def test_other_tasks_or_another_number_of_rows_are_refused() -> None:
    made = weighting(GradNorm(0), TASKS)
    with pytest.raises(ValueError, match=r"`gramian` must have a row for each of a, b, c; found shape \(2, 2\)"):
        made(torch.eye(2))
    with pytest.raises(ValueError, match="`tasks` must be those that the rule weighs: a, b, c; found b, a, c"):
        weighting(made.rule, ("b", "a", "c"))


def test_without_torchjd_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchjd, "Weighting", nn.Module)
    for build in (
        lambda: surgery(nn.Linear(1, 1)),
        lambda: Scalarized(UnitNorm()),
        lambda: weighting(GradNorm(0), TASKS),
    ):
        with pytest.raises(ImportError, match=r"pip install 'truestep\[torchjd\]'"):
            build()
