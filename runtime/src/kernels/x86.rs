//! The kernels of x86-64: which tiles go together, and which CPUs run them.

#![allow(unsafe_code)]

use super::{avx2, avx512};

/// Whether this CPU has all of these.
macro_rules! has {
    ($($feature:tt),+) => {
        $(is_x86_feature_detected!($feature))&&+
    };
}

vector_unit! {
    /// AVX-512 F and VNNI, and the AVX2 and FMA below them.
    Avx512Vnni, "avx512vnni", avx512::Floats, avx512::Codes, "avx512f,avx512vnni,avx2,fma",
    has!("avx512f", "avx512vnni", "avx2", "fma")
}

vector_unit! {
    /// AVX-512 F, which every CPU with AVX-512 has; codes by AVX2.
    Avx512, "avx512", avx512::Floats, avx2::Codes, "avx512f,avx2,fma",
    has!("avx512f", "avx2", "fma")
}

vector_unit! {
    /// AVX2 and FMA; codes by AVX-VNNI.
    AvxVnni, "avxvnni", avx2::Floats, avx2::VnniCodes, "avx2,fma,avxvnni",
    has!("avx2", "fma", "avxvnni")
}

vector_unit! {
    /// AVX2 and FMA.
    Avx2, "avx2", avx2::Floats, avx2::Codes, "avx2,fma",
    has!("avx2", "fma")
}
