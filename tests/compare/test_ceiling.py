from dataclasses import replace

from truestep.compare._ceiling import loss_ceiling
from truestep.compare.problems import digits_mlp, rosenbrock


def test_a_run_has_diverged_at_a_thousand_times_the_loss_that_it_starts_from() -> None:
    problem = digits_mlp()
    assert loss_ceiling(problem) == 1000 * problem.probe_loss(problem.build(0))


def test_a_start_at_the_minimum_still_has_a_ceiling() -> None:
    problem = replace(rosenbrock(), loss_fn=lambda model, batch: sum(p.sum() for p in model.parameters()) * 0)
    assert loss_ceiling(problem) > 0
