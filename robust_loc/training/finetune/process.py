"""Fine-tuning in a process of its own, at low priority: both ends of the pipe between it and whoever asked.

The child is ``python -m robust_loc.training.finetune.process``. Its first line of input is the request (JSON); a line
"cancel", or the end of its input (whoever asked is gone), cancels. Its output is one JSON object a line, with ``kind``
"progress", "result", "cancelled" or "error".
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from robust_loc.training.finetune.config import FinetuneConfig

NICENESS = 10


class TrainingProcess:
    """The asking end: starts the child; :meth:`events` gives what it says.

    Args:
        bags, weights, output, config, earlier_bags: as for :func:`robust_loc.training.finetune.finetune`.
    """

    def __init__(
        self,
        bags: Sequence[str | Path],
        weights: str | Path,
        output: str | Path,
        config: FinetuneConfig,
        earlier_bags: Sequence[str | Path] = (),
    ) -> None:
        request = {
            "bags": [str(bag) for bag in bags],
            "weights": str(weights),
            "output": str(output),
            "config": config.to_dict(),
            "earlier_bags": [str(bag) for bag in earlier_bags],
        }
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        environment["OMP_NUM_THREADS"] = str(config.threads)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment,
            start_new_session=True,  # an interrupt of the terminal reaches it through the pipe, not by itself
        )  # fmt: skip
        self._say(json.dumps(request, default=str))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def events(self) -> Iterator[dict[str, Any]]:
        """What the child says, until it ends; the last one is of kind "result", "cancelled" or "error"."""
        assert self._process.stdout is not None
        last = ""
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:  # the child was killed in the middle of a line
                continue
            last = event["kind"]
            yield event
        code = self._process.wait()
        if last not in ("result", "cancelled", "error"):
            self._errors.seek(0)
            said = " | ".join(self._errors.read().strip().splitlines()[-3:])
            yield {
                "kind": "error",
                "message": f"the training process ended with code {code}" + (f": {said}" if said else ""),
            }

    def cancel(self) -> None:
        """Ask it to stop; it does after the step at work."""
        self._say("cancel")

    def stop(self, timeout: float = 5.0) -> None:
        """End it, if need be by force; callable from any thread."""
        self.cancel()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End it and free what belongs to it; for the thread that reads ``events``."""
        self.stop()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):  # unwritten input of a child that has ended
                    stream.close()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # it has ended: events() tells how
            pass


def main() -> None:
    """The child."""
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no part of the protocol
    request: Mapping[str, Any] = json.loads(sys.stdin.readline())
    cancelled = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "cancel":
                break
        cancelled.set()

    threading.Thread(target=listen, daemon=True).start()

    def say(kind: str, **values: Any) -> None:
        try:
            output.write(json.dumps({"kind": kind, **values}, default=str) + "\n")
        except OSError:  # nobody listens any more
            cancelled.set()

    from robust_loc.errors import RobustLocError
    from robust_loc.training.finetune.finetune import FinetuneCancelled, finetune

    try:
        result = finetune(
            request["bags"],
            request["weights"],
            request["output"],
            FinetuneConfig.from_mapping(request["config"]),
            earlier_bags=request["earlier_bags"],
            progress=lambda progress: say("progress", **asdict(progress)),
            cancelled=cancelled.is_set,
        )
        say("result", **result.to_dict())
    except FinetuneCancelled as error:
        say("cancelled", message=str(error))
    except RobustLocError as error:
        say("error", message=str(error))


if __name__ == "__main__":
    main()
