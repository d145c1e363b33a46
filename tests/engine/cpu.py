"""What this machine's processor can do of what vLLM's kernels for the CPU need."""

from pathlib import Path

# Without it vLLM has neither an FP8 KV cache nor a kernel for INT4 weights on a CPU.
HAS_AVX512 = "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
