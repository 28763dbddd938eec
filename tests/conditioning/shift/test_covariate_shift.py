"""The whole measurement: the cut of the batches, ranks, wrappers, and what it leaves behind."""

import copy
import math
from typing import Any

import pytest
import torch
from tests.conditioning.shift.nets import assert_same_shift, batches, loss_fn, mean_fn, net, normalized_net
from torch import Tensor, nn

from truestep.conditioning.shift import covariate_shift, ics_share, layer_shift
from truestep.core import moments


def test_every_layer_has_the_shift_of_its_own_inputs() -> None:
    model, (x, y) = net(), batches((20,))[0]
    found = covariate_shift(model, [(x, y)], loss_fn=loss_fn)
    assert list(found.layers) == ["0", "2", "4"]
    h = x
    for name, module in model.named_children():
        if name in found.layers:
            out = module(h).detach().requires_grad_()
            loss = nn.functional.cross_entropy(model[int(name) + 1 :](out.clone()), y)
            (delta,) = torch.autograd.grad(loss, out)
            expected = layer_shift(moments(h))
            assert found.layers[name].nu == pytest.approx(expected.nu, rel=1e-12)
            assert found.layers[name].largest == pytest.approx(expected.largest, rel=1e-12)
            share = float(ics_share(h.detach().mean(0), h, delta).share)
            assert found.layers[name].ics_share == pytest.approx(share, rel=1e-11)
        h = module(h.clone())


@pytest.mark.parametrize("sizes", [(1, 19), (7, 6, 7), (4,) * 5])
def test_the_shift_does_not_depend_on_how_the_batches_are_cut(sizes: tuple[int, ...]) -> None:
    for model in (net(), normalized_net()):
        whole = covariate_shift(model, batches((20,)), loss_fn=loss_fn)
        assert_same_shift(covariate_shift(model, batches(sizes), loss_fn=loss_fn), whole)


def test_a_mean_loss_weighs_batches_by_their_rows() -> None:
    model = normalized_net()
    whole = covariate_shift(model, batches((20,)), loss_fn=mean_fn)
    assert_same_shift(covariate_shift(model, batches((3, 17)), loss_fn=mean_fn), whole)


def assert_same_numbers(row: dict[str, Any], expected: dict[str, Any], rel: float) -> None:
    """Equal rows of `CovariateShift.rows`."""
    assert row["layer"] == expected["layer"]
    numbers = [key for key in expected if key != "layer"]
    assert [row[key] for key in numbers] == pytest.approx([expected[key] for key in numbers], rel=rel, nan_ok=True)


def test_ranks_with_their_own_batches_find_what_one_finds(ranks: list[Any]) -> None:
    for seen in ranks:
        assert seen["shift"][0]["n"] == 17
        for mine, whole, first in zip(seen["shift"], seen["whole"], ranks[0]["shift"], strict=True):
            assert_same_numbers(mine, whole, 1e-11)
            assert_same_numbers(mine, first, 0.0)
    assert [seen["batches"] for seen in ranks] == [3, 1]


def test_sharded_weights_make_no_difference_and_are_kept(ranks: list[Any]) -> None:
    for seen in ranks:
        assert seen["kept"]
        for mine, whole in zip(seen["sharded"], seen["whole"], strict=True):
            assert_same_numbers(mine, whole, 1e-12)


def test_an_iterator_is_looked_at_twice() -> None:
    model = net()
    expected = covariate_shift(model, batches((5, 5)), loss_fn=loss_fn)
    assert_same_shift(covariate_shift(model, iter(batches((5, 5))), loss_fn=loss_fn), expected)


def test_both_looks_see_the_same_dropout() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(), nn.Linear(6, 3, bias=False)).double()
    for p in model[0].parameters():
        nn.init.constant_(p, 0.5)
    model[0].weight.data.zero_()  # the inputs of the last layer are the mask alone: 0 or 1
    (batch,) = batches((1,))
    share = covariate_shift(model, [batch], loss_fn=mean_fn).layers["2"].ics_share
    assert share == pytest.approx(1, abs=1e-12)  # of one row all lies along the mean, if it is the same row


class TestWithoutLoss:
    """Inputs alone, in one pass."""

    @pytest.mark.parametrize("form", [lambda x: x, lambda x: (x, 1), lambda x: [x], lambda x: {"input": x}])
    def test_the_model_is_called_with_the_batch(self, form: Any) -> None:
        model, x = net(), batches((9,))[0][0]
        found = covariate_shift(model, [form(x)])
        assert (found.layers["0"].n, found.normalizations) == (9, {})
        assert math.isnan(found.layers["0"].ics_share)
        assert found.layers["0"].nu == pytest.approx(float(x.mean(0).square().sum()) + 1, rel=1e-12)

    def test_an_iterator_is_enough(self) -> None:
        found = covariate_shift(net(), (x for x, _ in batches((4, 3))))
        assert (found.batches, found.layers["2"].n) == (2, 7)


def awkward() -> tuple[nn.Module, Tensor]:
    """A model with everything that a forward pass changes."""
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3))
    )
    model[2].eval()
    model[0].weight.grad = torch.ones(6, 4)
    return model.double(), batches((8,))[0][0]


def state(model: nn.Module) -> Any:
    """All that must be as before, bit by bit."""
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    wants = [p.requires_grad for p in model.parameters()]
    return copy.deepcopy(model.state_dict()), gradients, modes, hooks, wants, torch.get_rng_state()


@pytest.mark.parametrize("with_loss", [True, False])
def test_the_run_is_left_as_it_was(with_loss: bool) -> None:
    model, x = awkward()
    before = state(model)
    covariate_shift(model, [(x, None)], loss_fn=mean_fn if with_loss else None)
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)


def test_a_failing_loss_leaves_no_hooks() -> None:
    model, x = awkward()
    before = state(model)

    def fails(model: nn.Module, batch: Any) -> Tensor:
        mean_fn(model, batch)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        covariate_shift(model, [(x, None)], loss_fn=fails)
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)


def test_no_grad_around_it_makes_no_difference() -> None:
    model = net()
    expected = covariate_shift(model, batches((8,)), loss_fn=loss_fn)
    with torch.no_grad():
        assert_same_shift(covariate_shift(model, batches((8,)), loss_fn=loss_fn), expected)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept_and_named(training: bool) -> None:
    model, x = awkward()
    found = covariate_shift(model.train(training), [(x, None)], loss_fn=mean_fn)
    assert found.train_mode == training
    assert (found.normalizations["1"].ratio == pytest.approx(1, rel=1e-12)) == (not training)


def test_wrappers_are_taken_off() -> None:
    model = net()
    expected = covariate_shift(model, batches((8,)), loss_fn=loss_fn)
    parts = copy.deepcopy(model)
    parts[2].compile(backend="eager")
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager"), parts):
        if not isinstance(wrapped, nn.DataParallel):
            wrapped(batches((8,))[0][0])  # the graph is there before the hooks
        assert_same_shift(covariate_shift(wrapped, batches((8,)), loss_fn=loss_fn), expected)


def test_the_loss_gets_the_bare_model() -> None:
    model = net()

    def loss(found: nn.Module, batch: Any) -> Any:
        assert found is model  # DDP would wait for gradients of its parameters, which nobody asks for
        return loss_fn(found, batch)

    covariate_shift(nn.DataParallel(model), batches((8,)), loss_fn=loss)


def test_without_bias_there_is_no_coordinate_for_it() -> None:
    x = batches((9,))[0][0]
    with_bias, without = (
        covariate_shift(nn.Linear(4, 2, bias=bias).double(), [x]).layers[""] for bias in (True, False)
    )
    assert with_bias.nu == pytest.approx(without.nu + 1, rel=1e-12)
    assert with_bias.largest == without.largest


def test_of_groups_the_worst_is_shown() -> None:
    conv = nn.Conv2d(2, 2, 1, groups=2)
    x = torch.stack([torch.randn(50, 3, 3), torch.randn(50, 3, 3) + 5], 1)
    shift = covariate_shift(conv, [x]).layers[""]
    assert (shift.group, shift.mean.numel(), shift.n) == (1, 1, 450)
    assert shift.outlier > 20
    assert covariate_shift(conv, [x.flip(1)]).layers[""].group == 0
    dead = torch.stack([x[:, 1], torch.zeros_like(x[:, 1])], 1)  # an outlier of 1 / 0 that curves nothing
    assert covariate_shift(conv, [dead]).layers[""].group == 0
    dead[0, 1, 0, 0] = torch.nan
    assert covariate_shift(conv, [dead]).layers[""].group == 1


def test_a_layer_that_is_not_called_is_left_out() -> None:
    model = nn.ModuleDict({"used": nn.Linear(4, 2), "idle": nn.Linear(4, 2)}).double()
    found = covariate_shift(model, batches((5,)), loss_fn=lambda m, batch: m["used"](batch[0]).sum())
    assert list(found.layers) == ["used"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (nn.ReLU(), [torch.ones(1)], "`model` must have a Linear or Conv2d layer, found none"),
        (nn.Linear(2, 2), [], "`batches` must make the model call one of its 1 Linear and Conv2d layers; found no"),
    ],
)
def test_what_cannot_be_measured_is_said(model: nn.Module, given: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        covariate_shift(model, given)


def test_a_loss_without_the_model_is_refused() -> None:
    other = net()
    with pytest.raises(ValueError, match="with gradients, on the `model` it is given"):
        covariate_shift(net(), batches((5,)), loss_fn=lambda _, batch: mean_fn(other, batch))


def test_layers_can_be_chosen_and_have_the_same_shift() -> None:
    model = normalized_net()
    whole = covariate_shift(model, batches((20,)), loss_fn=loss_fn)
    for names in (["3"], "3", iter(["_orig_mod.3"])):
        found = covariate_shift(model, batches((20,)), loss_fn=loss_fn, layers=names)
        assert list(found.layers) == ["3"]
        assert found.layers["3"].ics_share == whole.layers["3"].ics_share
        assert found.layers["3"].largest == whole.layers["3"].largest
        assert found.normalizations["1"].ratio == whole.normalizations["1"].ratio
        assert math.isnan(found.normalizations["1"].weight_ratio)  # its layer is not among them
    both = covariate_shift(model, batches((20,)), loss_fn=loss_fn, layers=["3", "0"])
    assert list(both.layers) == ["0", "3"]
    assert both.normalizations["1"].weight_ratio == whole.normalizations["1"].weight_ratio


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0", "1"], r"`layers` must name Linear or Conv2d layers of `model` \(0, 3\), found 1"),
        ([], "`layers` must name one layer or more, found none"),
    ],
)
def test_names_of_no_layer_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        covariate_shift(normalized_net(), batches((5,)), layers=names)


def test_of_a_wide_layer_only_the_largest_eigenvalue_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(16, 1100, dtype=torch.float64) + 1
    centred = x - x.mean(0)
    expected = float(torch.linalg.eigvalsh(centred @ centred.T / 16)[-1])
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda _: pytest.fail("all eigenvalues are computed"))
    found = covariate_shift(nn.Linear(1100, 2).double(), [x]).layers[""].largest
    assert found == pytest.approx(expected, rel=1e-9)


def test_normalization_that_is_not_measured_is_named() -> None:
    class Own(nn.LayerNorm):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input.movedim(1, -1)).movedim(-1, 1)

    parts = [nn.Conv2d(2, 3, 1), Own(3), nn.LocalResponseNorm(2), nn.InstanceNorm2d(3), nn.RMSNorm(5), nn.ReLU()]
    model = nn.Sequential(*parts, nn.utils.parametrizations.spectral_norm(nn.Linear(5, 2))).double()
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    found = covariate_shift(model, [x], loss_fn=lambda m, x: m(x).square().mean())
    assert list(found.normalizations) == ["3", "4"]
    assert found.skipped == {"1": "Own", "2": "LocalResponseNorm"}
    last = "normalization that is not measured: 1 (Own), 2 (LocalResponseNorm)"
    assert str(found).splitlines()[-1] == last
    assert "not measured" not in str(covariate_shift(model, [x]))
