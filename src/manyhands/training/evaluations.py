"""When a job is evaluated: at its end, and after every so many steps, by whoever is there first."""

from __future__ import annotations

from manyhands.gang.reports import Evaluated
from manyhands.job import Job
from manyhands.timeline import Recorder
from manyhands.training.reporter import Reporter
from manyhands.training.trainer import Trainer


class Evaluations:
    """Evaluates a trainer's model where the job asks for it.

    Attributes:
        done: the last step that was evaluated, by anybody.
    """

    def __init__(self, job: Job, trainer: Trainer, reporter: Reporter, recorder: Recorder) -> None:
        self._job, self._trainer, self._reporter, self._recorder = job, trainer, reporter, recorder
        self.done = -1

    def if_due(self) -> None:
        """Evaluate at the step where the trainer stands, if the job asks for it and nobody has yet. Collective."""
        trainer, evaluation = self._trainer, self._job.evaluate
        if evaluation is None or trainer.step <= self.done or trainer.step == 0:
            return
        every = evaluation.every or trainer.total_steps
        if trainer.step == trainer.total_steps or trainer.step // every > max(0, self.done) // every:
            metrics = trainer.evaluate()
            self.done = trainer.step
            self._reporter.flush()
            self._reporter.say(Evaluated(step=trainer.step, metrics=metrics))
            self._recorder.enter("idle")
