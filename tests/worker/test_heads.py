"""`LeapHeads` and `load_heads` against plain torch, on one rank and on pretended several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear, silu

from tests.support import folders
from tests.support.one_rank_world import one_process_world  # noqa: F401
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.worker.cpu_int8 import can_multiply

HIDDEN = 32
BF16 = torch.bfloat16
EMBEDDING = "vllm.model_executor.layers.vocab_parallel_embedding"


def save(folder: Path, tensors: dict[str, torch.Tensor], layers: int = 1) -> Path:
    values = folders.config(
        n_head=sum(name.endswith("lm_head.weight") for name in tensors),
        head_num_layers=layers,
        hidden_size=...,
        vocab_size=...,
    )
    return folders.write(folder, tensors, values)


def load(folder: Path, dtype: torch.dtype, held: torch.dtype | None = None):  # type: ignore[no-untyped-def]
    from vllm_lmtp.formats.read import draft_vocabulary
    from vllm_lmtp.worker.heads import LeapHeads
    from vllm_lmtp.worker.weights import load_heads

    found = read_checkpoint(folder)
    heads = LeapHeads(
        found.schedule.n_heads,
        found.num_layers,
        found.hidden_size,
        found.output_rows,
        dtype,
        draft_vocabulary(found),
        found.vocab_size,
        held=held,
    )
    for parameter in heads.parameters():  # so that whatever is not loaded shows
        parameter.data.fill_(float("nan") if parameter.is_floating_point() else 77)
    load_heads(heads, found)
    return heads


def logits(
    tensors: dict[str, torch.Tensor], head: int, rows: torch.Tensor, layers: int
) -> torch.Tensor:
    """[N, V] in float32, as the reference model computes them."""
    part = {k: v.float() for k, v in tensors.items() if k.startswith(f"heads.heads.{head}.")}
    block = f"heads.heads.{head}.resblock.0.l_proj"
    x = rows.float()
    for _ in range(layers):
        x = x + silu(linear(x, part[f"{block}.weight"], part[f"{block}.bias"]))
    return linear(x, part[f"heads.heads.{head}.lm_head.weight"])


def random_rows(count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(5)).to(dtype)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("vocab", [64, 97, 130])
def test_top_tokens_equal_plain_torch_in_float32(tmp_path: Path, vocab: int, layers: int) -> None:
    tensors = folders.heads(3, layers, HIDDEN, vocab, torch.float32)
    heads = load(save(tmp_path, tensors, layers), torch.float32)
    rows = random_rows(50, torch.float32)

    wanted = torch.stack([logits(tensors, i, rows, layers).argmax(-1) for i in range(3)], dim=-1)

    for num_heads in (1, 2, 3):
        assert torch.equal(heads.top_tokens(rows, num_heads), wanted[:, :num_heads])


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_top_tokens_in_bfloat16_are_best_up_to_rounding(
    tmp_path: Path, stored: torch.dtype
) -> None:
    tensors = folders.heads(2, 1, HIDDEN, 97, stored)
    heads = load(save(tmp_path, tensors), torch.bfloat16)
    rows = random_rows(50, torch.bfloat16)

    top = heads.top_tokens(rows, 2)

    assert top.dtype == torch.int64
    for head in range(2):
        exact = logits(tensors, head, rows, 1)
        lost = exact.amax(-1) - exact.gather(1, top[:, head : head + 1]).squeeze(1)
        assert float(lost.max()) < 0.02 * float(exact.abs().max())


def save_reduced(folder: Path, drafted: int, ids: list[int]) -> tuple[Path, dict]:
    """int8 heads that draft `ids`, and what they come to in floating point."""
    tensors = folders.reduced(2, drafted, HIDDEN)
    tensors["heads.d2t"] = torch.tensor([token - j for j, token in enumerate(ids)])
    values = folders.reduced_config(drafted, hidden_size=HIDDEN, vocab_size=1000)
    plain = dict(tensors)
    for head in range(2):
        name = f"heads.heads.{head}.lm_head"
        scale = plain.pop(f"{name}.scale")
        plain[f"{name}.weight"] = tensors[f"{name}.weight"].float() * scale.unsqueeze(1)
    return folders.write(folder, tensors, values), plain


def test_kernels_read_16_bit_matrices_for_few_rows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond them torch is faster; int8 and fp8 can be read by a kernel alone."""
    from vllm_lmtp.worker import heads as module

    assert not load(save(tmp_path / "cpu", folders.heads(1, 1, HIDDEN, 64)), BF16).kernels
    monkeypatch.setattr(module, "has_kernels", lambda: True)
    halves = load(save(tmp_path / "gpu", folders.heads(1, 1, HIDDEN, 64)), BF16)
    whole = load(tmp_path / "gpu", torch.float32)
    few, many = (torch.zeros(count, HIDDEN) for count in (module.FEW_ROWS, module.FEW_ROWS + 1))
    assert [halves._uses_kernels(few), halves._uses_kernels(many)] == [True, False]
    assert not whole._uses_kernels(few)
    halves.scales = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(64))])
    assert halves._uses_kernels(many)


def test_int8_heads_give_target_ids_of_their_draft_vocabulary(tmp_path: Path) -> None:
    ids = [3 + 7 * j for j in range(97)]
    folder, plain = save_reduced(tmp_path, 97, ids)
    rows = random_rows(50, torch.float32)
    top = load(folder, torch.float32).top_tokens(rows, 2)
    for head in range(2):
        best = logits(plain, head, rows, 1).argmax(-1).tolist()
        assert top[:, head].tolist() == [ids[j] for j in best]


@pytest.mark.skipif(not can_multiply(), reason="needs a CPU with AVX512-VNNI")
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_heads_that_stay_int8_draft_the_same(tmp_path: Path, dtype: torch.dtype) -> None:
    ids = [3 + 7 * j for j in range(97)]
    folder, plain = save_reduced(tmp_path, 97, ids)
    rows = random_rows(50, dtype)
    heads = load(folder, dtype, torch.int8)
    held = heads.num_bytes
    heads.pack_int8()
    assert heads.num_bytes == held + 4 * 2 * 128  # the scales stand twice
    top, how_likely = heads.top_with_log_probability(rows, 2)
    assert torch.equal(heads.top_tokens(rows, 2), top)
    for head in range(2):
        exact = logits(plain, head, rows, 1)
        best = exact.topk(2).values
        clear = best[:, 0] - best[:, 1] > (0.001 if dtype == torch.float32 else 0.1)
        assert clear.sum() > 25
        tokens = torch.tensor(ids)[exact.argmax(-1)]
        assert torch.equal(top[clear, head], tokens[clear])
        expected = exact.log_softmax(-1).amax(-1)
        assert torch.allclose(how_likely[:, head], expected, atol=0.001 if dtype != BF16 else 0.1)


@pytest.mark.parametrize("ids", [[5, 5], [5, 4], [998, 1000], [-1, 3], [0, 2**63 - 1]])
def test_a_draft_vocabulary_out_of_order_or_range_is_refused(
    tmp_path: Path, ids: list[int]
) -> None:
    folder, _ = save_reduced(tmp_path, 2, ids)
    with pytest.raises(LMTPError) as caught:
        load(folder, torch.float32)
    (refusal,) = caught.value.refusals
    assert refusal.field == "heads.d2t"
    assert "strictly increasing" in refusal.expected


def test_a_draft_vocabulary_that_overflows_is_refused(tmp_path: Path) -> None:
    tensors = folders.reduced(2, 2, HIDDEN) | {"heads.d2t": torch.tensor([0, 2**63 - 1])}
    values = folders.reduced_config(2, hidden_size=HIDDEN, vocab_size=1000)
    with pytest.raises(LMTPError, match=r"heads\.d2t"):
        load(folders.write(tmp_path, tensors, values), torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    tensors = folders.reduced(2, 97, HIDDEN, 1000)
    tensors["heads.heads.1.lm_head.scale"][5] = value
    values = folders.reduced_config(97, hidden_size=HIDDEN, vocab_size=1000)
    with pytest.raises(LMTPError) as caught:
        load(folders.write(tmp_path, tensors, values), torch.bfloat16)
    (refusal,) = caught.value.refusals
    assert refusal.field == "heads.heads.1.lm_head.scale"


def test_block_copies_may_be_left_out(tmp_path: Path) -> None:
    whole = folders.heads(2, 3, HIDDEN, 97, torch.float32)
    first_only = {k: v for k, v in whole.items() if "resblock" not in k or "resblock.0" in k}
    rows = random_rows(20, torch.float32)

    with_copies = load(save(tmp_path / "whole", whole, layers=3), torch.float32)
    without = load(save(tmp_path / "first", first_only, layers=3), torch.float32)

    assert torch.equal(with_copies.top_tokens(rows, 2), without.top_tokens(rows, 2))


def test_every_parameter_is_loaded_and_none_can_be_trained(tmp_path: Path) -> None:
    heads = load(save(tmp_path, folders.heads(2, 1, HIDDEN, 97)), torch.bfloat16)

    for name, parameter in heads.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert not parameter.requires_grad, name
    assert heads.num_bytes == 2 * 2 * (HIDDEN * HIDDEN + HIDDEN + 128 * HIDDEN)


def chosen(*scores: tuple[int, float], vocab: int, rest: float) -> dict[str, torch.Tensor]:
    """One head whose logit on the row of ones is `rest`, but for the given (id, logit) pairs."""
    tensors = folders.heads(1, 1, HIDDEN, vocab, torch.float32)
    for name, tensor in tensors.items():
        tensor.zero_()
        if name.endswith("lm_head.weight"):
            tensor += rest / HIDDEN
            for token, score in scores:
                tensor[token] = score / HIDDEN
    return tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_go_to_the_smaller_id(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = chosen((90, 8.0), (13, 8.0), (96, 8.0), vocab=97, rest=-4.0)
    heads = load(save(tmp_path, tensors), dtype)
    assert heads.top_tokens(torch.ones(3, HIDDEN, dtype=dtype), 1).tolist() == [[13]] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_never_wins_over_negative_logits(tmp_path: Path, dtype: torch.dtype) -> None:
    heads = load(save(tmp_path, chosen((70, -2.0), vocab=97, rest=-4.0)), dtype)
    assert heads.outputs[0].weight.shape[0] == 128
    assert heads.top_tokens(torch.ones(1, HIDDEN, dtype=dtype), 1).tolist() == [[70]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "part", ["resblock.0.l_proj.weight", "resblock.0.l_proj.bias", "lm_head.weight"]
)
def test_values_that_are_not_finite_are_refused(tmp_path: Path, part: str, value: float) -> None:
    tensors = folders.heads(2, 1, HIDDEN, 97)
    name = f"heads.heads.1.{part}"
    tensors[name].view(-1)[-1] = value

    with pytest.raises(LMTPError) as caught:
        load(save(tmp_path, tensors), torch.bfloat16)

    (refusal,) = caught.value.refusals
    assert refusal.where.endswith(folders.WEIGHTS)
    assert refusal.field == name
    assert refusal.found.startswith("1 value(s)")


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_block_copies_that_differ_are_refused(tmp_path: Path, kind: str) -> None:
    tensors = folders.heads(2, 2, HIDDEN, 97)
    name = f"heads.heads.1.resblock.1.l_proj.{kind}"
    tensors[name].view(-1)[3] += 1

    with pytest.raises(LMTPError) as caught:
        load(save(tmp_path, tensors, layers=2), torch.bfloat16)

    (refusal,) = caught.value.refusals
    assert refusal.field == name
    assert "resblock.0" in refusal.found


class WaitsError(Exception):
    """A pretended rank has sent its part and has nothing to go on with yet."""


@pytest.fixture
def on_ranks(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Calls a function with the heads of each of `tp_size` ranks, one after another."""

    def compute(folder: Path, tp_size: int, call) -> list:  # type: ignore[no-untyped-def]
        monkeypatch.setattr(f"{EMBEDDING}.get_tensor_model_parallel_world_size", lambda: tp_size)
        ranks, sent = [], []
        for rank in range(tp_size):
            monkeypatch.setattr(f"{EMBEDDING}.get_tensor_model_parallel_rank", lambda r=rank: r)
            ranks.append(load(folder, torch.float32))

        exchange = "vllm_lmtp.worker.heads.tensor_model_parallel_all_gather"

        def send(part: torch.Tensor, dim: int) -> torch.Tensor:
            assert dim == -1
            sent.append(part)
            raise WaitsError

        monkeypatch.setattr(exchange, send)
        for heads in ranks:
            with pytest.raises(WaitsError):
                call(heads)
        gathered, exchanges = torch.cat(sent, dim=-1), []

        def receive(part: torch.Tensor, dim: int) -> torch.Tensor:
            exchanges.append(dim)
            return gathered

        monkeypatch.setattr(exchange, receive)
        results = [call(heads) for heads in ranks]
        assert exchanges == [-1] * tp_size  # one a rank
        return results

    return compute


@pytest.fixture
def top_tokens_on_ranks(on_ranks):  # type: ignore[no-untyped-def]
    """Computes `top_tokens` as `tp_size` ranks would."""
    return lambda folder, rows, num_heads, tp_size: on_ranks(
        folder, tp_size, lambda heads: heads.top_tokens(rows, num_heads)
    )


RANKS = [(97, 1), (509, 2), (130, 3), (70, 4)]


@pytest.mark.parametrize(("vocab", "tp_size"), RANKS)
def test_the_best_token_and_how_likely_it_is(
    tmp_path: Path, on_ranks, vocab: int, tp_size: int
) -> None:
    tensors = folders.heads(2, 1, HIDDEN, vocab, torch.float32)
    rows = random_rows(40, torch.float32)
    shares = logits(tensors, 1, rows, 1).log_softmax(-1)
    folder = save(tmp_path, tensors)

    def call(heads):  # type: ignore[no-untyped-def]
        return heads.best_with_log_probability(heads.logits(rows, 1))

    for tokens, likely in [call(load(folder, torch.float32))] * (tp_size == 1) or on_ranks(
        folder, tp_size, call
    ):
        assert torch.equal(tokens, shares.argmax(-1))
        assert torch.allclose(likely, shares.amax(-1), atol=1e-5)


@pytest.mark.parametrize(("vocab", "tp_size"), RANKS)
@pytest.mark.parametrize("reduced", [False, True])
def test_the_best_token_and_how_likely_another_is(
    tmp_path: Path, on_ranks, vocab: int, tp_size: int, reduced: bool
) -> None:
    """Every token that there is, in whichever shard; -inf for those that the heads cannot name."""
    if reduced:
        chosen = torch.randperm(1000, generator=torch.Generator().manual_seed(1))[:vocab]
        ids, target = chosen.sort().values, 1000
        folder, tensors = save_reduced(tmp_path, vocab, ids.tolist())
    else:
        ids, target = torch.arange(vocab), vocab
        tensors = folders.heads(2, 1, HIDDEN, vocab, torch.float32)
        folder = save(tmp_path, tensors)
    rows, tokens = random_rows(target, torch.float32), torch.arange(target)
    shares = torch.full((target, target), float("-inf"))
    shares[:, ids] = logits(tensors, 1, rows, 1).log_softmax(-1)

    def call(heads):  # type: ignore[no-untyped-def]
        return heads.best_beside(heads.logits(rows, 1), heads.seek(tokens.unsqueeze(1)))

    for best, of_best, of_tokens in [call(load(folder, torch.float32))] * (
        tp_size == 1
    ) or on_ranks(folder, tp_size, call):
        assert torch.equal(best, shares.argmax(-1))
        assert torch.allclose(of_best, shares.amax(-1), atol=1e-4)
        assert torch.equal(of_tokens.isneginf(), shares.diagonal().isneginf())
        assert torch.allclose(of_tokens, shares.diagonal(), atol=1e-4)


@pytest.mark.parametrize(("vocab", "tp_size"), [(97, 1), (509, 2), (130, 3)])
def test_the_best_tokens_of_all_heads_and_how_likely_they_are(
    tmp_path: Path, on_ranks, vocab: int, tp_size: int
) -> None:
    """In one exchange; the vocabulary is a part of the target's."""
    ids = torch.arange(vocab) + 2
    folder, tensors = save_reduced(tmp_path, vocab, ids.tolist())
    rows = random_rows(40, torch.float32)
    shares = torch.stack([logits(tensors, i, rows, 1).log_softmax(-1) for i in range(2)], dim=1)

    def call(heads):  # type: ignore[no-untyped-def]
        return heads.top_with_log_probability(rows, 2)

    for tokens, likely in [call(load(folder, torch.float32))] * (tp_size == 1) or on_ranks(
        folder, tp_size, call
    ):
        assert torch.equal(tokens, ids[shares.argmax(-1)])
        assert torch.allclose(likely, shares.amax(-1), atol=1e-5)


@pytest.mark.parametrize(("vocab", "tp_size"), RANKS)
@pytest.mark.parametrize("reduced", [False, True])
def test_scores_in_the_order_of_the_targets_tokens(
    tmp_path: Path, on_ranks, vocab: int, tp_size: int, reduced: bool
) -> None:
    ids = [2 + 5 * j for j in range(vocab)] if reduced and vocab < 200 else list(range(vocab))
    folder, tensors = save_reduced(tmp_path, vocab, ids)
    rows = random_rows(10, torch.float32)
    wanted = torch.full((10, 1000), float("-inf"))
    wanted[:, ids] = logits(tensors, 1, rows, 1)

    def call(heads):  # type: ignore[no-untyped-def]
        return heads.over_target_tokens(heads.logits(rows, 1))

    for whole in [call(load(folder, torch.float32))] * (tp_size == 1) or on_ranks(
        folder, tp_size, call
    ):
        assert whole.shape == wanted.shape
        assert torch.allclose(whole, wanted, atol=1e-4)


@pytest.mark.parametrize(("vocab", "tp_size"), [(509, 2), (130, 3), (70, 4), (64, 2)])
def test_every_rank_finds_the_global_best(
    tmp_path: Path, top_tokens_on_ranks, vocab: int, tp_size: int
) -> None:
    tensors = folders.heads(2, 1, HIDDEN, vocab, torch.float32)
    rows = random_rows(40, torch.float32)
    wanted = torch.stack([logits(tensors, i, rows, 1).argmax(-1) for i in range(2)], dim=-1)

    for got in top_tokens_on_ranks(save(tmp_path, tensors), rows, 2, tp_size):
        assert torch.equal(got, wanted)


def test_ranks_share_a_draft_vocabulary(tmp_path: Path, top_tokens_on_ranks) -> None:
    ids = [2 + 5 * j for j in range(130)]
    folder, plain = save_reduced(tmp_path, 130, ids)
    rows = random_rows(40, torch.float32)
    best = torch.stack([logits(plain, i, rows, 1).argmax(-1) for i in range(2)], dim=-1)
    for got in top_tokens_on_ranks(folder, rows, 2, 3):
        assert torch.equal(got, torch.tensor(ids)[best])


def test_ties_between_ranks_go_to_the_smaller_id(tmp_path: Path, top_tokens_on_ranks) -> None:
    tensors = chosen((500, 8.0), (300, 8.0), (20, 8.0), (7, 4.0), vocab=509, rest=-4.0)
    for got in top_tokens_on_ranks(save(tmp_path, tensors), torch.ones(2, HIDDEN), 1, 4):
        assert got.tolist() == [[20], [20]]


def test_a_rank_of_nothing_but_padding_never_wins(tmp_path: Path, top_tokens_on_ranks) -> None:
    """70 tokens are padded to 128, so the last of four ranks holds none."""
    tensors = chosen((69, -2.0), vocab=70, rest=-4.0)
    for got in top_tokens_on_ranks(save(tmp_path, tensors), torch.ones(1, HIDDEN), 1, 4):
        assert got.tolist() == [[69]]
