"""Notes how many bytes a rank's heads and scorer send at a time. On PYTHONPATH of one test only.

A line for each exchange, in a file for each process under the folder LMTP_TEST_EXCHANGES.
"""

import os

if "LMTP_TEST_EXCHANGES" in os.environ:
    import wrapt

    def _note(module):
        gather = module.tensor_model_parallel_all_gather

        def noting(tensor, *args, **kwargs):
            path = os.path.join(os.environ["LMTP_TEST_EXCHANGES"], str(os.getpid()))
            with open(path, "a") as file:
                file.write(f"{tensor.numel() * tensor.element_size()}\n")
            return gather(tensor, *args, **kwargs)

        module.tensor_model_parallel_all_gather = noting

    wrapt.register_post_import_hook(_note, "vllm_lmtp.worker.heads")
