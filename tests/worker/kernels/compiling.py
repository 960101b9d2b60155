"""Compiles every shape of the kernels for a GPU that need not be there, and says what they take.

python -m tests.worker.kernels.compiling 89
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.compiler import compile as compile_kernel

from vllm_lmtp.worker.kernels import copying, product

SHARED_MEMORY = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB a block may take, by compute capability (CUDA C++ Programming Guide, table of features)."""
ROWS_AND_MATRICES = [("bf16", "bf16"), ("fp16", "i8"), ("bf16", "i8"), ("bf16", "fp8e4nv"),
                     ("fp32", "i8")]  # fmt: skip
KERNELS = {"best": product._block_best_kernel, "logits": product._logits_kernel}
TYPES = {"values": "*fp32", "masses": "*fp32", "logits": "*fp32", "ids": "*i32"}
ALIGNED = {"rows", "matrix", "scales", *TYPES, "hidden", "row_stride", "matrix_stride"}
TABLES = {"tokens": "*i32", "total_len": "*i32", "slots": "*i64", "keys": "*i64",
          "copied": "*i64", "lengths": "*i64"}  # fmt: skip
LOOK_UPS = [
    *((copying._block_best_kernel, {"LONGEST": longest}) for longest in (1, 8, 127)),
    *((copying._continue_kernel, {"BLOCKS": blocks, "PLACES": 8}) for blocks in (1, 128, 1024)),
]
"""Kernels of the copy look-up with their constants: the shortest, usual and longest match that is
told from longer ones; texts of up to one, 128 and 1024 blocks, the last a million tokens."""
REGISTERS = 65536
"""Of a multiprocessor, whatever the compute capability."""
OBJECT_DUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def compiled(
    kernel: object,
    types: Mapping[str, str],
    constants: Mapping[str, int | bool],
    aligned: Collection[str],
    capability: int,
    **options: int,
) -> CompiledKernel:
    """A kernel for a GPU. Arguments are int32 where no type is given."""
    names = kernel.arg_names  # type: ignore[attr-defined]
    types = types | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        kernel,
        {name: types.get(name, "i32") for name in names},
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in aligned},
    )
    return compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)


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
    made = compiled(kernel, types, constants, ALIGNED, capability, num_warps=4, num_stages=3)
    taken: int = made.metadata.shared
    return taken


def registers(kernel: CompiledKernel) -> tuple[int, int]:
    """Those of a thread, and bytes of what found no room in them."""
    with TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(kernel.asm["cubin"])
        command = [str(OBJECT_DUMP), "-res-usage", str(binary)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", said))
    return int(found["REG"]), int(found["STACK"]) + int(found["LOCAL"])


def check_look_ups(capability: int) -> None:
    """Every kernel of the copy look-up, for tables whose rows are aligned and for others."""
    rows_aligned = {*TABLES, "width", "row_stride"}
    for (kernel, constants), aligned in itertools.product(LOOK_UPS, (rows_aligned, TABLES)):
        constants = constants | {"BLOCK": copying.BLOCK}
        made = compiled(kernel, TABLES, constants, aligned, capability, num_warps=4)
        (held, spilt), shared = registers(made), made.metadata.shared
        what = f"copying, {constants}: {held} registers, {spilt} bytes spilt, {shared} bytes"
        if spilt or held * 4 * 32 > REGISTERS or shared > SHARED_MEMORY[capability] * 1024:
            sys.exit(f"{what} on a GPU with {SHARED_MEMORY[capability]} KiB")
        print(f"{what} fits")


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
    check_look_ups(capability)


if __name__ == "__main__":
    main(int(sys.argv[1]))
