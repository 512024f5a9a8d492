#!/usr/bin/env bash
# Makes patches of this directory of trained values: make.sh BUNDLE TRAINED DATA. TRAINED has sst2 and stsb, each with
# biases.safetensors, and the trained mrpc.bias and pos.bias; DATA/SET/train.tsv has the texts that are searched on.
set -euo pipefail
bundle=$(realpath "$1") trained=$(realpath "$2") data=$(realpath "$3")
cd "$(dirname "$0")"
temporary=$(mktemp -d)
trap 'rm -r "$temporary"' EXIT

import() { # name, data, how it was trained
    edge-patch import --encoder "$bundle" --from "$trained/$1/biases.safetensors" --task "tasks/$1.json" \
        --note "data=$2" --note "made=$3" -o "$temporary/$1.bias"
}

search() { # patch, most points to lose, set of texts, notes
    edge-patch convert "$1" --encoder "$bundle" --max-loss "$2" --texts "$data/$3/train.tsv" "${@:4}" -o "$(basename "$1")"
}

import sst2 "SST-2, 67349 sentences of film reviews and parts of them" "PyTorch, AdamW, all biases, lr 1e-3, 2 epochs, batch 16"
import stsb "STS-B, 5749 pairs of sentences scored 0 to 5" "PyTorch, AdamW, all biases, lr 3e-3, 3 epochs, batch 16"
search "$temporary/sst2.bias" 0.5 SST2-sentences --note "metric=accuracy 85.21 on the 872 sentences of its dev set"
search "$temporary/stsb.bias" 0.5 STS-B --note "metric=Spearman 85.48 on the 1500 pairs of its dev set"
search "$trained/mrpc.bias" 1.5 MRPC --note "metric=accuracy 81.62 on the 408 pairs of its dev set" \
    --note "data=MRPC, 3668 pairs of sentences from news"
search "$trained/pos.bias" 1.5 UD-EWT-POS --note "metric=token accuracy 95.56 on the 2001 sentences of its dev set" \
    --note "data=UD English EWT, 12544 sentences"
