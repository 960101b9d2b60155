"""The training package without vLLM and without a training run: loss, configuration, saving."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from safetensors import safe_open  # noqa: E402

from vllm_lmtp.errors import LMTPError  # noqa: E402
from vllm_lmtp.formats.checkpoint import read_checkpoint  # noqa: E402
from vllm_lmtp.formats.whole import whole_folder  # noqa: E402
from vllm_lmtp.training.data.corpus import loops, read_corpus  # noqa: E402
from vllm_lmtp.training.data.rows import IGNORE, pack  # noqa: E402
from vllm_lmtp.training.model.heads import LeapHeads  # noqa: E402
from vllm_lmtp.training.model.loss import stage1_loss, stage2_loss  # noqa: E402
from vllm_lmtp.training.runs.trainer import last_checkpoint  # noqa: E402
from vllm_lmtp.training.settings.read_run import read_run  # noqa: E402
from vllm_lmtp.training.settings.stages import HeadsConfig, ModelConfig  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "configs" / "train"
HIDDEN, VOCAB = 6, 11


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    hidden = torch.randn(3, 12, HIDDEN, dtype=torch.float64)
    labels = torch.randint(VOCAB, (3, 12))
    labels[1, 7:] = IGNORE
    labels[2, 2:] = IGNORE
    return hidden, labels


def _plain_loss(heads: LeapHeads, hidden: torch.Tensor, labels: torch.Tensor, k: int):
    """The same sum, one position at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(heads)):
        w = heads[i].resblock[0].l_proj.weight
        b = heads[i].resblock[0].l_proj.bias
        losses = []
        for row in range(hidden.shape[0]):
            for t in range(hidden.shape[1]):
                target = t + 1 + k * (i + 1)
                if target < hidden.shape[1] and labels[row, target] != IGNORE:
                    z = w @ hidden[row, t] + b
                    logits = heads[i].lm_head.weight @ (hidden[row, t] + z / (1 + torch.exp(-z)))
                    losses.append(torch.logsumexp(logits, 0) - logits[labels[row, target]])
        if losses:
            total = total + torch.stack(losses).mean()
    return total


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 1), (3, 2), (2, 3), (4, 3)])
@pytest.mark.parametrize("budget", [1, 3 * VOCAB, 1 << 20])
def test_loss_and_gradients_equal_the_formula(n: int, k: int, budget: int) -> None:
    torch.manual_seed(0)
    heads = LeapHeads(n, torch.randn(VOCAB, HIDDEN)).double()
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    hidden, labels = _batch()

    expected = _plain_loss(heads, hidden, labels, k)
    wanted = torch.autograd.grad(expected, list(heads.parameters()), allow_unused=True)
    loss, of_heads = stage1_loss(heads, hidden, labels, k, budget)
    loss.backward()

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(of_heads.sum(), expected)
    for parameter, gradient in zip(heads.parameters(), wanted, strict=True):
        if gradient is None:
            gradient = torch.zeros_like(parameter)
        found = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize("budget", [1, 3 * VOCAB, 1 << 20])
def test_stage_2_loss_and_gradients_equal_the_formula(budget: int) -> None:
    torch.manual_seed(0)
    heads = LeapHeads(2, torch.randn(VOCAB, HIDDEN)).double()
    lm_head = torch.nn.Linear(HIDDEN, VOCAB, bias=False).double()
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    hidden, labels = _batch()
    hidden.requires_grad_()
    following = [
        torch.logsumexp(logits, 0) - logits[labels[row, t + 1]]
        for row in range(hidden.shape[0])
        for t in range(hidden.shape[1] - 1)
        if labels[row, t + 1] != IGNORE
        for logits in [lm_head.weight @ hidden[row, t]]
    ]
    next_token = torch.stack(following).mean()
    expected = next_token + 0.1 * _plain_loss(heads, hidden, labels, 2)
    inputs = [hidden, lm_head.weight, *heads.parameters()]
    wanted = torch.autograd.grad(expected, inputs)

    loss, parts = stage2_loss(lm_head, heads, hidden, labels, 2, 0.1, budget)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(parts[0], next_token.detach())
    torch.testing.assert_close(torch.autograd.grad(loss, inputs), wanted)


def test_texts_shorter_than_every_offset_give_zero_and_not_nan() -> None:
    heads = LeapHeads(2, torch.randn(VOCAB, HIDDEN))
    loss, _ = stage1_loss(heads, torch.randn(1, 3, HIDDEN), torch.ones(1, 3, dtype=int), 3, 99)
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in heads.parameters())


def test_heads_start_as_the_reference_starts_them() -> None:
    matrix = torch.randn(VOCAB, HIDDEN)
    heads = LeapHeads(2, matrix)
    assert not heads[0].resblock[0].l_proj.weight.any()
    assert heads[0].resblock[0].l_proj.bias.any()
    assert torch.equal(heads[1].lm_head.weight, matrix)
    assert heads[0].lm_head.weight.data_ptr() != heads[1].lm_head.weight.data_ptr()


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_committed_configurations_parse_and_name_no_machine(path: Path) -> None:
    run = read_run(path)
    names = ("output", "backbone", "teacher", "model", "stage1", "dataset")
    folders = [getattr(run, name, None) for name in names]
    assert run.output
    assert not any(Path(f).is_absolute() for f in folders if isinstance(f, str))


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        (
            "skip_token: 2",
            "skip_tokens: 2",
            ["heads.skip_tokens", "an unknown field", "skip_token"],
        ),
        ("skip_token: 2", "", ["heads.skip_token", "no such field", "an integer", "add it"]),
        ("skip_token: 2", "skip_token: 0", ["heads.skip_token", "found 0", "at least 1"]),
        ("skip_token: 2", "skip_token: true", ["heads.skip_token", "found True", "an integer"]),
        ("lr: 0.001", "lr: 1e-3", ["optim.lr", "'1e-3'", "a number, written with a point"]),
        ("[0.3, 0.7, 1.0]", "[0.3, warm]", ["own_text.temperatures[1]", "'warm'", "a number"]),
        ("run: s1", "run: s3", ["run", "'s3'", "backbone or s1 or s2 or heads or distill"]),
        ("run: s1", "run: [", ["content", "unreadable YAML"]),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    text = (CONFIGS / "s1" / "tiny.yaml").read_text()
    assert old in text
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(LMTPError) as error:
        read_run(path)
    for part in [str(path), "expected", "Remedy", *parts]:
        assert part in str(error.value)


def test_all_faults_of_a_file_come_together(tmp_path: Path) -> None:
    text = (CONFIGS / "s1" / "tiny.yaml").read_text()
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace("seed: 1\n", "sede: 1\n").replace("steps: ", "stepps: "))
    with pytest.raises(LMTPError) as error:
        read_run(path)
    assert {r.field for r in error.value.refusals} == {
        "sede",
        "seed",
        "optim.stepps",
    }


def _fail_while_saving(target: Path) -> None:
    with whole_folder(target) as folder:
        (folder / "weights").write_text("half")
        raise OSError("no space left on device")


def test_a_failed_save_leaves_the_old_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with whole_folder(target) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(OSError, match="no space"):
        _fail_while_saving(target)
    assert (target / "weights").read_text() == "old"
    with whole_folder(target) as folder:
        (folder / "other").write_text("new")
    assert [p.name for p in target.iterdir()] == ["other"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_save_killed_between_its_renames_is_mended(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with whole_folder(target) as folder:
        (folder / "weights").write_text("old")
    target.rename(tmp_path / ".model.old")
    with pytest.raises(OSError, match="no space"):
        _fail_while_saving(target)
    assert (target / "weights").read_text() == "old"


def test_saved_folder_has_the_reference_names(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from vllm_lmtp.training.data.tokenizer import EOS_ID, train_tokenizer
    from vllm_lmtp.training.model.layout import load_backbone, write_stage1
    from vllm_lmtp.training.runs.backbone import build_model

    tokenizer = train_tokenizer(["Once upon a time there was a cat. "] * 9, 262, 32)
    model = build_model(ModelConfig(262, 32, 1, 2, 48, 32)).eval()
    heads = LeapHeads(2, model.lm_head.weight.detach())
    config = HeadsConfig(n_head=2, skip_token=3)
    with whole_folder(tmp_path / "m") as folder:
        write_stage1(folder, model, heads, config, tokenizer, "a/b")
    with safe_open(str(tmp_path / "m" / "model.safetensors"), framework="pt") as file:
        names = set(file.keys())
        assert {file.get_slice(n).get_dtype() for n in names} == {"BF16"}
        assert torch.equal(
            file.get_tensor("lm_head.weight"), file.get_tensor("model.embed_tokens.weight")
        )
    assert {n for n in names if n.startswith("heads.")} == {
        f"heads.heads.{i}.{part}"
        for i in range(2)
        for part in ("resblock.0.l_proj.weight", "resblock.0.l_proj.bias", "lm_head.weight")
    }
    found = read_checkpoint(tmp_path / "m")
    assert (found.schedule.n_heads, found.schedule.stride, found.stage1) == (2, 3, True)
    raw = json.loads((tmp_path / "m" / "config.json").read_text())
    assert raw["architectures"] == ["LMTPModel"]
    assert raw["model_name"] == "a/b"
    assert raw["dtype"] == "bfloat16"

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    assert again.generation_config.eos_token_id == EOS_ID
    loaded = AutoTokenizer.from_pretrained(tmp_path / "m")
    ids = loaded("a cat")["input_ids"]
    assert ids[0] == loaded.bos_token_id
    assert loaded.decode(ids, skip_special_tokens=True) == "a cat"
    frequencies = load_backbone(tmp_path / "m").model.rotary_emb.inv_freq
    assert torch.equal(frequencies, model.model.rotary_emb.inv_freq)


def test_corpus_drops_and_counts(tmp_path: Path) -> None:
    texts = [("a story", True), ("a story", True), ("cut", False), ("go on and " * 30, True)]
    lines = [json.dumps({"text": t, "ended": e}) for t, e in texts]
    (tmp_path / "shard-000.jsonl").write_text("\n".join(lines))
    corpus = read_corpus([tmp_path / "shard-000.jsonl"])
    assert [t["text"] for t in corpus.texts] == ["a story"]
    assert corpus.counts == {"read": 4, "unended": 1, "loops": 1, "duplicates": 1, "kept": 1}
    assert not loops("The end.")


def test_rows() -> None:
    rows = pack([[1, 2, 3], [4, 5, 6]], 4, seed=0)
    assert rows.shape == (1, 4)


def test_an_unfinished_trainer_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step in (100, 200, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step < 1000:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-200")


def test_reading_a_configuration_imports_no_torch() -> None:
    code = (
        "import sys, vllm_lmtp.training.runs.run, vllm_lmtp.training.distillation.sample;"
        "assert not {'torch', 'transformers', 'vllm'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
