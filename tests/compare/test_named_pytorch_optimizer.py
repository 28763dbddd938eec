"""Every optimizer of pytorch_optimizer by its name: trained as a trial of a sweep, or refused with the reason."""

import math
import pickle
from functools import partial

import pytest
from pytorch_optimizer import get_supported_optimizers, load_optimizer

from truestep.compare._named import parse_optimizer
from truestep.compare.problems import breast_cancer
from truestep.compare.sweep import content_hash
from truestep.compare.training import Replica, train_trial

GROUPS = "Tensor.__contains__ only supports Tensor or scalar"  # asks whether "use_muon" is in a group
REFUSED = {
    "AdaGO": GROUPS,
    "AdaLOMO": "'list' object has no attribute 'named_parameters'",  # wants the model
    "AdaMuon": GROUPS,
    "AdamMini": "'list' object has no attribute 'named_parameters'",
    "BSAM": "missing 1 required positional argument: 'num_data'",
    "DistributedMuon": GROUPS,
    "LOMO": "'list' object has no attribute 'parameters'",
    "Muon": GROUPS,
    "MuonClip": GROUPS,
    "NorMuon": GROUPS,
    "Ranger21": "missing 1 required positional argument: 'num_iterations'",
}
STOPPED = {
    "AdaHessian": "does not require grad",  # wants `loss.backward(create_graph=True)`
    "DeMo": "Default process group has not been initialized",
    "SophiaH": "does not require grad",
    "SpectralSphere": "only supports 2D parameters",
}
CLOSURE = {
    "AliG",  # evaluates its closure where autograd is off
    "LBFGS",  # torch's
}
NAMES = sorted({load_optimizer(name).__name__ for name in get_supported_optimizers()} - CLOSURE)
PROBLEM = breast_cancer()
START = PROBLEM.probe_loss(PROBLEM.build(0))


def trial(name: str) -> partial:
    label, factory = parse_optimizer(f"po:{name}")
    assert label == f"po:{name}"
    return partial(train_trial, PROBLEM, factory, [Replica(0, 0)], steps=12, points=2)  # AdaShift waits for ten


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED | STOPPED])
def test_it_trains_as_a_trial_that_another_process_could_be_given(name: str) -> None:
    made = trial(name)
    sent = pickle.loads(pickle.dumps(made))
    assert content_hash(sent) == content_hash(made)
    losses = sent()["losses"][0]
    assert all(map(math.isfinite, losses))
    assert losses[-1] != START


def test_no_two_of_them_are_the_same_trial() -> None:
    names = [name for name in NAMES if name not in REFUSED]
    assert len({content_hash(trial(name)) for name in names}) == len(names) > 100


@pytest.mark.parametrize("name", REFUSED)
def test_one_that_weights_alone_do_not_make_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be built") as refused:
        parse_optimizer(f"po:{name}")
    assert REFUSED[name] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", STOPPED)
def test_one_that_needs_another_training_loop_says_so_itself(name: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=STOPPED[name]):
        trial(name)()


@pytest.mark.parametrize("name", ["LBFGS", "lbfgs"])
def test_lbfgs_is_refused_as_torch_s_is(name: str) -> None:
    with pytest.raises(ValueError, match=f"`po:{name}` cannot be compared: its curvature pairs assume its own step"):
        parse_optimizer(f"po:{name}")


def test_these_are_all() -> None:
    assert set(REFUSED) | set(STOPPED) <= set(NAMES)
    assert len(NAMES) >= 120
