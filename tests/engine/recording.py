"""A stand-in for a GPU that records: it runs a function again into the same places, so that whoever keeps a result too
long, or forgets to copy its input, shows on a CPU, too. On a GPU the same tests record real graphs."""

import torch

from deed.engine import cuda_graphs as graphs

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


class Tape:
    """Counts recordings and replays; stands in for the GPU where there is none."""

    def __init__(self):
        self.made = self.run = 0
        self.real = graphs.record

    def record(self, function, replay):
        self.made += 1
        if GPU:
            again = self.real(function, replay)
        else:
            replay.outputs = tuple(x.clone() for x in function(*replay.inputs))

            def again():
                for place, x in zip(replay.outputs, function(*replay.inputs), strict=True):
                    place.copy_(x)

        def counted():
            self.run += 1
            again()

        return counted


def using(model):
    """`use_cuda_graphs`, whatever the device."""
    vars(model)[graphs.KEPT] = graphs.Recordings()
    return model
