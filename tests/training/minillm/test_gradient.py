"""The gradient of the loss, its expectation enumerated over all responses, by brute force."""

import pytest
import torch
from gistserve.training.minillm.loss import MiniLLMLoss, ObjectiveSettings
from gistserve.training.minillm.rollouts import ModelPair, score_rollouts
from torch import Tensor

from .tiny_pairs import PROMPT, beginnings, endings, gradients, settings, tiny_pair

RESPONSES = list(endings())


class Tables:
    """log q and log p of every next token, from whole forward passes; q with a gradient."""

    def __init__(self, pair: ModelPair, alpha: float) -> None:
        self.student = {said: _next(pair.student.model, said) for said in beginnings()}
        self.teacher = {said: _next(pair.teacher.model, said) for said in beginnings()}
        self.mixture = {
            said: (alpha * self.teacher[said].exp() + (1 - alpha) * self.student[said].exp())
            .detach()
            .log()
            for said in beginnings()
        }

    def total(self, table: dict[tuple[int, ...], Tensor], said: tuple, rest: tuple) -> Tensor:
        """log-probability of `rest` behind `said`."""
        whole = said + rest
        steps = [table[whole[:t]][whole[t]] for t in range(len(said), len(whole))]
        return torch.stack(steps).sum() if steps else torch.zeros((), dtype=torch.float64)

    def expected_following(self, said: tuple[int, ...], normalise: bool) -> Tensor:
        """E[R_{t+1}] where the response so far is `said`, its rest drawn from the mixture."""
        expected = torch.zeros((), dtype=torch.float64)
        for rest in endings(said):
            if not rest:
                continue
            reward = self.total(self.teacher, said, rest) - self.total(self.student, said, rest)
            share = len(rest) if normalise else 1
            expected += self.total(self.mixture, said, rest).exp() * reward / share
        return expected.detach()


def _next(model: torch.nn.Module, said: tuple[int, ...]) -> Tensor:
    return model(torch.tensor([PROMPT + list(said)])).logits[0, -1].log_softmax(-1)


def expected_gradient(pair: ModelPair, alpha: float, normalise: bool) -> dict[str, Tensor]:
    """The gradient of eq. 7, with sums over y_t for the expectations over it.

    E_{y_t~mixture}[w_t f(y_t)] is sum q(y_t) f(y_t); what is said before, and after, remains drawn
    from the mixture: the weight of one step corrects for that step alone.
    """
    tables = Tables(pair, alpha)
    loss = torch.zeros((), dtype=torch.float64)
    for said in beginnings():
        ours, theirs = tables.student[said], tables.teacher[said]
        reached = tables.total(tables.mixture, (), said).exp()
        following = torch.stack(
            [tables.expected_following((*said, token), normalise) for token in range(len(ours))]
        )
        single = (ours.exp() * (ours - theirs)).sum()
        loss = loss + reached * (single - (ours.exp() * following).sum())
    loss.backward()
    return gradients(pair.student.model)


def sampled_gradient(
    pair: ModelPair, alpha: float, objective: ObjectiveSettings
) -> dict[str, Tensor]:
    """The sum over all responses of their probability times the gradient of their loss."""
    rollouts = score_rollouts(pair, [PROMPT] * len(RESPONSES), RESPONSES, settings(alpha))
    tables, loss = Tables(pair, alpha), MiniLLMLoss(pair, objective)
    chances = [float(tables.total(tables.mixture, (), said).exp()) for said in RESPONSES]
    assert sum(chances) == pytest.approx(1)
    for row, chance in enumerate(chances):
        loss(rollouts.rows([row]), chance, None, 0)["loss"].backward()
    return gradients(pair.student.model)


def check_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert max(float(gradient.abs().max()) for gradient in theirs.values()) > 0.1
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-10, rtol=1e-8, msg=name)


@pytest.mark.parametrize("alpha", [0.0, 0.2])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("single_step", [True, False])
def test_expectation_of_the_gradient(alpha: float, normalise: bool, single_step: bool) -> None:
    pair = tiny_pair()
    objective = ObjectiveSettings(length_normalisation=normalise, single_step=single_step)
    ours = sampled_gradient(pair, alpha, objective)
    check_same(ours, expected_gradient(pair, alpha, normalise))


def test_it_is_the_gradient_of_the_reverse_kl() -> None:
    """Without mixing and normalisation nothing of eq. 1 is approximated."""
    pair = tiny_pair()
    tables = Tables(pair, 0)
    kl = torch.zeros((), dtype=torch.float64)
    for said in RESPONSES:
        ours = tables.total(tables.student, (), said)
        kl = kl + ours.exp() * (ours - tables.total(tables.teacher, (), said))
    kl.backward()
    truth = gradients(pair.student.model)
    objective = ObjectiveSettings(length_normalisation=False)
    check_same(sampled_gradient(pair, 0, objective), truth)


def test_the_loss_of_one_response() -> None:
    """Sum of w_t (KL_t - R_{t+1}): what the expectation does not tell is that both are weighted."""
    pair, response, alpha = tiny_pair(), (0, 1, 2), 0.2
    rollouts = score_rollouts(pair, [PROMPT], [response], settings(alpha))
    loss = MiniLLMLoss(pair, ObjectiveSettings())(rollouts, 1, None, 0)["loss"]
    tables, expected = Tables(pair, alpha), 0.0
    for t, token in enumerate(response):
        said, rest = response[:t], response[t + 1 :]
        ours, theirs = tables.student[said], tables.teacher[said]
        weight = (ours - tables.mixture[said])[token].exp()
        seen = (*said, token)
        following = tables.total(tables.teacher, seen, rest) - tables.total(
            tables.student, seen, rest
        )
        mean = following / len(rest) if rest else following
        expected += weight * ((ours.exp() * (ours - theirs)).sum() - mean)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    "left_out",
    [{"length_normalisation": False}, {"single_step": False}],
)
def test_each_switch_changes_the_gradient_of_one_response(left_out: dict[str, bool]) -> None:
    pair = tiny_pair()
    rollouts = score_rollouts(pair, [PROMPT], [(0, 1, 2)], settings())
    found = []
    for objective in (ObjectiveSettings(), ObjectiveSettings(**left_out)):
        MiniLLMLoss(pair, objective)(rollouts, 1, None, 0)["loss"].backward()
        found.append(gradients(pair.student.model)["transformer.wte.weight"])
    assert not torch.allclose(*found, atol=1e-3)


def test_teacher_mixing_changes_what_is_learned() -> None:
    pair = tiny_pair()
    ours, others = (sampled_gradient(pair, alpha, ObjectiveSettings()) for alpha in (0.0, 0.2))
    assert not torch.allclose(
        ours["transformer.wte.weight"], others["transformer.wte.weight"], atol=1e-3
    )
