"""Compiles every shape of the kernels for a GPU that need not be there, and says what they take.

python -m tests.worker.kernels.compiling 89
"""

from __future__ import annotations

import itertools
import sys

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from vllm_lmtp.worker.kernels import product

SHARED_MEMORY = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB a block may take, by compute capability (CUDA C++ Programming Guide, table of features)."""
ROWS_AND_MATRICES = [("bf16", "bf16"), ("fp16", "i8"), ("bf16", "i8"), ("bf16", "fp8e4nv"),
                     ("fp32", "i8")]  # fmt: skip
KERNELS = {"best": product._block_best_kernel, "logits": product._logits_kernel}
TYPES = {"values": "*fp32", "masses": "*fp32", "logits": "*fp32", "ids": "*i32"}
ALIGNED = {"rows", "matrix", "scales", *TYPES, "hidden", "row_stride", "matrix_stride"}


def shared_memory(kernel: object, rows: str, matrix: str, block_rows: int, capability: int) -> int:
    """Bytes of it that a block of a kernel takes."""
    exact = rows == "fp32"
    vocab, hidden = product.SHAPES[block_rows]
    constants = {
        "HAS_SCALES": rows != matrix,
        "EXACT": exact,
        "BLOCK_ROWS": block_rows,
        "BLOCK_VOCAB": vocab,
        "BLOCK_HIDDEN": hidden // 4 if exact else hidden,
        "row_step": 1,
        "matrix_step": 1,
    }
    types = TYPES | {"rows": f"*{rows}", "matrix": f"*{matrix}", "scales": "*fp32"}
    types |= dict.fromkeys(constants, "constexpr")
    names = kernel.arg_names  # type: ignore[attr-defined]
    source = ASTSource(
        kernel,
        {name: types.get(name, "i32") for name in names},
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in ALIGNED},
    )
    target = GPUTarget("cuda", capability, 32)
    compiled = compile_kernel(source, target=target, options={"num_warps": 4, "num_stages": 3})
    taken: int = compiled.metadata.shared
    return taken


def main(capability: int) -> None:
    for (name, kernel), (rows, matrix), block_rows in itertools.product(
        KERNELS.items(), ROWS_AND_MATRICES, product.SHAPES
    ):
        if matrix.startswith("fp8") and capability < 89:
            continue  # refused at start there
        taken = shared_memory(kernel, rows, matrix, block_rows, capability)
        what = f"{name} of {block_rows} rows {rows} by {matrix}: {taken} bytes"
        if taken > SHARED_MEMORY[capability] * 1024:
            sys.exit(f"{what} on a GPU with {SHARED_MEMORY[capability]} KiB")
        print(f"{what} fits")


if __name__ == "__main__":
    main(int(sys.argv[1]))
