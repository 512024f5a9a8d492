//! How a vector unit becomes a [`super::Kernel`]: its two tiles in their loops, and row arithmetic compiled for its features.

/// A [`super::Kernel`] for a vector unit: `detect`, two tiles in their loops, and row arithmetic compiled for the unit's
/// features, if those can be enabled for a function.
macro_rules! vector_unit {
    ($(#[$doc:meta])* $unit:ident, $name:literal, $floats:ty, $codes:ty, $($features:literal)?, $detected:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $unit(());

        impl $unit {
            /// The kernel, if this CPU can run it.
            pub(crate) fn detect() -> Option<&'static Self> {
                static KERNEL: $unit = $unit(());
                $detected.then_some(&KERNEL)
            }
        }

        impl crate::kernels::Kernel for $unit {
            fn name(&self) -> &'static str {
                $name
            }

            fn multiply(
                &self,
                x: crate::kernels::Rows<'_>,
                w: crate::kernels::Panels<'_>,
                start: crate::kernels::Start<'_>,
                out: &mut [f32],
                stride: usize,
            ) {
                // SAFETY: `detect`, the only way to a kernel, has found the unit's features.
                unsafe { crate::kernels::blocked::multiply::<$floats>(x, w, start, out, stride) }
            }

            fn multiply_codes(
                &self,
                x: crate::kernels::CodeRows<'_>,
                w: crate::kernels::CodePanels<'_>,
                start: crate::kernels::Start<'_>,
                out: &mut [f32],
                stride: usize,
            ) {
                // SAFETY: as above.
                unsafe { crate::kernels::blocked::multiply_codes::<$codes>(x, w, start, out, stride) }
            }

            fn multiply_transposed(
                &self,
                y: crate::kernels::Rows<'_>,
                w: crate::kernels::Panels<'_>,
                out: &mut [f32],
                stride: usize,
            ) {
                $(#[target_feature(enable = $features)])?
                unsafe fn turn(block: &[f32], turned: &mut [f32]) {
                    crate::kernels::wide::turn(block, turned);
                }
                // SAFETY: as above.
                unsafe {
                    crate::kernels::blocked::multiply_transposed::<$floats>(y, w, out, stride, |a, b| turn(a, b))
                }
            }

            fn activate_adjoint(&self, activation: bias_patch::Activation, values: &[f32], gradients: &mut [f32]) {
                $(#[target_feature(enable = $features)])?
                unsafe fn activate_adjoint(activation: bias_patch::Activation, values: &[f32], gradients: &mut [f32]) {
                    crate::kernels::wide::activate_adjoint(activation, values, gradients);
                }
                // SAFETY: as above.
                unsafe { activate_adjoint(activation, values, gradients) }
            }

            fn encode(&self, values: &[f32], codes: &mut [u8]) -> crate::kernels::Scale {
                $(#[target_feature(enable = $features)])?
                unsafe fn encode(values: &[f32], codes: &mut [u8]) -> crate::kernels::Scale {
                    crate::kernels::wide::encode(values, codes)
                }
                // SAFETY: as above.
                unsafe { encode(values, codes) }
            }

            fn widen(&self, panel: &[i8], scales: &[f32], out: &mut [f32]) {
                $(#[target_feature(enable = $features)])?
                unsafe fn widen(panel: &[i8], scales: &[f32], out: &mut [f32]) {
                    crate::kernels::wide::widen(panel, scales, out);
                }
                // SAFETY: as above.
                unsafe { widen(panel, scales, out) }
            }

            fn activate(&self, activation: bias_patch::Activation, values: &mut [f32]) {
                $(#[target_feature(enable = $features)])?
                unsafe fn activate(activation: bias_patch::Activation, values: &mut [f32]) {
                    crate::kernels::wide::activate(activation, values);
                }
                // SAFETY: as above.
                unsafe { activate(activation, values) }
            }

            fn exponentials(&self, row: &mut [f32]) -> f32 {
                $(#[target_feature(enable = $features)])?
                unsafe fn exponentials(row: &mut [f32]) -> f32 {
                    crate::kernels::wide::exponentials(row)
                }
                // SAFETY: as above.
                unsafe { exponentials(row) }
            }

            fn normalise(&self, row: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32) -> f32 {
                $(#[target_feature(enable = $features)])?
                unsafe fn normalise(row: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32) -> f32 {
                    crate::kernels::wide::normalise(row, gain, bias, epsilon)
                }
                // SAFETY: as above.
                unsafe { normalise(row, gain, bias, epsilon) }
            }
        }
    };
}
