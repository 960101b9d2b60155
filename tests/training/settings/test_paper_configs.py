"""The training files of the paper's six models: each builds its model on the meta device."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from vllm_lmtp.training.model.heads import LeapHeads  # noqa: E402
from vllm_lmtp.training.model.leap_model import LeapModel, attach_lora  # noqa: E402
from vllm_lmtp.training.settings.distill import DistillRun  # noqa: E402
from vllm_lmtp.training.settings.read_run import read_run  # noqa: E402
from vllm_lmtp.training.settings.stages import OptimConfig, Stage1Run, Stage2Run  # noqa: E402

CONFIGS = Path(__file__).parents[3] / "configs" / "train"


def _config(kind: str, *sizes: int, **more: object) -> object:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    names += ("intermediate_size", "vocab_size")
    return getattr(transformers, kind)(**dict(zip(names, sizes, strict=True)), **more)


# The public dimensions, and the size of three heads in units of 10^9 parameters.
MODELS = {
    "llama-3.2-3b": (
        _config("LlamaConfig", 3072, 28, 24, 8, 8192, 128256, tie_word_embeddings=True),
        1.21,
    ),
    "llama-3.1-8b": (_config("LlamaConfig", 4096, 32, 32, 8, 14336, 128256), 1.63),
    "qwen2.5-3b": (
        _config("Qwen2Config", 2048, 36, 16, 2, 11008, 151936, tie_word_embeddings=True),
        0.95,
    ),
    "qwen2.5-7b": (_config("Qwen2Config", 3584, 28, 28, 4, 18944, 152064), 1.67),
    "gemma3-4b": (
        _config("Gemma3TextConfig", 2560, 34, 8, 4, 10240, 262208, head_dim=256),
        2.03,
    ),
    "gemma3-12b": (
        _config("Gemma3TextConfig", 3840, 48, 16, 8, 15360, 262208, head_dim=256),
        3.06,
    ),
}


def _model(name: str, n_head: int, stride: int) -> LeapModel:
    with torch.device("meta"):
        backbone = transformers.AutoModelForCausalLM.from_config(MODELS[name][0])
        heads = LeapHeads(n_head, backbone.get_output_embeddings().weight)
    return LeapModel(backbone, heads, stride, 0.1, 1 << 24)


def _numbers(optim: OptimConfig) -> tuple[float, float, float | None, int]:
    return optim.lr, optim.warmup, optim.epochs, optim.step_rows(devices=1)


@pytest.mark.parametrize("name", MODELS)
def test_stage_1_of_the_paper(name: str) -> None:
    run = read_run(CONFIGS / "s1" / f"{name}.yaml")
    assert isinstance(run, Stage1Run)
    lr = 0.0005 if name == "llama-3.2-3b" else 0.001
    assert _numbers(run.optim) == (lr, 0.1, 5, 32 if name == "gemma3-12b" else 64)
    assert (run.heads.n_head, run.heads.skip_token, run.row_tokens) == (3, 2, 1024)
    model = _model(name, run.heads.n_head, run.heads.skip_token)
    hidden, vocab = MODELS[name][0].hidden_size, MODELS[name][0].vocab_size
    count = sum(p.numel() for p in model.heads.parameters())
    assert count == 3 * (hidden * hidden + hidden + vocab * hidden)
    assert round(count / 1e9, 2) == MODELS[name][1]
    rows = torch.empty(5, hidden, device="meta", dtype=model.lm_head.weight.dtype)
    for reader in (model.lm_head, *model.heads.heads):
        assert reader(rows).shape == (5, vocab)


@pytest.mark.parametrize("name", MODELS)
def test_stage_2_of_the_paper(name: str) -> None:
    run = read_run(CONFIGS / "s2" / f"{name}.yaml")
    stage1 = read_run(CONFIGS / "s1" / f"{name}.yaml")
    assert isinstance(run, Stage2Run)
    assert isinstance(stage1, Stage1Run)
    assert _numbers(run.optim) == (0.00001, 0.1, 3, 64)
    assert (run.lora.r, run.lora.alpha, run.head_weight) == (32, 16, 0.1)
    assert run.stage1 == f"{stage1.output}/model"
    assert run.dataset == stage1.dataset
    with torch.device("meta"):
        adapted = attach_lora(_model(name, 3, 2), run.lora, run.stage1)
    config = MODELS[name][0]
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * (7 * config.num_hidden_layers + 3)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    query = head_dim * config.num_attention_heads
    key = head_dim * config.num_key_value_heads
    hidden, inner = config.hidden_size, config.intermediate_size
    layer = 2 * (hidden + query) + 2 * (hidden + key) + 3 * (hidden + inner)
    expected = run.lora.r * (config.num_hidden_layers * layer + 3 * 2 * hidden)
    assert sum(p.numel() for p in trained.values()) == expected
    assert not any("lm_head" in n or "embed" in n for n in trained)


@pytest.mark.parametrize("name", MODELS)
def test_distillation_of_the_paper(name: str) -> None:
    run = read_run(CONFIGS / "distill" / f"{name}.yaml")
    stage1 = read_run(CONFIGS / "s1" / f"{name}.yaml")
    assert isinstance(run, DistillRun)
    assert isinstance(stage1, Stage1Run)
    assert stage1.dataset == f"{run.output}/dataset"
    assert run.max_prompt_tokens + run.answers.max_tokens <= stage1.row_tokens
    # Every prompt is answered: 7.5 K + 80 K + 52 K.
    assert run.answers.shards * run.answers.texts_per_shard == 140_000


def test_each_of_the_six_has_all_three_files() -> None:
    for kind in ("distill", "s1", "s2"):
        assert set(MODELS) <= {path.stem for path in (CONFIGS / kind).glob("*.yaml")}
