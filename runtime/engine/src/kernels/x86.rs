//! The kernels of x86-64: their tiles, and the CPU features they need.

#![allow(unsafe_code)]

use super::{amx, avx2, avx512};

vector_unit! {
    /// AMX-INT8 beside AVX-512.
    Amx, "amx", avx512::Floats, amx::Quantized, ["avx512f", "avx512vnni", "avx2", "fma"],
    if amx::is_allowed()
}

vector_unit! {
    /// AVX-512 F and VNNI, and the AVX2 and FMA below them.
    Avx512Vnni, "avx512vnni", avx512::Floats, avx512::Quantized, ["avx512f", "avx512vnni", "avx2", "fma"]
}

vector_unit! {
    /// AVX-512 F, which every CPU with AVX-512 has; int8 by AVX2.
    Avx512, "avx512", avx512::Floats, avx2::Quantized, ["avx512f", "avx2", "fma"]
}

vector_unit! {
    /// AVX2, FMA and F16C; int8 by AVX-VNNI.
    AvxVnni, "avxvnni", avx2::Floats, avx2::VnniQuantized, ["avx2", "fma", "f16c", "avxvnni"]
}

vector_unit! {
    /// AVX2, FMA and F16C, which come together.
    Avx2, "avx2", avx2::Floats, avx2::Quantized, ["avx2", "fma", "f16c"]
}
