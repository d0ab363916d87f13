"""trl's trainer with a state that is written on request: the only use of transformers' Trainer behind its public
interface. `tests/training/test_resumable_trainer.py` shows what an upgrade breaks.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from accelerate.data_loader import prepare_data_loader
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from trl import SFTTrainer

from reranker.modeling.process_group import workers
from reranker.modeling.sharded_base import is_divided


class ResumableTrainer(SFTTrainer):  # type: ignore[misc]
    """A trainer whose checkpoints hold exactly what `train(resume_from_checkpoint=…)` needs."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Whole steps, the same on every worker; the collator takes its share.

        To divide them evenly, as it does by default, accelerate would train some examples of an epoch's last step twice.
        """
        rows: Any = self.train_dataset
        steps = DataLoader(
            rows,
            batch_size=self.args.per_device_train_batch_size * workers(),
            sampler=self._get_train_sampler(),
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        loader: DataLoader[Any] = prepare_data_loader(
            steps, self.args.device, num_processes=1, process_index=0, put_on_device=True, use_seedable_sampler=True
        )
        return loader

    def write_state(self, folder: Path) -> None:
        """On the first rank adapter, optimiser, schedule and trainer state, on each its random states; call on all."""
        if self.is_world_process_zero():
            self.accelerator.unwrap_model(self.model).save_pretrained(str(folder))
            self.state.save_to_json(str(folder / "trainer_state.json"))
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """DDP for the adapter alone, if the base's layers are divided among workers; accelerate refuses such a base."""
        if not training or model is not self.model or not is_divided(model):
            return super()._wrap_model(model, training=training, dataloader=dataloader)
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(model, find_unused_parameters=self.args.ddp_find_unused_parameters)

    is_state_loaded = False

    def train_from(self, state: Path | None) -> None:
        """Train what is left after a state; all of it without one."""
        self.train(resume_from_checkpoint=str(state) if state else None)
        if state is not None and not self.is_state_loaded:  # nothing was left
            self._load_rng_state(str(state))

    @abstractmethod
    def on_state_loaded(self, folder: Path) -> None:
        """Called once, when the trainer resumes from a state."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """The last method that the trainer calls when it resumes from a state, before the first step."""
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            self.is_state_loaded = True
            self.on_state_loaded(Path(checkpoint))
