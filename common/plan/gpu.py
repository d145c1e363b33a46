"""GPUs, by what bounds a language model on them."""

from dataclasses import dataclass
from typing import Final

GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU. Rates are the vendor's peaks for dense matrices; nothing exceeds them.

    Attributes:
        name: What the command line calls it.
        memory_bytes: Its memory.
        bandwidth: Bytes per second between memory and processor.
        bf16_flops: Operations per second on 16 bit numbers.
        fp8_flops: On 8 bit numbers; as on 16 bit ones where it has no such units.
        link_bandwidth: Bytes per second and direction between GPUs.
        link_latency_s: What one all-reduce takes at the least: a few microseconds over NVLink with vLLM's own kernel,
            tens of them through the host's memory, where the cards have no peer access (NCCL's tests, small messages).

    """

    name: str
    memory_bytes: float
    bandwidth: float
    bf16_flops: float
    fp8_flops: float
    link_bandwidth: float
    link_latency_s: float


_PCIE4, _NVLINK3, _NVLINK4 = (32e9, 40e-6), (300e9, 8e-6), (450e9, 8e-6)

# From NVIDIA's data sheets and architecture papers (Ada: accumulation in 32 bit for BF16, in 16 bit for FP8).
GPUS: Final = {
    gpu.name: gpu
    for gpu in (
        Gpu("rtx4090d", 24 * GIB, 1008e9, 147e12, 294e12, *_PCIE4),
        Gpu("rtx4090", 24 * GIB, 1008e9, 165e12, 330e12, *_PCIE4),
        Gpu("l4", 24 * GIB, 300e9, 121e12, 242e12, *_PCIE4),
        Gpu("l40s", 48 * GIB, 864e9, 362e12, 733e12, *_PCIE4),
        Gpu("a100", 80 * GIB, 2039e9, 312e12, 312e12, *_NVLINK3),
        Gpu("h100", 80 * GIB, 3350e9, 989e12, 1979e12, *_NVLINK4),
        Gpu("h200", 141e9, 4800e9, 989e12, 1979e12, *_NVLINK4),
    )
}
DEFAULT_GPU: Final = "rtx4090d"
