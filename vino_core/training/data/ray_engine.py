"""Latents made by Ray Data: each piece of a cache is a task that any machine of a cluster can take.

Every machine must see config files, data, VAE and cache under the same paths, and have this package installed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence

import numpy as np

from ...errors import InputError
from .encode import Engine, Entry, Job, PieceEncoder


def on_ray(device: str) -> Engine:
    """Workers on `device`, one per GPU or CPU core, of the cluster that RAY_ADDRESS names, else of this machine.

    Raises InputError when Ray is not installed, and with a worker's reason when one cannot go on.
    """
    # Before the import, or Ray would send statistics of its use over the network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(
            f"--engine ray: Ray Data is not installed ({error}). Install it with: pip install 'vino[ray]', "
            "or use --engine single."
        ) from error

    def engine(job: Job, numbers: Sequence[int]) -> Iterator[tuple[int, Entry]]:
        if not ray.is_initialized():
            try:
                ray.init(include_dashboard=False, log_to_driver=False)
            except (Exception, SystemExit) as error:  # of many kinds; it leaves Python where a cluster does not answer
                address = os.environ.get("RAY_ADDRESS")
                what = f"no cluster at RAY_ADDRESS={address}" if address else "Ray does not start"
                raise InputError(
                    f"--engine ray: {what} ({error}). Look what `ray status` says there, or use --engine single."
                ) from error
        ray.data.DataContext.get_current().enable_progress_bars = False
        kind = "GPU" if device.startswith("cuda") else "CPU"
        workers = max(1, min(len(numbers), int(ray.cluster_resources().get(kind, 1))))
        pieces = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
        done = pieces.map_batches(
            _Worker,
            fn_constructor_args=(job, device),
            compute=ray.data.ActorPoolStrategy(size=workers),
            batch_size=1,
            batch_format="numpy",
            num_cpus=1,
            num_gpus=int(kind == "GPU"),
        )
        try:
            for row in done.iter_rows():
                yield int(row["number"]), json.loads(row["entry"])
        except ray.exceptions.RayError as error:
            raise InputError(f"--engine ray: a worker failed: {_reason(error)}") from error

    return engine


class _Worker:
    """One process of the cluster."""

    def __init__(self, job: Job, device: str) -> None:
        self._encoder = PieceEncoder(job, device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        entries = [json.dumps(self._encoder.encode(int(number))) for number in batch["number"]]
        return {"number": batch["number"], "entry": np.array(entries)}


def _reason(error: BaseException) -> str:
    """The last line of what the worker said; Ray puts its traceback before it."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    lines = [line for line in str(causes[-1]).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(causes[-1]).__name__
