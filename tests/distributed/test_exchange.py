"""What two ranks send each other for a draft: a value and an id for each place, and no logits."""

from __future__ import annotations

from pathlib import Path

from tests.distributed.cluster import UNCOMPILED
from tests.engine.client import EngineHost
from tests.engine.test_chain import check, prompts_of
from tests.support.chain import scorers as chain_scorers
from tests.support.chain.target import Chain, save_chain

PAIR = 8  # bytes: two float32
COUNTING = Path(__file__).with_name("counting")


def test_bytes_for_a_draft(chain: Chain, tmp_path: Path) -> None:
    """One request: three heads read two rows each, at once without a scorer. A scorer settles the
    six places one by one."""
    notes = tmp_path / "notes"
    host = EngineHost(
        1,
        False,
        tmp_path / "host.log",
        processes=True,
        path=COUNTING,
        variables={**UNCOMPILED, "LMTP_TEST_EXCHANGES": str(notes)},
    )
    scorer = chain_scorers.markov(chain)
    scored = scorer.add_to(save_chain(chain, tmp_path / "scored"))
    plain = save_chain(chain, tmp_path / "plain")
    cases = [(plain, chain, [6 * PAIR]), (scored, chain_scorers.scored(chain, scorer), [PAIR] * 6)]
    try:
        for folder, drafter, exchanges_of_draft in cases:
            notes.mkdir()
            host.start(folder, speculative_config="lmtp", tensor_parallel_size=2)
            before = [len(lines) for lines in exchanges(notes)] or [0, 0]
            counters = check(host, drafter, prompts_of(chain, [30]), 40, 6, 512)
            for start, lines in zip(before, exchanges(notes), strict=True):
                passes, rest = divmod(len(lines) - start, len(exchanges_of_draft))
                assert rest == 0
                assert lines[start:] == exchanges_of_draft * passes
                # The last draft may come after the request's last token, and is judged by none.
                assert passes - counters.num_drafts in (0, 1)
            notes.rename(tmp_path / f"notes of {folder.name}")
    finally:
        host.close()


def exchanges(notes: Path) -> list[list[int]]:
    """Bytes of each exchange, by process."""
    return [list(map(int, file.read_text().split())) for file in sorted(notes.iterdir())]
