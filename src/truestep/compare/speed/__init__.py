"""Is B just A sped up? The speed test, its verdict, and the path test beside it."""

from truestep.compare.speed._path import PathTest, path_test
from truestep.compare.speed._run import speed_test
from truestep.compare.speed._speed_test import SpeedTest, Verdict

__all__ = ["PathTest", "SpeedTest", "Verdict", "path_test", "speed_test"]
