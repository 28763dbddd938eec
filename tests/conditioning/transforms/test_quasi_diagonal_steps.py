"""The steps of an optimizer under QuasiDiagonal, against the pure function on Fisher entries worked out one by one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, unfold
from torch.optim import SGD

from truestep.conditioning.transforms._fisher import UnitFisher, exact_deltas, sampled_deltas, unit_fisher
from truestep.conditioning.transforms._natural_step import diagonal, quasi_diagonal
from truestep.conditioning.transforms._quasi_diagonal import QuasiDiagonal

LR, DAMPING = 0.05, 0.03


def net(bias: bool = True, act: type[nn.Module] = nn.Sigmoid) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), act(), nn.Linear(6, 3, bias=bias)).double()


def batch(n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, 5, dtype=torch.float64, generator=generator), torch.arange(n) % 3


def stepped(
    model: nn.Module, backward: Callable[[nn.Module, QuasiDiagonal, SGD], Any], steps: int = 1, **settings: Any
) -> dict[str, Tensor]:
    """How far the weights went in `steps` steps of size 1, where `backward` fills the gradients."""
    optimizer = SGD(model.parameters(), lr=LR)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    transform = QuasiDiagonal(model, optimizer, **{"damping": DAMPING} | settings)
    for _ in range(steps):
        optimizer.zero_grad()
        backward(model, transform, optimizer)
        optimizer.step()
    transform.close()
    return {name: (before[name] - p.detach()) / LR for name, p in model.named_parameters()}


def plain(reduction: str = "mean", n: int = 12) -> Callable[..., None]:
    def backward(model: nn.Module, transform: QuasiDiagonal, _: SGD) -> None:
        x, y = batch(n)
        cross_entropy(model(x), y, reduction=reduction).backward()

    return backward


def observing(model: nn.Module, transform: QuasiDiagonal, _: SGD) -> None:
    x, y = batch()
    logits = model(x)
    transform.observe(logits)
    cross_entropy(logits, y).backward()


def passed(model: nn.Sequential, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of the two layers."""
    first = model[0](x)
    hidden = model[1](first)
    return [x, hidden], [first, model[2](hidden)]


def entries(fisher: UnitFisher) -> tuple[Tensor, Tensor, Tensor]:
    return fisher.bias / fisher.n, fisher.cross / fisher.n, fisher.weight / fisher.n


def expected(model: nn.Sequential, vectors: Callable[[Tensor, Tensor], list[Tensor]]) -> dict[str, Tensor]:
    """The steps, from the Fisher information of gradients at the logits that `vectors` makes of logits and labels."""
    x, y = batch()
    inputs, outputs = passed(model, x)
    names, params = zip(*model.named_parameters(), strict=True)
    grads = dict(zip(names, torch.autograd.grad(cross_entropy(outputs[-1], y), params, retain_graph=True), strict=True))
    each = [torch.autograd.grad(outputs[-1], outputs, v, retain_graph=True) for v in vectors(outputs[-1], y)]
    found: dict[str, Tensor] = {}
    for name, a, deltas in zip("02", inputs, zip(*each, strict=True), strict=True):
        f00, f0j, fjj = entries(unit_fisher(a.repeat(len(deltas), 1), torch.cat(deltas), len(x)))
        weight, bias = f"{name}.weight", f"{name}.bias"
        if bias in grads:
            found[weight], found[bias] = quasi_diagonal(grads[weight], grads[bias], f00, f0j, fjj, DAMPING)
        else:
            found[weight] = diagonal(grads[weight], fjj, DAMPING)
    return found


def own_deltas(logits: Tensor, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(cross_entropy(logits, y, reduction="sum"), logits, retain_graph=True))[:1]


def assert_same(found: dict[str, Tensor], other: dict[str, Tensor], rtol: float = 1e-10) -> None:
    torch.testing.assert_close(found, other, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_the_empirical_fisher_is_that_of_each_samples_own_loss(bias: bool) -> None:
    assert_same(stepped(net(bias), plain()), expected(net(bias), own_deltas))


def test_the_exact_fisher_is_the_sum_over_all_labels() -> None:
    assert_same(stepped(net(), observing, fisher="exact"), expected(net(), lambda z, _: list(exact_deltas(z))))


def test_the_sampled_fisher_is_that_of_the_labels_drawn() -> None:
    def draws(logits: Tensor, _: Tensor) -> list[Tensor]:
        return [sampled_deltas(logits, torch.Generator().manual_seed(7))]

    found = stepped(net(), observing, fisher="sampled", generator=torch.Generator().manual_seed(7))
    assert_same(found, expected(net(), draws))


def test_a_summed_loss_has_the_same_fisher_and_a_gradient_of_its_own_units() -> None:
    found = stepped(net(), plain("sum"), reduction="sum")
    assert_same({name: step / 12 for name, step in found.items()}, stepped(net(), plain()))


@pytest.mark.parametrize("fisher", ["empirical", "exact"])
def test_micro_batches_are_their_union(fisher: str) -> None:
    def pieces(model: nn.Module, transform: QuasiDiagonal, _: SGD) -> None:
        for x, y in zip(*(part.split(4) for part in batch()), strict=True):
            logits = model(x)
            if fisher == "exact":
                transform.observe(logits)
            (cross_entropy(logits, y) / 3).backward()

    whole = plain() if fisher == "empirical" else observing
    assert_same(stepped(net(), pieces, fisher=fisher), stepped(net(), whole, fisher=fisher))


def test_a_gradient_scaler_changes_nothing() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def scaled(model: nn.Module, transform: QuasiDiagonal, optimizer: SGD) -> None:
        x, y = batch()
        scaler.scale(cross_entropy(model(x), y)).backward()
        scaler.unscale_(optimizer)

    assert_same(stepped(net(), scaled, scaler=scaler), stepped(net(), plain()))


def test_running_sums_weigh_batches_by_their_size_and_forget() -> None:
    sizes = iter((12, 6))

    def backward(model: nn.Module, transform: QuasiDiagonal, optimizer: SGD) -> None:
        plain(n=next(sizes))(model, transform, optimizer)

    model = net()
    model.requires_grad_(False)[2].requires_grad_(True)
    found = stepped(model, backward, steps=2, ema=0.5)
    twin = net()
    steps, sums = [], None
    for n in (12, 6):
        x, y = batch(n)
        hidden = twin[:2](x).detach()
        logits = twin[2](hidden)
        grads = torch.autograd.grad(cross_entropy(logits, y), list(twin[2].parameters()), retain_graph=True)
        new = unit_fisher(hidden, own_deltas(logits, y)[0], n)
        sums = new if sums is None else UnitFisher(*(0.5 * a + b for a, b in zip(parts(sums), parts(new), strict=True)))
        steps.append(quasi_diagonal(*grads, *entries(sums), DAMPING))
        for p, step in zip(twin[2].parameters(), steps[-1], strict=True):
            p.data -= LR * step
    assert_same({"2.weight": found["2.weight"]}, {"2.weight": steps[0][0] + steps[1][0]})


def parts(fisher: UnitFisher) -> list[Tensor]:
    return [fisher.n, fisher.bias, fisher.cross, fisher.weight]


@pytest.mark.parametrize("fisher", ["empirical", "exact"])
def test_words_of_a_sequence_are_as_many_samples(fisher: str) -> None:
    def sequences(model: nn.Module, transform: QuasiDiagonal, _: SGD) -> None:
        x, y = batch()
        logits = model(x.view(3, 4, 5))
        if fisher == "exact":
            transform.observe(logits)
        cross_entropy(logits.flatten(0, 1), y).backward()

    whole = plain() if fisher == "empirical" else observing
    assert_same(stepped(net(), sequences, fisher=fisher, predictions=4), stepped(net(), whole, fisher=fisher))


def test_the_places_of_a_grouped_convolution_are_uncorrelated_samples_of_its_units() -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=2).double()
    x = torch.randn(5, 4, 4, 4, dtype=torch.float64)
    out = conv(x)
    target = torch.randn_like(out)
    deltas = 2 * (out - target).detach()  # of each sample's own summed squares
    grads = torch.autograd.grad((out - target).square().sum() / 5, list(conv.parameters()))
    rows = unfold(x, 3, padding=1).view(5, 2, 18, 16).permute(1, 0, 3, 2).reshape(2, 80, 18)
    by_group = deltas.view(5, 2, 3, 16).permute(1, 0, 3, 2).reshape(2, 80, 3)
    f00, f0j, fjj = entries(unit_fisher(rows, by_group, 5))
    weight, bias = quasi_diagonal(grads[0].flatten(1), grads[1], f00, f0j, fjj, DAMPING)

    def backward(model: nn.Module, transform: QuasiDiagonal, _: SGD) -> None:
        ((model(x) - target).square().sum() / 5).backward()

    assert_same(stepped(conv, backward), {"weight": weight.view_as(conv.weight), "bias": bias})


def test_logistic_and_tanh_twins_stay_one_function_for_40_steps_where_sgd_parts_them() -> None:
    def logits_after(model: nn.Sequential, lr: float, transformed: bool) -> Tensor:
        optimizer = SGD(model.parameters(), lr=lr)
        transform = QuasiDiagonal(model, optimizer, fisher="exact", damping=0) if transformed else None
        x, y = batch(30)
        for _ in range(40):
            optimizer.zero_grad()
            logits = model(x)
            if transform is not None:
                transform.observe(logits)
            cross_entropy(logits, y).backward()
            optimizer.step()
        return model(x).detach()

    def twins() -> tuple[nn.Sequential, nn.Sequential]:
        logistic, tanh = net(), net(act=nn.Tanh)
        with torch.no_grad():  # logistic(s) is (1 + tanh(s/2))/2
            for p in logistic.parameters():
                p.mul_(3)
            tanh.load_state_dict(logistic.state_dict())
            tanh[2].bias += tanh[2].weight.sum(1) / 2
            for p in (tanh[2].weight, tanh[0].weight, tanh[0].bias):
                p.div_(2)
        return logistic, tanh

    natural = [logits_after(model, 0.05, transformed=True) for model in twins()]
    sgd = [logits_after(model, 2.0, transformed=False) for model in twins()]
    assert float((natural[0] - natural[1]).abs().max()) < 1e-9
    assert float((sgd[0] - sgd[1]).abs().max()) > 0.5


def test_observing_leaves_gradients_graph_and_random_numbers_alone() -> None:
    model, (x, y) = net(), batch()
    transform = QuasiDiagonal(model, SGD(model.parameters(), lr=0.1), fisher="sampled")
    before, logits = torch.get_rng_state(), model(x)
    transform.observe(logits)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    cross_entropy(logits, y).backward()
    found = [p.grad.clone() for p in model.parameters()]
    twin = net()
    cross_entropy(twin(x), y).backward()
    assert all(map(torch.equal, found, [p.grad for p in twin.parameters()]))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"reduction": "none"}, "`reduction` must be one of mean, sum, found 'none'"),
        ({"fisher": "true"}, "`fisher` must be one of empirical, sampled, exact, found 'true'"),
        ({"damping": -1.0}, "`damping` must be .* found -1.0"),
        ({"predictions": 0}, "`predictions` must be .* found 0"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], named: str) -> None:
    model = net()
    with pytest.raises(ValueError, match=named):
        QuasiDiagonal(model, SGD(model.parameters(), lr=0.1), **settings)


def test_observing_without_need_or_graph_is_refused() -> None:
    model = net()
    logits = model(batch()[0])
    transform = QuasiDiagonal(model, SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match='`fisher` must be "sampled" or "exact"'):
        transform.observe(logits)
    transform.close()
    transform = QuasiDiagonal(model, SGD(model.parameters(), lr=0.1), fisher="exact")
    with pytest.raises(ValueError, match="`logits` must have a graph"):
        transform.observe(logits.detach())


def test_an_empty_batch_can_be_observed() -> None:
    def empty(model: nn.Module, transform: QuasiDiagonal, _: SGD) -> None:
        logits = model(batch()[0][:0])
        transform.observe(logits)
        logits.sum().backward()

    assert not any(bool(step.any()) for step in stepped(net(), empty, fisher="exact", reduction="sum").values())


def silent(kind: str) -> tuple[nn.Module, Tensor, Callable[[Tensor], Tensor], dict[str, Any]]:
    """A float32 model, its batch and loss, where no gradient reaches the first layer, or one too small to square."""
    x, layer = torch.rand(16, 3), nn.Linear(3, 2)
    if kind == "dead ReLUs":
        nn.init.constant_(layer.bias, -9.0)
        return nn.Sequential(layer, nn.ReLU(), nn.Linear(2, 1)), x, lambda z: (z - 1).square().mean(), {}
    if kind == "satisfied hinge":
        return layer, x, lambda z: (0 * z - 1).relu().mean(), {}
    if kind == "empty batch":
        return layer, x[:0], lambda z: z.square().sum(), {"reduction": "sum"}
    nn.init.zeros_(layer.weight)[0, 0].data.fill_(60.0)
    x[:, 0] = 1 + 0.01 * x[:, 0]
    return layer, x, lambda z: cross_entropy(z, torch.zeros(len(z), dtype=torch.long)), {}


@pytest.mark.parametrize("kind", ["dead ReLUs", "satisfied hinge", "empty batch", "underflow"])
def test_a_layer_that_no_gradient_reaches_stays_where_it_is_under_the_default_damping(kind: str) -> None:
    model, x, loss, settings = silent(kind)
    optimizer = SGD(model.parameters(), lr=0.1)
    QuasiDiagonal(model, optimizer, **settings)
    before = [p.detach().clone() for p in model.parameters()]
    loss(model(x)).backward()
    optimizer.step()
    after = list(model.parameters())
    assert all(map(torch.equal, before[:2], after[:2]))
    assert all(bool(p.isfinite().all()) for p in after)


@pytest.mark.parametrize("fisher", ["empirical", "exact"])
@pytest.mark.parametrize("flat", ["layer", "head"])
def test_one_function_has_one_step_wherever_its_sequences_are_laid_flat(flat: str, fisher: str) -> None:
    def laid(model: nn.Module, transform: QuasiDiagonal, _: SGD) -> None:
        x, y = batch()
        first, act, head = model
        hidden = act(first(x.view(3, 4, 5) if flat == "head" else x))
        logits = head(hidden.view(12, 6) if flat == "head" else hidden)
        if fisher == "exact":
            transform.observe(logits)
        cross_entropy(logits, y).backward()

    whole = plain() if fisher == "empirical" else observing
    assert_same(stepped(net(), laid, fisher=fisher), stepped(net(), whole, fisher=fisher))


def test_a_pair_through_one_call_takes_the_step_of_two_calls() -> None:
    def pair(joined: bool) -> Callable[..., None]:
        def backward(model: nn.Module, _transform: QuasiDiagonal, _: SGD) -> None:
            first, act, head = model
            x, y = batch()
            left, right = act(first(x)).split(6) if joined else (act(first(x[:6])), act(first(x[6:])))
            cross_entropy(head(left * right), y[:6]).backward()

        return backward

    assert_same(stepped(net(), pair(joined=True)), stepped(net(), pair(joined=False)))


def test_layers_that_disagree_on_the_samples_are_named_once_unless_they_are_set(capsys: Any) -> None:
    def flat(model: nn.Module, transform: QuasiDiagonal, _: SGD) -> None:
        first, act, head = model
        head(act(first(batch()[0].view(3, 4, 5))).view(12, 6)).square().mean().backward()

    def setting(*args: Any) -> None:
        args[1].samples = 12
        flat(*args)

    set_by_hand = stepped(net(), setting)
    assert not capsys.readouterr().err
    assert_same(stepped(net(), flat), set_by_hand)
    (told,) = capsys.readouterr().err.splitlines()
    assert "with 12 and with 3 samples" in told
    stepped(net(), flat, steps=2)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_samples_that_are_set_are_those_of_the_mean() -> None:
    """Ignored targets: the loss is the mean over the others."""

    def ignoring(model: nn.Module, transform: QuasiDiagonal, _: SGD) -> None:
        x, y = batch()
        transform.samples = 8
        cross_entropy(model(x), y.masked_fill(torch.arange(12) >= 8, -100)).backward()

    def alone(model: nn.Module, _transform: QuasiDiagonal, _: SGD) -> None:
        x, y = batch()
        cross_entropy(model(x[:8]), y[:8]).backward()

    assert_same(stepped(net(), ignoring), stepped(net(), alone))


def test_losses_added_over_backwards_have_the_fisher_of_all_with_the_samples_of_one() -> None:
    def one(model: nn.Module, transform: QuasiDiagonal, _: SGD) -> None:
        x, y = batch()
        transform.samples = 12
        for part in (slice(0, 6), slice(6, 12)):  # each the sum over its samples, over those of both
            (cross_entropy(model(x[part]), y[part], reduction="sum") / 12).backward()

    assert_same(stepped(net(), one), stepped(net(), plain()))


def test_fewer_than_no_samples_are_refused() -> None:
    model = net()
    transform = QuasiDiagonal(model, SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"`samples` must be .* found -1"):
        transform.samples = -1
