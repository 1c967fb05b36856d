"""Exact figures of the test networks, on one thread, by PyTorch version.

Per (net, batch), of a second training step (SGD with momentum 0.9, zero_grad at the end of the step), in bytes above the
step's start: events, retained when backward starts (with the 4-byte seed gradient), highest point in forward, peak, and
the peak of a forward with gradients off.  Peaks hold on AVX2 and better.  Where the same holds of several versions they
share a table; for another version, scripts/train.py prints what the witness sees.
"""



class ByVersion(dict):
    """What is expected of a PyTorch version; one that is not named is expected to be like the last."""

    def __missing__(self, version):
        return list(self.values())[-1]


_FIGURES = {
    ("E1", 1): (58, 56, 72, 240, 36),
    ("E1", 64): (58, 3_332, 3_852, 4_660, 2_304),
    ("E1+ReLU", 64): (66, 3_332, 3_852, 5_428, 2_560),
    ("E2", 1): (106, 832_644, 1_440_000, 20_048_032, 960_000),
    ("E2", 64): (128, 53_288_460, 56_320_000, 85_088_032, 40_960_000),
    ("E3", 1): (116, 276_532, 337_920, 3_755_696, 337_920),
    ("E3", 64): (122, 17_697_292, 19_304_448, 35_366_576, 19_304_448),
}
# The same nets, but Optimizer.step() and zero_grad() each make two tensors for the profiler: 292 bytes while they run.
_FIGURES_1_13 = {
    net: (events + 8, retained, forward_peak, max(peak, 512) if net[0].startswith("E1") else peak, inference_peak)
    for net, (events, retained, forward_peak, peak, inference_peak) in _FIGURES.items()
}
FIGURES = ByVersion({"1.13.1": _FIGURES_1_13, "2.13.0": _FIGURES, "2.14.1": _FIGURES})

PARAMETER_BYTES = {"E1": 212, "E1+ReLU": 212, "E2": 18_531_608, "E3": 3_255_208}

# Peaks by batch of a steady step, bytes above its start.
_PEAKS = {
    "E1": {1: 240, 2: 272, 4: 392, 8: 632, 16: 1_204, 32: 2_356, 64: 4_660, 128: 9_268},
    "E1+ReLU": {1: 240, 2: 272, 4: 392, 8: 724, 16: 1_396, 32: 2_740, 64: 5_428, 128: 10_804},
    "E2": {2: 20_608_032, 8: 26_848_032, 64: 85_088_032},
    "E3": {2: 4_257_456, 8: 7_268_016, 64: 35_366_576},
}
PEAKS = ByVersion({"2.13.0": _PEAKS, "2.14.1": _PEAKS})

# E2, batch 64: state that an optimizer keeps after the first step, that step's peak above its start and its phase.
_OPTIMIZERS = {
    "sgd": (0, 85_088_032, "backward"),
    "momentum": (18_531_608, 85_088_032, "backward"),
    "adam": (37_063_248, 92_459_128, "optimizer"),
}
OPTIMIZERS = ByVersion({"1.13.1": _OPTIMIZERS, "2.13.0": _OPTIMIZERS, "2.14.1": _OPTIMIZERS})

# Table R1 on E2, batch 64, SGD with momentum: most bytes of each class at one time in a steady step, and the peak.
R1_E2 = {
    "parameter": 18_531_608,
    "input": 1_920_512,
    "activation": 53_288_456,
    "forward_temporary": 40_960_000,
    "gradient": 18_531_608,
    "backward_temporary": 40_963_588,  # the 4-byte gradient of the loss among them
    "optimizer_state": 18_531_608,
}
R1_E2_PEAK = 124_071_760

# Sizes of blocks of no category in that run.
UNKNOWN = ByVersion({"1.13.1": {4, 288}, "2.13.0": set(), "2.14.1": set()})

AVX2 = ("AVX2", "AVX512")


def peaks_hold(capability):
    """Whether @capability (torch.backends.cpu.get_cpu_capability()) is one for which the peaks above were measured."""
    return capability.startswith(AVX2)
