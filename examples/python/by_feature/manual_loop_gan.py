"""A loop of one's own with two optimizers: a GAN that learns a normal distribution.

`Steps` counts, logs, calls the callbacks and ends the run; what happens to a batch is up to the
body of the loop (Goodfellow et al., 2014, arXiv:1406.2661).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as compute_loss
from torch.utils.data import DataLoader, TensorDataset

from hotloop.callbacks import ProgressBar
from hotloop.loops import Steps
from hotloop.optimizers import Adam


def main() -> None:
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(2 + 0.5 * torch.randn(4096, 1)), 64, shuffle=True)
    generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
    critic = nn.Sequential(nn.Linear(1, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    of_generator = Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
    of_critic = Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.999))
    optimizers = (of_generator, of_critic)
    with Steps(loader, epochs=5, optimizers=optimizers, callbacks=[ProgressBar()]) as steps:
        for (real,) in steps:
            fake = generator(torch.randn(len(real), 4))
            yes, no = torch.ones(len(real), 1), torch.zeros(len(real), 1)
            critic_loss = compute_loss(critic(real), yes) + compute_loss(critic(fake.detach()), no)
            critic_loss.backward()
            of_critic.step()
            loss = compute_loss(critic(fake), yes)
            loss.backward()
            of_generator.step()
            of_generator.zero_grad()
            of_critic.zero_grad()  # It also got gradients on the generator's way.
            steps.log(loss=loss, critic_loss=critic_loss)
    print(f"critic's loss by epoch: {[round(x, 3) for x in steps.history['train_critic_loss']]}")
    with torch.inference_mode():
        samples = generator(torch.randn(4096, 4))
    print(
        f"mean {float(samples.mean()):.2f} (2), standard deviation {float(samples.std()):.2f} (0.5)"
    )


if __name__ == "__main__":
    main()
