"""The training loop of every experiment."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from lps.experiments import checkpoint
from lps.experiments.lines import line
from lps.experiments.processes import gather, pick_device, seed_all, share_buffers
from lps.experiments.task import Split, Task

PROGRESS = ("epoch", "step", "seconds", "best", "waited", "history")  # of a run, what a checkpoint keeps as it is


class Trainer:
    """Trains a model(batch, k) -> (prediction, entropy) on a task, alone or as one of torchrun's processes."""

    def __init__(self, config: dict[str, Any], model: nn.Module, task: Task) -> None:
        self.config, self.task = config, task
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = pick_device(config["device"])
        self.model = self.net = model.to(self.device)
        if self.world > 1:
            # A base model may have parts for a pooled token that is not wanted.
            self.net = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config["optimizer"]]
        rate = {"lr": config["lr"], "weight_decay": config["weight_decay"]}
        parts: dict[bool, list[nn.Parameter]] = {False: [], True: []}
        for name, parameter in model.named_parameters():
            parts[name.startswith("distribution.")].append(parameter)
        groups = [{"params": parts[False]}, {"params": parts[True], "lr": config["lr"] * config["group_rate"]}]
        self.optimizer = kind(groups, **rate, fused=True)  # 0.1 s for 25 million parameters instead of 0.7
        self.per_epoch = max(1, task.train.numbers.numel() // (config["batch_size"] * self.world))
        total = config["epochs"] * self.per_epoch
        self.last = min(total, config["max_steps"] or total)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.best, self.waited, self.history, self.weights = None, 0, [], None
        self.folder = Path(config["out"]) if config["out"] else None

    def _rate(self, step: int) -> float:
        """Linear warm-up from 0, then constant, or linear to 0 at the last step."""
        warm = int(self.config["warmup_epochs"] * self.per_epoch)
        if step < warm:
            return step / warm
        return max(0.0, (self.last - step) / max(1, self.last - warm)) if self.config["decay"] else 1.0

    def run(self) -> dict[str, Any]:
        """Train to the end and test the best epoch; the result is also a line of results.jsonl in the folder."""
        with checkpoint.claim(self.folder, self.rank):
            return self._run()

    def _run(self) -> dict[str, Any]:
        seed_all(self.config["seed"] + self.rank)
        if self.folder:
            self._resume()
        writer, console = None, Console(stderr=True)  # stdout is the result's
        if self.folder and self.rank == 0:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds, and is wanted by runs with a folder only

            writer = SummaryWriter(self.folder / "tensorboard")
        with Progress(console=console, disable=self.rank > 0 or not console.is_terminal, transient=True) as progress:
            bar = progress.add_task("training", total=self.last, completed=self.step)
            while not self._is_over(self.step, self.waited):
                row = self._epoch(lambda: progress.advance(bar))
                progress.update(bar, description="  ".join(f"{k} {v:.4g}" for k, v in row.items()))
                for name, value in row.items() if writer else ():
                    writer.add_scalar(name, value, self.step)
        if writer:
            writer.close()
        return self._finish()

    def _epoch(self, advance: Callable[[], None]) -> dict[str, float]:
        start = time.perf_counter()
        totals, count = torch.zeros(2), 0
        for numbers in self._batches():
            totals += self._step(numbers)
            count += 1
            advance()
        row = {"epoch": self.epoch, "train_loss": totals[0].item() / count, "entropy": totals[1].item() / count}
        self.epoch += 1
        if self.epoch % self.config["eval_every"] == 0 or self.step >= self.last:
            scores = self.evaluate(self.task.valid)
            row |= {f"valid_{name}": value for name, value in scores.items()}
            self._keep_best(scores)
        self.seconds += time.perf_counter() - start
        self.history.append({**row, "seconds": round(self.seconds, 3)})
        state = self._state() if self.folder else None
        if self.folder and self.rank == 0:
            checkpoint.save(self.folder, self.epoch, state)
        return row

    def _batches(self) -> Iterator[Tensor]:
        """This process's part of an epoch, in an order fixed by seed and epoch, without an incomplete batch."""
        order = torch.Generator().manual_seed(self.config["seed"] * 1_000_003 + self.epoch)
        numbers = self.task.train.numbers
        numbers = numbers[torch.randperm(numbers.numel(), generator=order)][self.rank :: self.world]
        yield from numbers.split(self.config["batch_size"])[: min(self.per_epoch, self.last - self.step)]

    def _step(self, numbers: Tensor) -> Tensor:
        """One step; (2,) the loss and the entropy."""
        self.net.train()
        batch, target = self.task.train.batch(numbers)
        with self._autocast():
            out = self.net(batch.to(self.device), k=self.config["samples"])
            loss = self.task.loss(out.prediction.float(), target.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        (loss + self.config["entropy_weight"] * out.entropy).backward()
        if self.config["clip"]:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config["clip"])
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return torch.stack((loss.detach().float(), out.entropy.detach().float())).cpu()

    @torch.no_grad()
    def evaluate(self, split: Split, samples: int | None = None) -> dict[str, float]:
        """Loss and scores of a split."""
        self.net.eval()
        share_buffers(self.model)
        pairs = []
        for numbers in split.numbers[self.rank :: self.world].split(self.config["batch_size"]):
            batch, target = split.batch(numbers)
            with self._autocast():
                out = self.model(batch.to(self.device), k=samples or self.config["eval_samples"])
            pairs.append((out.prediction.float().cpu(), target))
        prediction, target = (torch.cat(side) for side in zip(*[pair for part in gather(pairs) for pair in part]))
        return self.task.measure(prediction, target)

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config["precision"] == "bf16")

    def _keep_best(self, scores: dict[str, float]) -> None:
        value, best = scores[self.task.monitor], self.best
        better = not math.isnan(value) and (best is None or (value > best if self.task.maximize else value < best))
        self.waited = 0 if better else self.waited + self.config["eval_every"]
        if better:
            self.best, self.weights = value, {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
            if self.folder and self.rank == 0:
                checkpoint.write(self.folder / checkpoint.BEST, {"epoch": self.epoch, "model": self.weights})

    def _is_over(self, step: int, waited: int) -> bool:
        return step >= self.last or 0 < self.config["patience"] <= waited

    def _state(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": gather(checkpoint.random_state()),
            **{name: getattr(self, name) for name in PROGRESS},
        }

    def _resume(self) -> None:
        state = checkpoint.latest(self.folder)
        if state is None:
            return
        free = {"out", "device"}
        if self._is_over(state["step"], state["waited"]):
            free.add("eval_samples")  # a finished run is tested
        mine, its = ({k: v for k, v in c.items() if k not in free} for c in (self.config, state["config"]))
        if mine != its:
            changed = sorted(k for k in {*mine, *its} if mine.get(k) != its.get(k))
            raise ValueError(f"out: {self.folder} holds a run with other settings ({', '.join(changed)})")
        if len(state["random"]) != self.world:
            raise ValueError(f"out: {self.folder} holds a run of {len(state['random'])} processes, not {self.world}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        checkpoint.set_random_state(state["random"][self.rank])
        for name in PROGRESS:
            setattr(self, name, state[name])
        if self.best is not None:
            self.weights = checkpoint.best(self.folder)
            self.best = self.best if self.weights else None

    def _finish(self) -> dict[str, Any]:
        if self.weights:
            self.model.load_state_dict(self.weights)
        test = self.evaluate(self.task.test)
        result = {"test": test, "best_valid": self.best, "epochs": self.epoch, "steps": self.step}
        result |= {"seconds": round(self.seconds, 1), "config": self.config, "history": self.history}
        if self.folder and self.rank == 0:
            with (self.folder / "results.jsonl").open("a") as file:
                file.write(line(result) + "\n")
        return result
