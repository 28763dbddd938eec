"""Ray: an executor of the standard kind whose calls are Ray tasks, for a sweep on many machines."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError, wait
from contextlib import suppress
from functools import partial
from typing import Any

__all__ = ["RayExecutor"]


class RayExecutor(Executor):
    """Calls as tasks of Ray Core: `Sweep(store, RayExecutor())` trains wherever Ray has a node.

    A task whose worker or node is lost runs again on what is left, from its start; the results are still those of a
    serial run, as a trial draws all its numbers from its seeds. What a call raises is raised as it was: it is the
    call's own, and no reason to run it again. Functions are found by their names, as `pickle` finds them: a cluster of
    several machines needs them, truestep and torch installed on each.

    Where Ray runs in this process already, that is used, whatever it was started with, and left running. Else it is
    started here, without a dashboard and without the workers' prints, and shut down with the executor.

    Args:
        address: Of a cluster, "auto" for the one of this machine; None: of the environment variable RAY_ADDRESS, or
            of this machine, or else a new one with all the cores of this machine; "local": always a new one.
        num_cpus: Cores of a call. A call sees as many threads, of OpenMP's, unless OMP_NUM_THREADS says otherwise.
        num_gpus: GPUs of a call; a half lets two share one.
        max_retries: How often a call is run again after its worker or node was lost; -1 without end.

    Raises:
        ImportError: Ray is not installed.
        ValueError: `address` is given, and Ray runs in this process already.

    Note:
        A future can be cancelled as long as it has no result, also while it runs: its worker is ended then. The
        standard pools refuse that.

    Example, which starts a Ray and takes seconds::

        with RayExecutor("local") as executor:
            list(executor.map(pow, range(4), range(4)))  # [1, 1, 4, 27]
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        num_cpus: int | float = 1,
        num_gpus: int | float = 0,
        max_retries: int = 3,
    ) -> None:
        ray = _ray()
        self._starts = not ray.is_initialized()
        if self._starts:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        elif address is not None:
            raise ValueError(f"`address` must be None where Ray runs already in this process, found {address!r}")

        def call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return fn(*args, **kwargs)  # within, so that Ray sends this as it is: a worker imports what `fn` needs

        self._task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=max_retries)(call)
        self._open: set[Future[Any]] = set()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand a call to Ray.

        Raises:
            RuntimeError: After `shutdown`.
            TypeError: It cannot be pickled.
        """
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        reference = self._task.remote(fn, args, kwargs)
        future: Future[Any] = Future()
        self._open.add(future)
        future.add_done_callback(partial(self._end, reference))
        reference.future().add_done_callback(partial(_pass_on, future))
        return future

    def _end(self, reference: Any, future: Future[Any]) -> None:
        self._open.discard(future)
        if future.cancelled():
            future.set_running_or_notify_cancel()  # tells who waits for it
            if _ray().is_initialized():
                _ray().cancel(reference, force=True)  # the mild way waits for a call's next line of Python

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and shut down a Ray that was started here, once no call is open.

        Args:
            wait: For open calls. Without it, a Ray with open calls lives on to the end of the process.
            cancel_futures: Take back every open call first, those that run among them.
        """
        self._closed = True
        if cancel_futures:
            for future in list(self._open):
                future.cancel()
        if wait:
            _wait(list(self._open))
        if self._starts and not self._open and _ray().is_initialized():
            _ray().shutdown()


_wait = wait  # `shutdown` has an argument of that name


def _pass_on(future: Future[Any], done: Future[Any]) -> None:
    """Give the user's future what Ray's has."""
    error = done.exception()
    with suppress(InvalidStateError):  # it was cancelled
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(_own(error))


def _own(error: BaseException) -> BaseException:
    """A call's own exception, out of Ray's wrapper, which becomes its cause: its text has the worker's traceback."""
    if not isinstance(error, _ray().exceptions.RayTaskError):
        return error
    wrapped: Any = error
    own: BaseException = wrapped.cause
    own.__cause__ = error
    return own


def _ray() -> Any:
    """The package, or where to get it."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("RayExecutor needs Ray: pip install 'truestep[ray]'", name="ray") from error
    return ray
