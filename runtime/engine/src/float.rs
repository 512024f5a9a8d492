//! Functions of f32 and f64 that std has and core lacks, from libm, under the same names. Only builds without std use
//! them.

/// Functions that std gives to a floating-point number.
pub(crate) trait Float: Sized {
    fn exp(self) -> Self;
    fn mul_add(self, a: Self, b: Self) -> Self;
    fn powi(self, n: i32) -> Self;
    fn round_ties_even(self) -> Self;
    fn sqrt(self) -> Self;
    fn tanh(self) -> Self;
}

macro_rules! float {
    ($float:ty, $exp:path, $fma:path, $rint:path, $sqrt:path, $tanh:path) => {
        impl Float for $float {
            fn exp(self) -> Self {
                $exp(self)
            }
            fn mul_add(self, a: Self, b: Self) -> Self {
                $fma(self, a, b)
            }
            fn powi(self, n: i32) -> Self {
                (0..n).fold(1.0, |power, _| power * self)
            }
            fn round_ties_even(self) -> Self {
                $rint(self)
            }
            fn sqrt(self) -> Self {
                $sqrt(self)
            }
            fn tanh(self) -> Self {
                $tanh(self)
            }
        }
    };
}

float!(f32, libm::expf, libm::fmaf, libm::rintf, libm::sqrtf, libm::tanhf);
float!(f64, libm::exp, libm::fma, libm::rint, libm::sqrt, libm::tanh);
