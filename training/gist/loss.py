"""The two losses of gist training, summed over answer tokens, in fp32."""

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax


def lm_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits [A, V] with targets [A] int64, summed (arXiv 2304.08467, eq. 2)."""
    return cross_entropy(logits.float(), targets, reduction="sum")


def token_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL[teacher || student] for each row of logits [A, V], in nats, shape [A]."""
    expected = log_softmax(teacher.float(), -1)
    return (expected.exp() * (expected - log_softmax(student.float(), -1))).sum(-1)
