"""Results as JSON: every field by its name, nothing that JSON does not know."""

import json
from dataclasses import fields

from truestep.compare.report._plain import as_dict


def test_every_field_and_the_sentence_are_there_and_json_knows_all_of_it(speed, swap, ranking) -> None:
    told = json.loads(json.dumps(as_dict([speed], [swap], ranking), allow_nan=False))
    assert set(told["speed"][0]) == {"sentence", *(field.name for field in fields(speed))}
    assert told["speed"][0]["multiplier"] == 1.567
    assert told["speed"][0]["path"]["distance"] == 0.0063
    assert told["speed"][0]["losses_a"][5][0][3] is None  # diverged
    assert told["swap"][0]["length_share"] == {"mean": 0.93, "low": 0.92, "high": None}
    assert set(told["swap"][0]["losses"]) == {"a,a", "a,b", "b,a", "b,b"}
    assert told["ranking"]["sentence"] == ranking.sentence
    assert told["ranking"]["protocols"][1]["budget"]["sgd"].keys() == {"1", "3"}


def test_what_was_not_compared_is_empty() -> None:
    assert as_dict() == {"speed": [], "swap": [], "ranking": None}
