"""`transformers.Trainer` that measures in its own way and keeps the best state."""

from typing import Any

from transformers import Trainer


class SelectingTrainer(Trainer):
    """Measures on validation by `measure`, keeps states by `keep`, takes the best by `restore`."""

    _evaluated_step = -1

    def measure(self) -> dict[str, float]:
        """Measures of the model as it is, on validation."""
        raise NotImplementedError

    def keep(self, measures: dict[str, float]) -> None:
        """Keep the state as it is now if it is the best; called in every process."""
        raise NotImplementedError

    def restore(self) -> dict[str, Any]:
        """Put the best state into the model, and tell its `step` and `validation` measures."""
        raise NotImplementedError

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measures on validation; keeps the state if it is the best so far."""
        with self.accelerator.autocast():
            measures = self.measure()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measures.items()}
        self.log(metrics)
        self._evaluated_step = self.state.global_step
        self.keep(measures)
        self.control = self.callback_handler.on_evaluate(
            self.args,
            self.state,
            self.control,  # type: ignore[has-type]
            metrics,
        )
        return metrics

    def load_best(self) -> dict[str, Any]:
        """Evaluate a last time if need be, take the best state over, and tell its facts."""
        if self._evaluated_step != self.state.global_step:
            self.evaluate()
        self.accelerator.wait_for_everyone()
        return self.restore()
