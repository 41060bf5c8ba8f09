import pytest
import torch

import expedite
from expedite import ExpediteError, Span
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.comparators.attention import Attention
from expedite.evaluate.comparators.base import Measured
from expedite.evaluate.comparators.evit import TokenSelection, class_attention
from expedite.evaluate.comparators.records import Copied
from tests.hosts import timm_vit

pytestmark = pytest.mark.usefixtures("no_gradients")


def attention(prefix: int = 2) -> Attention:
    return Attention(torch.randn(2, prefix + 12, 3, 4), torch.randn(2, prefix + 12, 3, 4))


def test_attentiveness_is_the_class_tokens_attention() -> None:
    found = attention()
    for image in range(2):
        heads = []
        for head in range(3):
            query = found.queries[image, 0, head].double()
            scores = found.keys[image, :, head].double() @ query / 4**0.5
            heads.append(scores.softmax(0))
        expected = torch.stack(heads).mean(0)
        torch.testing.assert_close(class_attention(found)[image].double(), expected)


def test_attended_tokens_stay_and_the_others_are_fused() -> None:
    found, tokens = attention(), torch.randn(2, 12, 5)
    layer = TokenSelection(Span(0, (2, 3)))
    merged, record = layer(tokens, (3, 4), Measured(attention=found, prefix=2))
    shares = class_attention(found)[:, 2:]
    for image in range(2):
        order = shares[image].argsort(descending=True)
        kept, lost = order[:5].sort().values, order[5:]
        torch.testing.assert_close(merged[image, :5], tokens[image, kept])
        weights = shares[image, lost] / shares[image, lost].sum()
        torch.testing.assert_close(merged[image, 5], weights @ tokens[image, lost])
        assert record.mass[image].tolist() == [1] * 5 + [7]


def test_copies_return_to_where_tokens_came_from() -> None:
    found, tokens = attention(), torch.randn(2, 12, 5)
    layer = TokenSelection(Span(0, (2, 3)))
    merged, record = layer(tokens, (3, 4), Measured(attention=found, prefix=2))
    copies = Copied(record).apply(merged)
    assert record.assignment is not None
    for image in range(2):
        for token in range(12):
            group = record.assignment.labels[image, token]
            torch.testing.assert_close(copies[image, token], merged[image, group])
            if group < 5:
                torch.testing.assert_close(copies[image, token], tokens[image, token])


def test_models_without_a_class_token_are_refused() -> None:
    plain = timm_vit(class_token=False, global_pool="avg")
    with pytest.raises(ExpediteError, match=r"EViT .* no class token .* pool and tome work"):
        expedite.patch(plain, plan_of("evit", 1, 4))
    registers = timm_vit(class_token=False, reg_tokens=2, global_pool="avg")
    with pytest.raises(ExpediteError, match="no class token"):
        expedite.patch(registers, plan_of("evit", 1, 4))
