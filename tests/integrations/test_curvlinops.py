"""K-FAC of curvlinops by name: its invariance, its step, what it refuses; and its estimators on our products."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.conditioning.curvature.nets import (
    assert_same_state,
    batch_for,
    dense_ggn,
    dense_hessian,
    entropy,
    flat,
    mlp,
    named,
    state_of,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, pad
from torch.utils.checkpoint import checkpoint

from truestep.conditioning.curvature import ggn_product
from truestep.integrations import _curvlinops
from truestep.integrations.curvlinops import CurvatureOperator, KFac, kfac_direction, spectrum, trace
from truestep.lab._recoded import tanh_twin

LOSS = nn.CrossEntropyLoss()


def gradients_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(cross_entropy(model(batch[0]), batch[1]), parameters), strict=True))


def test_a_single_layer_s_kfac_factors_are_the_means_over_samples() -> None:
    model = nn.Linear(4, 3).double()
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randint(0, 3, (20,))
    ((a, s),) = KFac(model, [(x, y)], LOSS).factors.values()
    inputs, p = torch.cat([x, torch.ones(20, 1)], 1), model(x).detach().softmax(1)
    torch.testing.assert_close(a, inputs.T @ inputs / 20)
    torch.testing.assert_close(s, (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]).mean(0))


def test_of_one_sample_it_is_the_layers_ggn_and_so_is_its_trace() -> None:
    model, x = nn.Linear(4, 3).double(), torch.randn(1, 4, dtype=torch.float64)
    batch = (x, torch.tensor([1]))
    kfac = KFac(model, [batch], LOSS)
    v = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    torch.testing.assert_close(kfac.product(v), ggn_product(model, batch, entropy, v))
    assert kfac.trace() == pytest.approx(float(dense_ggn(model, batch).trace()))


def test_the_corrected_one_has_the_ggn_s_own_trace() -> None:
    model = mlp()
    batch = batch_for(model)
    blocks = dense_ggn(model, batch).trace()
    assert KFac(model, [batch], LOSS, corrected=True).trace() == pytest.approx(float(blocks), rel=1e-9)


@pytest.mark.parametrize("how", ["factors", "exact"])
def test_solving_undoes_the_product(how: Any) -> None:
    model = mlp((4, 3, 3))
    kfac = KFac(model, [batch_for(model)], LOSS)
    v = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    damped = kfac.product(kfac.solve(v, 1e-9, how=how))
    shared = kfac.product(kfac.solve(v, 0.1))
    assert float(flat([damped[n] - v[n] for n in v])[:15].norm()) < 1e-5  # the head's S is singular under softmax
    assert float(flat([shared[n] - v[n] for n in v]).norm()) > 0.1


def test_factors_are_averaged_over_steps() -> None:
    model = mlp()
    first, second = KFac(model, [batch_for(model)], LOSS), KFac(model, [batch_for(model, seed=5)], LOSS)
    expected = {
        n: [0.25 * x + 0.75 * y for x, y in zip(first.factors[n], second.factors[n], strict=True)]
        for n in second.factors
    }
    mean = KFac(model, [batch_for(model, seed=5)], LOSS, previous=first, ema=0.25)
    for name, pair in mean.factors.items():
        torch.testing.assert_close(list(pair), expected[name])
    v = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    combined = [0.25 * a + 0.75 * b for a, b in zip(first.product(v).values(), second.product(v).values(), strict=True)]
    assert not torch.allclose(
        flat(list(mean.product(v).values())), flat(combined)
    )  # of the factors, not of the matrices


class Recoded(nn.Module):
    """An MLP whose logits end in a fixed 0, with an affine map of each layer's inputs and outputs in between."""

    def __init__(self, maps: list[tuple[Tensor, Tensor]], layers: list[nn.Linear]) -> None:
        super().__init__()
        self.maps, self.layers = maps, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            into, out_of = self.maps[2 * i], self.maps[2 * i + 1]
            x = layer(x @ into[0].T + into[1]) @ out_of[0].T + out_of[1]
            x = x.tanh() if i + 1 < len(self.layers) else pad(x, (0, 1))
        return x


def twins(sizes: tuple[int, ...]) -> tuple[Recoded, Recoded]:
    """Two parameterizations of the same function: plain, and with random affine codes around each layer."""
    plain, maps, layers, same = (
        [nn.Linear(i, o).double() for i, o in pairwise(sizes)],
        [],
        [],
        [],
    )
    for layer in plain:
        (m, c), (n, d) = (
            (torch.eye(k) + 0.3 * torch.randn(k, k), torch.randn(k)) for k in (layer.in_features, layer.out_features)
        )
        m, c, n, d = (x.double() for x in (m, c, n, d))
        other = nn.Linear(layer.in_features, layer.out_features).double()
        inverse = torch.linalg.inv(n)
        with torch.no_grad():  # W a + b = N (V (M a + c) + e) + d
            other.weight.copy_(inverse @ layer.weight @ torch.linalg.inv(m))
            other.bias.copy_(inverse @ (layer.bias - d) - other.weight @ c)
        maps += [(m, c), (n, d)]
        same += [(torch.eye(k).double(), torch.zeros(k).double()) for k in (layer.in_features, layer.out_features)]
        layers.append(other)
    return Recoded(same, plain), Recoded(maps, layers)


def test_affine_codes_around_each_layer_leave_kfac_s_training_as_it_is_to_1e_6_and_not_sgd_s() -> None:
    pairs = {}
    for rule in ("kfac", "sgd"):
        torch.manual_seed(0)
        models = twins((5, 4, 4, 2))
        x, y = torch.randn(60, 5, dtype=torch.float64), torch.randint(0, 3, (60,))
        for model in models:
            for _ in range(40):
                step = gradients_of(model, (x, y))
                step = kfac_direction(model, [(x, y)], LOSS, step, damping=0.0) if rule == "kfac" else step
                with torch.no_grad():
                    for name, p in model.named_parameters():
                        p.sub_(step[name], alpha=0.1 if rule == "kfac" else 0.5)
        pairs[rule] = [model(x).detach() for model in models]
    assert float((pairs["kfac"][0] - pairs["kfac"][1]).abs().max()) < 1e-6
    assert float((pairs["sgd"][0] - pairs["sgd"][1]).abs().max()) > 0.5


def test_logistic_units_train_as_tanh_units_do_under_kfac_to_1e_6_and_not_under_sgd() -> None:
    torch.manual_seed(0)
    layers = [
        nn.Linear(5, 4),
        nn.Sigmoid(),
        nn.Linear(4, 4),
        nn.Sigmoid(),
        nn.Linear(4, 2),
        nn.ConstantPad1d((0, 1), 0),
    ]
    logistic = nn.Sequential(*layers).double()
    x = torch.randn(200, 5, dtype=torch.float64)
    y = (x[:, :2] > 0).sum(1)
    ends = dict[str, list[Tensor]](kfac=[], sgd=[])
    for rule, lr in (("kfac", 0.02), ("sgd", 2.0)):  # undamped, K-FAC runs away from other starts
        for model in (copy.deepcopy(logistic), tanh_twin(logistic)):
            for _ in range(40):
                step = gradients_of(model, (x, y))
                if rule == "kfac":
                    step = kfac_direction(model, [(x, y)], LOSS, step, damping=0.0)
                with torch.no_grad():
                    for name, p in model.named_parameters():
                        p.sub_(step[name], alpha=lr)
            ends[rule].append(model(x).detach())
    assert float((ends["kfac"][0] - ends["kfac"][1]).abs().max()) < 1e-6
    assert float((ends["sgd"][0] - ends["sgd"][1]).abs().max()) > 0.5


def test_under_batch_norm_the_linear_layers_alone_are_taken_and_nothing_moves() -> None:
    model = mlp(norm=True)
    batch = batch_for(model)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = state_of(model)
    with pytest.raises(ValueError, match=r"has 1\.weight, of BatchNorm1d in train mode, whose statistics join"):
        KFac(model, [batch], LOSS)
    with pytest.raises(ValueError, match=r"1\.weight is of BatchNorm1d"):
        KFac(model.eval(), [batch], LOSS)
    model.train()
    names = [name for name, _ in model.named_parameters() if name[0] not in "14"]
    kfac = KFac(model, [batch], LOSS, names=names, fisher="mc", seed=3)
    assert set(kfac.product({n: torch.ones_like(kfac.parameters[n]) for n in names})) == set(names)
    assert_same_state(model, before)


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp((3, 2, 2))
    batch = batch_for(model)
    with pytest.raises(ValueError, match=r"found \['head'\]"):
        KFac(model, [batch], LOSS, names=["head"])
    kfac = KFac(model, [batch], LOSS)
    with pytest.raises(ValueError, match=r"differs in \['0.bias', '2.bias', '2.weight'\]"):
        kfac.product({"0.weight": torch.ones(2, 3)})
    with pytest.raises(ValueError, match="`previous` must be"):
        KFac(model, [batch], LOSS, names=["0.weight"], previous=kfac, ema=0.5)
    mixed = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).double())
    with pytest.raises(ValueError, match="one dtype on one device"):
        CurvatureOperator(mixed, batch, entropy)
    monkeypatch.setattr(_curvlinops, "Operator", object)
    with pytest.raises(ImportError, match=r"pip install 'truestep\[curvature\]'"):
        CurvatureOperator(model, batch, entropy)
    with pytest.raises(ImportError, match=r"pip install 'truestep\[curvature\]'"):
        KFac(model, [batch], LOSS)


@pytest.mark.parametrize("settings", [{"groups": 2}, {"padding": 1, "padding_mode": "circular"}])
def test_convolutions_whose_inputs_curvlinops_takes_for_others_are_refused(settings: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3, **settings), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match=r"without groups, padded with zeros; 0\.weight does not"):
        KFac(model, [(torch.randn(3, 2, 5, 5), torch.tensor([0, 1, 1]))], LOSS)


class Again(nn.Module):
    """A middle layer called some times, or used without being called."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.into, self.middle, self.out = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for _ in range(self.calls):
            x = self.middle(x.tanh())
        return self.out(x if self.calls else linear(x, self.middle.weight, self.middle.bias))


@pytest.mark.parametrize("calls", [0, 2])
@pytest.mark.parametrize("corrected", [False, True])
def test_a_layer_called_twice_or_never_is_refused_and_can_be_left_out(calls: int, corrected: bool) -> None:
    model, batch = Again(calls), (torch.randn(5, 4), torch.tensor([0, 1, 1, 0, 1]))
    with pytest.raises(ValueError, match=rf"exactly once in a forward pass, found {calls} calls .* middle\.weight"):
        KFac(model, [batch], LOSS, corrected=corrected)
    assert not any([*m._forward_hooks, *m._forward_pre_hooks] for m in model.modules())
    kfac = KFac(model, [batch, batch], LOSS, names=["out.bias", "into.weight", "out.weight"], corrected=corrected)
    assert list(kfac.parameters) == ["out.bias", "into.weight", "out.weight"]
    assert not any([*m._forward_hooks, *m._forward_pre_hooks] for m in model.modules())


def test_a_layer_that_checkpointing_calls_again_is_refused() -> None:
    class Checkpointed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(super().forward, x, use_reentrant=False)

    model = Checkpointed(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"found that of 0\.weight called again in the backward pass"):
        KFac(model, [(torch.randn(5, 4), torch.tensor([0, 1, 1, 0, 1]))], LOSS)


def test_parameters_of_several_modules_are_refused_and_can_be_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    batch = (torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]))
    with pytest.raises(ValueError, match=r"0\.weight is shared by Linear and Linear"):
        KFac(model, [batch], LOSS)
    assert set(KFac(model, [batch], LOSS, names=["0.bias", "2.bias"]).parameters) == {"0.bias", "2.bias"}
    embedded = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 3, bias=False))
    embedded[1].weight = embedded[0].weight
    with pytest.raises(ValueError, match=r"0\.weight is shared by Embedding and Linear"):
        KFac(embedded, [(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]))], LOSS)


def test_the_spectrum_of_a_multiple_of_the_identity_and_of_zero_is_one_peak() -> None:
    model = nn.Linear(30, 1, bias=False)
    x = torch.randn(4, 30)
    for loss_fn, value in ((lambda m, x: m(x).mean(), 0.0), (lambda m, _: -m.weight.square().sum(), -2.0)):
        found = spectrum(model, x, loss_fn, points=101)
        assert float(torch.trapezoid(found.density, found.grid)) == pytest.approx(1.0)
        assert float(found.grid[found.density.argmax()]) == pytest.approx(value, abs=1e-6)
        assert int(found.density.count_nonzero()) == 1


def test_losses_that_weigh_or_ignore_are_refused() -> None:
    model = mlp((3, 2, 2))
    x, y = batch_for(model)
    with pytest.raises(ValueError, match="weigh classes"):
        KFac(model, [(x, y)], nn.CrossEntropyLoss(weight=torch.ones(2).double()))
    with pytest.raises(ValueError, match="ignored targets"):
        KFac(model, [(x, y.index_fill(0, torch.tensor([3]), -100))], LOSS)


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_the_operator_is_the_dense_matrix_in_train_mode_too(matrix: Any) -> None:
    model = mlp((4, 3, 3), norm=True)
    batch = batch_for(model)
    operator = CurvatureOperator(model, batch, entropy, matrix)
    expected = (dense_hessian if matrix == "hessian" else dense_ggn)(model, batch)
    torch.testing.assert_close(operator @ torch.eye(operator.shape[0], dtype=torch.float64), expected)
    v = torch.randn(operator.shape[0], dtype=torch.float64)
    found = operator @ list(named(model, v).values())
    torch.testing.assert_close(flat(found), expected @ v)


def test_the_spectrum_s_mean_is_the_trace_over_the_size_and_the_same_seed_gives_it_again() -> None:
    model = mlp((6, 5, 4, 3), norm=True)
    batch = batch_for(model)
    expected = torch.linalg.eigvalsh(dense_ggn(model, batch))
    before = state_of(model)
    first, again = (spectrum(model, batch, entropy, matrix="ggn", lanczos=20, repeats=4) for _ in range(2))
    assert_same_state(model, before)
    assert first.density.equal(again.density)
    assert float(first.grid[0]) < 0.0
    assert float(first.grid[-1]) == pytest.approx(1.05 * float(expected[-1]), rel=0.05)
    assert float(torch.trapezoid(first.density, first.grid)) == pytest.approx(1.0, abs=0.1)


def test_the_trace_is_hutch_s() -> None:
    model = mlp((6, 5, 4, 3), norm=True)
    batch = batch_for(model)
    before = state_of(model)
    found = trace(model, batch, entropy, matrix="ggn", products=60)
    assert_same_state(model, before)
    assert found == trace(model, batch, entropy, matrix="ggn", products=60)
    assert found == pytest.approx(float(dense_ggn(model, batch).trace()), rel=0.02)
