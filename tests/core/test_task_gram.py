"""Inner products between the tasks' gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import DTYPES, assert_additive

from truestep.core import _task_gram, task_gram


def test_the_hand_worked_gramian() -> None:
    made = task_gram({"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0, -2.0])})
    assert made.tasks == ("a", "b")
    assert made.gg.tolist() == [[25.0, -8.0], [-8.0, 4.0]]
    assert made.norm.tolist() == [5.0, 2.0]
    torch.testing.assert_close(made.cosine, torch.tensor([[1.0, -0.8], [-0.8, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_gramian_of_the_float64_matrix(dtype: torch.dtype) -> None:
    gradients = {name: torch.randn(6, 5).to(dtype) for name in "abc"}
    matrix = torch.stack([g.double().flatten() for g in gradients.values()])
    torch.testing.assert_close(task_gram(gradients).gg, matrix @ matrix.T, rtol=1e-13, atol=1e-13)


@given(powers=st.tuples(*[st.integers(-10, 10)] * 3))
def test_cosines_do_not_see_how_loud_a_task_is(powers: tuple[int, int, int]) -> None:
    plain = torch.randn(3, 9, dtype=torch.float64)
    scaled = {name: 10.0**power * g for name, power, g in zip("abc", powers, plain, strict=True)}
    reference = task_gram(dict(zip("abc", plain, strict=True)))
    torch.testing.assert_close(task_gram(scaled).cosine, reference.cosine)


def test_a_zero_gradient_has_no_cosine() -> None:
    made = task_gram({"a": torch.ones(2), "still": torch.zeros(2)})
    assert made.cosine.isnan().tolist() == [[False, True], [True, True]]


def test_gradients_longer_than_a_piece_add_up_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = {name: torch.randn(29) for name in "ab"}
    whole = task_gram(gradients)
    monkeypatch.setattr(_task_gram, "chunk_elements", lambda device: 4)
    assert_additive(whole, [task_gram(gradients)], tolerance=1e-14)


def test_a_layer_s_parameters_add_up_to_the_layer() -> None:
    weight, bias = torch.randn(2, 12), torch.randn(2, 3)
    whole = torch.cat([weight, bias], 1)
    layers = [task_gram({"a": x[0], "b": x[1]}) for x in (weight, bias)]
    assert_additive(task_gram({"a": whole[0], "b": whole[1]}), layers)


def test_shapes_that_differ_are_refused_by_task() -> None:
    with pytest.raises(ValueError, match=r"one shape for all tasks, found .*'b': \(3,\)"):
        task_gram({"a": torch.zeros(2), "b": torch.zeros(3)})


def test_no_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="`gradients` must hold at least one"):
        task_gram({})
