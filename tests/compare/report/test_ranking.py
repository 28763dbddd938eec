"""A ranking in words."""

from truestep.compare.report._ranking import ranking_section


def table(section, title: str):
    (found,) = [table for table in section.tables if title in table.title]
    return found


def test_optimizers_stand_in_the_tuned_order_with_rank_and_loss_under_every_protocol(ranking) -> None:
    ranks = table(ranking_section(ranking), "Rank and loss")
    assert ranks.head == ("optimizer", "default lr", "tuned lr", "matched l2 global")
    assert [row[0] for row in ranks.rows][:2] == ["sgd", "adam"]
    assert ranks.rows[0][1:] == ("1. 0.103", "1. 0.103", "2. 0.205")
    where = table(ranking_section(ranking), "95 % interval")
    assert where.rows[0][3] == "[0.143, 0.295] at 0.1"


def test_warnings_are_passed_on(ranking) -> None:
    assert ranking_section(ranking).warnings == ("the best lr of sgd is at the edge",)


def test_best_of_k_is_told_where_lrs_are_tuned_and_divergence_where_there_was_any(ranking) -> None:
    section = ranking_section(ranking)
    assert table(section, "best of k").head == ("optimizer", "k = 1", "k = 3")
    assert table(section, "diverged").rows == (("adam", "25%", "0%", "0%"),)


def test_agreement_has_a_dash_where_there_is_no_order(ranking) -> None:
    assert table(ranking_section(ranking), "Agreement").rows[0] == ("default lr", "1", "1", "0", "–")


def test_a_protocol_without_a_grid_has_no_curve_but_its_probabilities(ranking) -> None:
    ids = [panel.id for panel in ranking_section(ranking).panels]
    assert ids == ["knob-0", "knob-1", "probability-0", "probability-1", "probability-2", "tau-0"]
