"""The devices that a plan is made for, by their data sheets. TensorFlow is not imported here.

Every number is an assumption; `electra-plan` and docs/scale.md print them.
"""

import dataclasses
import os

# Prices differ by provider and fall; yours is what counts.
PRICES_OF = "January 2025"
GIB = 2**30
# Of a device's memory, what is left beside the driver, the collective library's buffers and gaps.
USABLE_MEMORY = 0.9


@dataclasses.dataclass(frozen=True)
class Device:
    """A device that holds one replica.

    Attributes:
      name: what tables call it.
      peak: operations a second of dense matrix products in bfloat16.
      peak_float32: the same of float32 tensors as TensorFlow multiplies them there: TF32 on GPUs, three products of
        bfloat16 on TPUs.
      attainable: fraction of the peak that large products reach.
      memory: bytes.
      bandwidth: bytes a second of its memory.
      link: bytes a second and direction that it sends in an all-reduce of up to `group` devices.
      group: devices that are linked so: the GPUs of a machine, a slice of a TPU pod.
      network: the same between groups: its share of what the machine's network carries.
      per_host: devices whose input one process makes.
      price: US dollars an hour, on demand, rounded; None: nobody charges for it.
      is_compiled: whether XLA compiles steps as a whole there.
    """

    name: str
    peak: float
    peak_float32: float
    attainable: float
    memory: float
    bandwidth: float
    link: float
    group: int
    network: float
    per_host: int
    price: float | None
    is_compiled: bool = True

    def rate(self, precision: str) -> float:
        """Returns the attainable operations a second of matrix products in a `config.runtime.precision`."""
        return self.attainable * self.peak_rate(precision)

    def peak_rate(self, precision: str) -> float:
        """Returns the operations a second of matrix products that its data sheet promises."""
        return self.peak_float32 if precision == "float32" else self.peak

    def all_reduce_bandwidth(self, number: int) -> float:
        """Returns the bytes a second and direction of a ring over `number` devices.

        A ring over several machines enters and leaves each once, over all its network cards together.
        """
        return self.link if number <= self.group else min(self.link, self.network * self.group)


# Peaks, memory and its bandwidth: data sheets of NVIDIA A100 (2021), H100 SXM (2023) and L4 (2023), and Google Cloud's
# pages on TPU v4 and v5e. Attainable: see `scale.PASSES_COMPILED` for A100; the others are taken to be alike, H100 less
# so, whose memory grew less than its rate. Links: what rings reach of NVLink's 300 and 450 GB/s a direction, L4's of
# PCIe 4, and half of a TPU's links (6 and 4 of 50 GB/s a direction). Network: 40 GB/s for the eight A100 of a machine
# are what NVIDIA's BERT run on 256 of them shows (docs/scale.md); H100's machines have cards of twice the rate; L4's
# and TPUs' are their network's rate.
ACCELERATORS = (
    Device("A100 80 GB", 312e12, 156e12, 0.75, 80 * GIB, 2.0e12, 230e9, 8, 5e9, 8, 2.0),
    Device("H100 80 GB", 989e12, 495e12, 0.6, 80 * GIB, 3.35e12, 340e9, 8, 10e9, 8, 3.0),
    Device("TPU v4", 275e12, 92e12, 0.75, 32 * GIB, 1.2e12, 150e9, 4096, 6e9, 4, 3.2),
    Device("TPU v5e", 197e12, 66e12, 0.75, 16 * GIB, 0.82e12, 100e9, 256, 6e9, 8, 1.2),
    Device("L4 24 GB", 121e12, 60e12, 0.75, 24e9, 0.3e12, 12e9, 8, 1.5e9, 8, 0.7),
)

# Of one core: operations a second in float32, in bfloat16 where the processor multiplies it and where it does not, and
# bytes a second of TensorFlow's elementwise operations; of its network, 10 Gbit/s.
_CORE_FLOAT32, _CORE_BFLOAT16, _CORE_EMULATED, _CORE_BANDWIDTH = 80e9, 200e9, 20e9, 4e9
_CPU_NETWORK = 1.25e9


def this_cpu() -> Device:
    """Returns the CPU of this machine, by its cores, memory and instructions; `--measure` knows better."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Device(
        f"CPU here, {cores} core{'s' if cores > 1 else ''}",
        peak=cores * (_CORE_BFLOAT16 if _multiplies_bfloat16() else _CORE_EMULATED),
        peak_float32=cores * _CORE_FLOAT32,
        attainable=1.0,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        bandwidth=cores * _CORE_BANDWIDTH,
        link=_CPU_NETWORK,
        group=1,
        network=_CPU_NETWORK,
        per_host=1,
        price=None,
        is_compiled=False,
    )


def _multiplies_bfloat16() -> bool:
    try:
        with open("/proc/cpuinfo") as stream:
            text = stream.read()
    except OSError:  # no Linux: as if it did not
        return False
    return "avx512_bf16" in text or "amx_bf16" in text
