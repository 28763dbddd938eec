"""Print the lowest version that pyproject.toml allows of everything a user may install, as pip constraints."""

import re
import tomllib
from pathlib import Path

USERS = ("cli", "report", "lab")  # docs and dev are ours alone: their newest will do


def lowest(requirements: list[str]) -> list[str]:
    """`name==bound` for each `name>=bound`; an extra of truestep itself has no bound."""
    found = [re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement) for requirement in requirements]
    return [f"{match[1]}=={match[2]}" for match in found if match]


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = [requirement for name in USERS for requirement in project["optional-dependencies"][name]]
    print(*sorted(set(lowest(project["dependencies"] + extras))), sep="\n")
