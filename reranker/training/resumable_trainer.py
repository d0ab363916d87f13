"""trl's trainer with a state that is written when we say so: all that is reached of transformers' Trainer behind its public
interface. `tests/training/test_resumable_trainer.py` says what an upgrade breaks.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from trl import SFTTrainer


class ResumableTrainer(SFTTrainer):  # type: ignore[misc]
    """Its checkpoints hold everything that `train(resume_from_checkpoint=…)` goes on from, and nothing else."""

    def write_state(self, folder: Path) -> None:
        """Adapter, optimiser, schedule and the trainer's own counts by the first rank, random numbers by each; for all ranks."""
        if self.is_world_process_zero():
            self.accelerator.unwrap_model(self.model).save_pretrained(str(folder))
            self.state.save_to_json(str(folder / "trainer_state.json"))
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))

    @abstractmethod
    def on_state_loaded(self, folder: Path) -> None:
        """Called once, when the trainer goes on from a state."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """What the trainer calls last of all when it goes on from a state."""
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            self.on_state_loaded(Path(checkpoint))
