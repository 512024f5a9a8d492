#!/usr/bin/env bash
# Makes the patches of this directory of trained biases: make.sh BUNDLE DIR, where DIR/NAME/biases.safetensors are they.
set -euo pipefail
bundle=$(realpath "$1") trained=$(realpath "$2")
cd "$(dirname "$0")"
temporary=$(mktemp -d)
trap 'rm -r "$temporary"' EXIT

make() { # name, data, how it was trained, metric of the rounded patch
    edge-patch import --encoder "$bundle" --from "$trained/$1/biases.safetensors" --task "tasks/$1.json" \
        --note "data=$2" --note "made=$3" -o "$temporary/$1.bias"
    edge-patch convert "$temporary/$1.bias" --encoder "$bundle" --encoding i4 --note "metric=$4" -o "$1.bias"
}

make sst2 "SST-2, 67349 sentences of film reviews and parts of them" \
    "PyTorch, AdamW, all biases, lr 1e-3, 2 epochs, batch 16" "accuracy 85.21 on the 872 sentences of its dev set"
make mrpc "MRPC, 3668 pairs of sentences from news" \
    "PyTorch, AdamW, all biases, lr 1e-3, 5 epochs, batch 16, dropout 0.1" "F1 83.77 on the 408 pairs of its dev set"
make stsb "STS-B, 5749 pairs of sentences scored 0 to 5" \
    "PyTorch, AdamW, all biases, lr 3e-3, 3 epochs, batch 16" "Spearman 85.82 on the 1500 pairs of its dev set"
