"""What holds for SignSGD, Lion and AdaBelief alike: lists, resuming, closures, decay, what is refused; their peers."""

import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from truestep.compare import AdaBelief, Lion, SignSGD
from truestep.compare._elementwise import AbstractElementwise
from truestep.core import Recorder, Step

RULES: dict[str, Callable[..., Optimizer]] = {
    "SignSGD": SignSGD,
    "Signum": partial(SignSGD, momentum=0.9),
    "Lion": Lion,
    "AdaBelief": AdaBelief,
}
EVERY_RULE = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
LOOP_OR_LIST = pytest.mark.parametrize("foreach", [False, True])
DECAY = 0.1


def weights_of_all_kinds() -> list[torch.nn.Parameter]:
    kinds = [
        torch.randn(4, 3),
        torch.randn(()),
        torch.randn(0),
        torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        torch.randn(5, 3, dtype=torch.float64).t(),
        torch.randn(6, dtype=torch.bfloat16),
        torch.randn(3, dtype=torch.complex128),
    ]
    return [torch.nn.Parameter(x) for x in kinds]


def fill(weights: list[torch.nn.Parameter], seed: int) -> None:
    """Gradients of one seed, where the weight is to have one."""
    generator = torch.Generator().manual_seed(seed)
    for index, weight in enumerate(weights):
        gradient = torch.randn(weight.shape, dtype=torch.complex128, generator=generator)
        gradient = gradient if weight.is_complex() else gradient.real
        weight.grad = None if index == seed % 4 else gradient.to(weight.dtype)


def train(optimizer: Optimizer, weights: list[torch.nn.Parameter], seeds: range) -> None:
    for seed in seeds:
        fill(weights, seed)
        optimizer.step()


def assert_same_bits(found: list[torch.nn.Parameter], expected: list[torch.nn.Parameter]) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine, other)


@EVERY_RULE
@pytest.mark.parametrize("weight_decay", [0.0, DECAY])
def test_foreach_equals_the_loop(rule: Callable[..., Optimizer], weight_decay: float) -> None:
    loop = weights_of_all_kinds()
    before, together = copy.deepcopy(loop), copy.deepcopy(loop)
    for weights, foreach in ((loop, False), (together, True)):
        optimizer = rule(weights, lr=0.01, weight_decay=weight_decay, foreach=foreach)
        train(optimizer, weights, range(12))
    assert_same_bits(together, loop)
    assert not any(torch.equal(mine, old) for mine, old in zip(loop, before, strict=True) if mine.numel())


@EVERY_RULE
@LOOP_OR_LIST
def test_a_run_is_resumed_bit_for_bit(rule: Callable[..., Optimizer], foreach: bool) -> None:
    whole = weights_of_all_kinds()
    halved = copy.deepcopy(whole)
    settings = {"lr": 0.01, "weight_decay": DECAY, "foreach": foreach}
    train(rule(whole, **settings), whole, range(12))
    first = rule(halved, **settings)
    train(first, halved, range(5))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = rule(halved, lr=7.0)
    second.load_state_dict(torch.load(file, weights_only=True))
    train(second, halved, range(5, 12))
    assert_same_bits(halved, whole)


@EVERY_RULE
def test_elements_do_not_see_each_other(rule: Callable[..., Optimizer]) -> None:
    whole = torch.nn.Parameter(torch.randn(4, 6))
    parts = [torch.nn.Parameter(part.clone()) for part in whole.detach().split(2, dim=1)]
    both = [rule(weights, lr=0.01, weight_decay=DECAY) for weights in ([whole], parts)]
    for _ in range(8):
        whole.grad = torch.randn(4, 6)
        for part, gradient in zip(parts, whole.grad.split(2, dim=1), strict=True):
            part.grad = gradient.clone()
        for optimizer in both:
            optimizer.step()
    assert torch.equal(torch.cat(parts, dim=1), whole)


@EVERY_RULE
def test_a_complex_weight_counts_as_its_two_real_parts(rule: Callable[..., Optimizer]) -> None:
    one = torch.nn.Parameter(torch.randn(5, dtype=torch.complex128))
    two = torch.nn.Parameter(torch.view_as_real(one.detach()).clone())
    both = [rule([weight], lr=0.01, weight_decay=DECAY) for weight in (one, two)]
    for _ in range(8):
        gradient = torch.randn(5, dtype=torch.complex128)
        one.grad, two.grad = gradient.conj(), torch.view_as_real(gradient.conj().resolve_conj())
        for optimizer in both:
            optimizer.step()
    assert torch.equal(torch.view_as_real(one.detach()), two)


@EVERY_RULE
@LOOP_OR_LIST
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_tensor_lr_does_what_the_number_does(
    rule: Callable[..., Optimizer], foreach: bool, shape: tuple[int, ...]
) -> None:
    number = weights_of_all_kinds()
    tensor = copy.deepcopy(number)
    lr = torch.full(shape, 0.01, dtype=torch.float64)
    train(rule(number, lr=0.01, weight_decay=DECAY, foreach=foreach), number, range(6))
    train(rule(tensor, lr=lr, weight_decay=DECAY, foreach=foreach), tensor, range(6))
    for mine, other in zip(tensor, number, strict=True):
        torch.testing.assert_close(mine, other)
    assert torch.equal(lr, torch.full(shape, 0.01, dtype=torch.float64))


@EVERY_RULE
@LOOP_OR_LIST
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_scheduler_sets_the_length(rule: Callable[..., Optimizer], foreach: bool, as_tensor: bool) -> None:
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    lr = torch.tensor(1.0, dtype=torch.float64) if as_tensor else 1.0
    optimizer = rule([weight], lr=lr, foreach=foreach)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step == 0))
    moved = []
    for _ in range(2):
        before = weight.detach().clone()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        scheduler.step()
        moved.append(bool((weight != before).all()))
    assert moved == [True, False]


@EVERY_RULE
@LOOP_OR_LIST
def test_weight_decay_stays_out_of_the_direction(rule: Callable[..., Optimizer], foreach: bool) -> None:
    gradients = torch.randn(6, 5, dtype=torch.float64)
    start = torch.randn(5, dtype=torch.float64)
    free, decayed = (torch.nn.Parameter(start.clone()) for _ in range(2))
    one = rule([free], lr=0.01, foreach=foreach)
    other = rule([decayed], lr=0.01, weight_decay=0.5, foreach=foreach)
    for gradient in gradients:
        before = free.detach().clone(), decayed.detach().clone()
        free.grad, decayed.grad = gradient, gradient
        one.step()
        other.step()
        step = free.detach() - before[0]
        torch.testing.assert_close(decayed.detach() - before[1], step - 0.01 * 0.5 * before[1], rtol=1e-10, atol=1e-15)


@EVERY_RULE
@LOOP_OR_LIST
def test_gradients_are_left_as_they_are(rule: Callable[..., Optimizer], foreach: bool) -> None:
    weights = weights_of_all_kinds()
    optimizer = rule(weights, weight_decay=DECAY, foreach=foreach)
    for seed in range(3):
        fill(weights, seed)
        kept = [None if w.grad is None else w.grad.clone() for w in weights]
        optimizer.step()
        for weight, gradient in zip(weights, kept, strict=True):
            assert weight.grad is None if gradient is None else torch.equal(weight.grad, gradient)


@EVERY_RULE
@LOOP_OR_LIST
def test_a_weight_without_gradient_is_not_even_decayed(rule: Callable[..., Optimizer], foreach: bool) -> None:
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = rule([{"params": [used]}, {"params": [unused]}], weight_decay=0.5, foreach=foreach)
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused.data, torch.ones(2))
    assert not torch.equal(used.data, torch.ones(2))


@EVERY_RULE
def test_each_group_has_its_own_lr(rule: Callable[..., Optimizer]) -> None:
    short, long = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = rule([{"params": [short], "lr": 0.25}, {"params": [long]}], lr=0.5)
    short.grad, long.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    assert torch.equal(2 * short, long)


@EVERY_RULE
def test_a_closure_is_called_once_with_gradients_on_and_its_loss_comes_back(rule: Callable[..., Optimizer]) -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = rule([weight], lr=0.5)
    seen: list[Tensor] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        seen.append(loss)
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert [loss] == seen
    assert loss.item() == 9
    assert weight.item() < 3
    assert optimizer.step() is None


@EVERY_RULE
def test_sparse_gradients_are_refused_before_anything_moves(rule: Callable[..., Optimizer]) -> None:
    plain, table = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3, 2))
    plain.grad = torch.ones(2)
    table.grad = torch.sparse_coo_tensor([[1]], [[1.0, 1.0]], (3, 2), check_invariants=True)
    optimizer = rule([{"params": [plain]}, {"params": [table]}])
    with pytest.raises(ValueError, match=r"`params` must have dense gradients, found one of layout torch.sparse_coo"):
        optimizer.step()
    assert torch.equal(plain.data, torch.ones(2))


@pytest.mark.usefixtures("unchecked")
@EVERY_RULE
@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", -1.0), ("lr", float("nan")), ("lr", torch.ones(2)), ("weight_decay", -1.0), ("weight_decay", float("inf"))],
)
def test_a_setting_out_of_range_is_refused_also_in_a_group(
    rule: Callable[..., Optimizer], name: str, value: Any
) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        rule([weight], **{name: value})
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        rule([{"params": [weight], name: value}])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("rule", "settings", "message"),
    [
        (SignSGD, {"momentum": 1.0}, "`momentum` must be at least 0 and below 1, found 1.0"),
        (Lion, {"betas": (0.9, 1.0)}, r"`betas\[1\]` must be at least 0 and below 1, found 1.0"),
        (AdaBelief, {"betas": (-0.1, 0.9)}, r"`betas\[0\]` must be at least 0 and below 1, found -0.1"),
        (AdaBelief, {"betas": (0.9,)}, "`betas` must be two numbers"),
    ],
)
def test_a_decay_of_averages_out_of_range_is_refused(rule: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule([torch.nn.Parameter(torch.ones(2))], **settings)


@EVERY_RULE
def test_a_recorder_reads_what_was_asked_and_taken(rule: Callable[..., Optimizer]) -> None:
    model = torch.nn.Linear(3, 1)
    optimizer = rule(model.parameters(), lr=0.25)
    steps: list[Step] = []
    recorder = Recorder(dict(model.named_parameters()), optimizer, steps.append)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    recorder.close()
    (step,) = steps
    assert step.asked.lr.tolist() == [0.25, 0.25]
    assert bool((step.took.dd > 0).all())


def test_the_shared_class_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        AbstractElementwise([torch.nn.Parameter(torch.ones(2))], 0.1, 0.0, None)


PEERS = [
    (SignSGD, "SignSGD", {"momentum": 0.9}, {}),
    (SignSGD, "SignSGD", {"momentum": 0.0}, {}),
    (Lion, "Lion", {"betas": (0.9, 0.98)}, {}),
    (AdaBelief, "AdaBelief", {"betas": (0.9, 0.99)}, {"rectify": False}),
    (AdaBelief, "AdaBelief", {"betas": (0.9, 0.99), "eps": 1e-3}, {"rectify": False}),
]


@pytest.mark.parametrize(("rule", "name", "settings", "theirs"), PEERS)
def test_pytorch_optimizer_takes_the_same_steps(
    rule: type, name: str, settings: dict[str, Any], theirs: dict[str, Any]
) -> None:
    peers = pytest.importorskip("pytorch_optimizer")
    mine = torch.nn.Parameter(torch.randn(7, dtype=torch.float64))
    other = torch.nn.Parameter(mine.detach().clone())
    shared = {"lr": 0.01, "weight_decay": DECAY, **settings}
    both = [rule([mine], **shared), getattr(peers, name)([other], weight_decouple=True, **shared, **theirs)]
    for _ in range(20):
        mine.grad = torch.randn(7, dtype=torch.float64)
        other.grad = mine.grad.clone()
        for optimizer in both:
            optimizer.step()
    torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("foreach", "together"), [(True, True), (False, False), (None, False)])
def test_foreach_says_whether_a_group_is_stepped_together(
    foreach: bool | None, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(Lion, "_directions", lambda self, gradients, *_: sizes.append(len(gradients)) or gradients)
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    for weight in weights:
        weight.grad = torch.ones(2)
    Lion(weights, foreach=foreach).step()
    assert sizes == ([3] if together else [])
