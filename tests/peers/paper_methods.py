"""The methods that the BitFit paper compares biases with: Houlsby's adapters and diff pruning, for pytorch_train.py.

In: an encoder of transformers' class BertModel. Out: the parameters to train in each phase of a training, the encoder with them,
what is added to the loss, and how many values a task is.
"""

import math

import torch
from torch.func import functional_call
from torch.nn import functional

# Bounds of the stretched gates, and their temperature: Louizos et al. 2018, as Guo et al. have them.
LOWEST, HIGHEST = -1.5, 1.5
# What the penalty is worth at the begin, when all gates are open: 1.25e-7 for each of BERT-large's parameters.
PENALTY = 1.25e-7 * 334e6
GATES_RATE = 0.1


class Adapter(torch.nn.Module):
    """A bottleneck with a residual connection, which begins as almost nothing."""

    def __init__(self, width, size):
        super().__init__()
        self.down, self.up = torch.nn.Linear(width, size), torch.nn.Linear(size, width)
        for layer in (self.down, self.up):
            torch.nn.init.normal_(layer.weight, std=1e-2)
            torch.nn.init.zeros_(layer.bias)

    def forward(self, x):
        return x + self.up(functional.gelu(self.down(x)))


class Houlsby:
    """Two adapters a layer, after its attention and its MLP; they and the LayerNorms are trained (Houlsby et al. 2019)."""

    phases = 1

    def __init__(self, encoder, size):
        for parameter in encoder.parameters():
            parameter.requires_grad = False
        for layer in encoder.encoder.layer:
            for output in (layer.attention.output, layer.output):
                width = output.dense.out_features
                output.dense = torch.nn.Sequential(output.dense, Adapter(width, size))
        for module in encoder.modules():
            if isinstance(module, (Adapter, torch.nn.LayerNorm)):
                for parameter in module.parameters():
                    parameter.requires_grad = True
        self.trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]

    def groups(self, rate):
        return [{"params": self.trained, "lr": rate}]

    def run(self, encoder, inputs, sampled):
        return encoder(**inputs)

    def added_loss(self):
        return 0.0

    def values(self):
        return sum(parameter.numel() for parameter in self.trained)


class DiffPruning:
    """A sparse difference to the weights (Guo, Rush and Kim 2020), without its structured gates and without a difference to the
    word embeddings. First the difference times its gates, with a penalty on gates that are open; then the largest values alone."""

    phases = 2

    def __init__(self, encoder, fraction):
        self.fraction, self.kept, self.weights = fraction, None, {}
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad = False
            # Without the pooler, which is not used either.
            if not name.startswith(("embeddings.word_embeddings.", "pooler.")):
                self.weights[name] = parameter.data
        self.differences = [torch.nn.Parameter(torch.zeros_like(weight)) for weight in self.weights.values()]
        self.gates = [torch.nn.Parameter(torch.full_like(weight, 5.0)) for weight in self.weights.values()]
        self.penalty = PENALTY / sum(weight.numel() for weight in self.weights.values())

    def groups(self, rate):
        found = [{"params": self.differences, "lr": rate}]
        return found if self.kept else [*found, {"params": self.gates, "lr": GATES_RATE}]

    def run(self, encoder, inputs, sampled):
        """Gates are drawn for a step, and have their middle in an evaluation."""
        gates = self.kept or [self.gate(gates, sampled) for gates in self.gates]
        weights = {
            name: weight + gate * difference
            for (name, weight), gate, difference in zip(self.weights.items(), gates, self.differences)
        }
        return functional_call(encoder, weights, (), inputs)

    def gate(self, gates, sampled):
        noise = 0.0
        if sampled:
            uniform = torch.rand_like(gates).clamp(1e-6, 1 - 1e-6)
            noise = uniform.log() - (-uniform).log1p()
        return (torch.sigmoid(gates + noise) * (HIGHEST - LOWEST) + LOWEST).clamp(0, 1)

    def added_loss(self):
        if self.kept:
            return 0.0
        shift = math.log(-LOWEST / HIGHEST)
        return self.penalty * sum(torch.sigmoid(gates - shift).sum() for gates in self.gates)

    def prune(self):
        """Keeps the largest of the gated differences."""
        with torch.no_grad():
            found = [self.gate(gates, False) * difference for gates, difference in zip(self.gates, self.differences)]
            sizes = torch.cat([values.abs().flatten() for values in found])
            least = sizes.kthvalue(sizes.numel() - self.values() + 1).values
            self.kept = [(values.abs() >= least).float() for values in found]
            for difference, values, kept in zip(self.differences, found, self.kept):
                difference.copy_(values * kept)

    def values(self):
        return round(self.fraction * sum(weight.numel() for weight in self.weights.values()))
