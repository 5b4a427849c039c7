"""A student's distance to its teacher in probabilities (Hinton et al. 2015, arXiv:1503.02531)."""

import torch
from torch.nn import functional


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """T^2 KL(teacher || student) of softened class probabilities: summed over classes, mean over
    rows. Logits are (rows, classes); no gradient reaches the teacher.
    """
    soft = functional.log_softmax(student / temperature, dim=1)  # (rows, classes)
    target = functional.log_softmax(teacher.detach() / temperature, dim=1)  # (rows, classes)
    divergence = functional.kl_div(soft, target, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def click_distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """``distillation_loss`` of click logits (rows,): two classes with logits 0 and z, so that a
    click has probability sigmoid(z / T).
    """
    return distillation_loss(_two_classes(student), _two_classes(teacher), temperature)


def _two_classes(logits: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.zeros_like(logits), logits], dim=1)  # (rows, 2)
