"""For those who want to own their loop: the same job, the same weights, your own `for`.

python examples/own_loop.py --steps 100
"""

import tyro
from digits import job

from manyhands import Plan, Trainer


def main(steps: int = 100, every: int = 20) -> None:
    trainer = Trainer(job(steps=steps), Plan(device="auto", threads=1))
    for step in trainer:
        if step.step % every == 0:
            print(f"step {step.step}: loss {step.loss:.4f}, accuracy {trainer.evaluate()['accuracy']:.3f}")
    # trainer.model, .optimizer and .scheduler are the live objects; .capture() and .restore() move the whole state.
    print("weights", trainer.weights_sha256())


if __name__ == "__main__":
    tyro.cli(main)
