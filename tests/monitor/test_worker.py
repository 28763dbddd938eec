"""The writer's thread: whoever waits for it gets an answer, or is let go."""

import threading

from truestep.monitor.sinks._worker import Worker


def test_a_flush_in_the_middle_of_a_commit_waits_for_the_next_one() -> None:
    began, go = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]
    calls = iter(range(2))

    def commit() -> bool:
        call = next(calls)
        began[call].set()
        return go[call].wait(60) and call == 0

    worker = Worker(commit, 1e6)
    worker.wake()
    began[0].wait(60)
    flush = threading.Thread(target=worker.wait, args=[60.0])
    flush.start()
    while worker._asked == 0:
        flush.join(0.001)
    go[0].set()  # what was handed over before the flush may not be in this one
    assert began[1].wait(60)
    flush.join(0.1)
    assert flush.is_alive()
    go[1].set()
    flush.join(60)
    assert not flush.is_alive()


def test_whoever_waits_for_an_action_that_hangs_is_let_go_and_waits_only_once() -> None:
    began, go = threading.Event(), threading.Event()

    def hang() -> bool:
        began.set()
        return go.wait(60)

    worker = Worker(hang, 1e6)
    worker.wake()
    assert began.wait(60)
    assert not worker.wait(0.01)
    assert not worker.wait(1e6)  # at once: the disk has not answered the first
    assert not worker.stop(0.01)
    go.set()
    assert worker.stop(60.0)
    assert worker.wait(60.0)  # there will be no more
