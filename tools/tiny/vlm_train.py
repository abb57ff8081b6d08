"""Train a miniature's vision-language model on the toy world, in pieces of minutes.

    python -m tools.tiny.vlm_train --chunks 425 --minutes 30
    python -m tools.tiny.vlm_train --system vogue-tiny --out .cache/tiny-vogue-vlm --chunks 425 --minutes 30

A chunk is 512 lessons, about ten steps. Progress is kept in `--out` every two minutes; the same command goes on from
there. With the same seed and number of chunks the result does not depend on how the work was cut.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vino_core.encoder.engine import IMAGE_PAD, VIDEO_PAD
from vino_core.systems.base import System, VisionLimits

from .vlm_batch import Batch, Words, batches, make_row
from .vlm_data import lesson, make_pool
from .vlm_dense import DenseHead, dense_loss
from .vlm_drawings import WORDS
from .vlm_model import MINIATURES, fresh_model, save_text_encoder, states
from .vlm_tokenizer import build_tokenizer

LESSONS = 512
"""Lessons of a chunk."""
CHUNKS_PER_POOL = 40
TOKENS = 3600
"""Tokens of a batch, padding included."""
MUON, ADAMW = 3e-3, 3e-3
"""Learning rates of matrices inside the blocks, and of everything else."""
DENSE = 0.3
"""Weight of the helper's loss, see vlm_dense."""
WARMUP = 8
DECAY = 0.25
"""Share of the chunks over which the learning rate falls to nothing."""


def optimizers_of(model: Any, head: DenseHead) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside the network, AdamW for embeddings, norms and biases, and for the helper."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        is_inner = parameter.ndim == 2 and "embed" not in name
        (matrices if is_inner else others).append(parameter)
    return (
        torch.optim.Muon(matrices, lr=MUON, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAMW, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
        torch.optim.AdamW(head.parameters(), lr=ADAMW, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    )


def share_of_rate(chunk: int, chunks: int) -> float:
    """The learning rate at `chunk` of `chunks` as a share of the highest."""
    falling = (chunks - chunk) / max(1.0, DECAY * chunks)
    return min(1.0, (chunk + 1) / WARMUP, falling)


def loss_of(model: Any, batch: Batch, pads: tuple[int, ...], limits: VisionLimits) -> Tensor:
    """Mean negative log-likelihood of the weighted tokens."""
    with torch.autocast("cpu", torch.bfloat16):
        found = states(model, batch.ids, batch.positions, batch.pictures, pads, limits)[:, :-1]
        weights = batch.weights[:, 1:]
        chosen = weights > 0
        logits = F.linear(found[chosen], model.lm_head.weight)
    losses = F.cross_entropy(logits.float(), batch.ids[:, 1:][chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights.sum()


class Trainer:
    """Model, optimizers and progress, kept together in one file."""

    def __init__(self, out: Path, seed: int, system: str) -> None:
        self.out, self.seed, self.chunk, self.seconds = out, seed, 0, 0.0
        self.system, config_of = MINIATURES[system]
        self.tokenizer = _tokenizer(out, self.system)
        self.words = Words(self.tokenizer)
        self.config = config_of(self.tokenizer)
        self.model = fresh_model(self.config, seed)
        self.head = DenseHead(self.config["vision_config"]["hidden_size"])
        self.optimizers = optimizers_of(self.model, self.head)
        self.pads = (self.words.token_id(IMAGE_PAD), self.words.token_id(VIDEO_PAD))
        self._pool: tuple[int, Any] = (-1, None)
        if (out / "state.pt").exists():
            saved = torch.load(out / "state.pt", weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.head.load_state_dict(saved["head"])
            for optimizer, values in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(values)
            self.chunk, self.seconds = saved["chunk"], saved["seconds"]

    def save(self) -> None:
        values = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "chunk": self.chunk,
            "seconds": self.seconds,
        }
        torch.save(values, self.out / "state.part")
        os.replace(self.out / "state.part", self.out / "state.pt")
        save_text_encoder(
            self.model, self.config, self.tokenizer, self.system.name, self.out / "text_encoder.safetensors"
        )

    def train_chunk(self, chunks: int, dense_from: int) -> tuple[float, float]:
        """One chunk; its mean loss over words, and over patches."""
        start = time.monotonic()
        number = self.chunk // CHUNKS_PER_POOL
        if self._pool[0] != number:
            self._pool = number, make_pool("train", 1000 * self.seed + number)
        random = Random(f"{self.seed} {self.chunk}")
        lessons = [lesson(random, self._pool[1], self.system.thinking) for _ in range(LESSONS)]
        rows = [make_row(self.words, each, self.system) for each in lessons]
        made = list(batches(self.words, rows, TOKENS))
        random.shuffle(made)
        total = helper = 0.0
        for batch in made:
            for optimizer, rate in zip(self.optimizers, (MUON, ADAMW, ADAMW), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * share_of_rate(self.chunk, chunks)
                optimizer.zero_grad(set_to_none=True)
            loss = loss_of(self.model, batch, self.pads, self.system.vision)
            total += float(loss.detach())
            if self.chunk >= dense_from:
                visual = self.model.model.visual
                dense = dense_loss(visual, self.head, random, self._pool[1], self.system.vision)
                helper += float(dense.detach())
                loss = loss + DENSE * dense
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
        self.chunk += 1
        self.seconds += time.monotonic() - start
        return total / len(made), helper / len(made)


def _tokenizer(out: Path, system: System) -> Any:
    """The tokenizer, kept with the weights that were trained with it."""
    from tokenizers import Tokenizer

    path = out / "tokenizer.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        texts = [preset.instruction for preset in system.presets.values()]
        if system.thinking is not None:
            texts += [WORDS, *(f"{thinking.plan} {thinking.prompt}" for thinking in system.thinking.values())]
        build_tokenizer(" ".join(texts)).save(str(path))
    return Tokenizer.from_file(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--system", choices=tuple(MINIATURES), default="vino-tiny", help="whose text encoder")
    parser.add_argument("--out", type=Path, default=Path(".cache/tiny-vlm"))
    parser.add_argument("--chunks", type=int, required=True, help="length of the whole training")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many; the next call goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dense-from", type=int, default=0, help="first chunk with the helper of vlm_dense")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trainer = Trainer(arguments.out, arguments.seed, arguments.system)
    end, saved = time.monotonic() + 60 * arguments.minutes, time.monotonic()
    while trainer.chunk < arguments.chunks and time.monotonic() < end:
        loss, dense = trainer.train_chunk(arguments.chunks, arguments.dense_from)
        line = {
            "chunk": trainer.chunk,
            "loss": round(loss, 4),
            "dense": round(dense, 4),
            "minutes": round(trainer.seconds / 60, 2),
        }
        with (arguments.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        if time.monotonic() - saved > 120:
            trainer.save()
            saved = time.monotonic()
    trainer.save()


if __name__ == "__main__":
    main()
