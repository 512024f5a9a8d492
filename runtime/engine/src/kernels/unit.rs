//! Makes a [`super::Kernel`] of a vector unit.
//!
//! In: a unit's two tiles and the names of its CPU features. Out: a kernel. Its products are the tiles in the loops of
//! [`super::blocked`], and its row arithmetic is [`super::wide`], compiled for the features. The same list of names
//! enables the features and detects them.

/// Whether this CPU has a feature: detected at run time with std, else known to the compiler.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! has_feature {
    ($feature:tt) => {{
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        let found = std::arch::is_x86_feature_detected!($feature);
        #[cfg(all(feature = "std", target_arch = "aarch64"))]
        let found = std::arch::is_aarch64_feature_detected!($feature);
        #[cfg(not(feature = "std"))]
        let found = cfg!(target_feature = $feature);
        found
    }};
}

/// A function of [`super::wide`], compiled for the features of a unit, as a method of its kernel.
macro_rules! compiled_for {
    ([$($feature:tt),*] fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?) => {
        fn $name(&self, $($argument: $type),*) $(-> $result)? {
            $(#[target_feature(enable = $feature)])*
            unsafe fn $name($($argument: $type),*) $(-> $result)? {
                crate::kernels::wide::$name($($argument),*)
            }
            // SAFETY: `detect`, the only way to a kernel, has found the features.
            unsafe { $name($($argument),*) }
        }
    };
}

/// A [`super::Kernel`] for a vector unit: its name, its tiles of f32 and of int8, its features, and perhaps its products
/// of halves. `if` asks for more than the features. A unit for which Rust cannot compile functions has no features, but a
/// function that detects it.
macro_rules! vector_unit {
    ($(#[$doc:meta])* $unit:ident, $name:literal, $floats:ty, $quantized:ty, [$($feature:tt),+] $(, halves $halves:ty)?) => {
        vector_unit!(
            $(#[$doc])* $unit, $name, $floats, $quantized, [$($feature),+], $(has_feature!($feature))&&+ $(, halves $halves)?
        );
    };
    ($(#[$doc:meta])* $unit:ident, $name:literal, $floats:ty, $quantized:ty, [$($feature:tt),+], if $more:expr) => {
        vector_unit!(
            $(#[$doc])* $unit, $name, $floats, $quantized, [$($feature),+], $(has_feature!($feature))&&+ && $more
        );
    };
    (
        $(#[$doc:meta])* $unit:ident, $name:literal, $floats:ty, $quantized:ty, [$($feature:tt),*], $detected:expr
        $(, halves $halves:ty)?
    ) => {
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

            fn multiply_halves(
                &self,
                x: crate::kernels::Rows<'_>,
                w: crate::kernels::HalfPanels<'_>,
                start: crate::kernels::Start<'_>,
                out: &mut [f32],
                stride: usize,
            ) {
                // SAFETY: as above.
                unsafe { crate::kernels::blocked::multiply_halves::<$floats>(x, w, start, out, stride) }
            }

            fn multiply_quantized(
                &self,
                x: crate::kernels::QuantizedRows<'_>,
                w: crate::kernels::QuantizedPanels<'_>,
                start: crate::kernels::Start<'_>,
                out: &mut [f32],
                stride: usize,
            ) {
                // SAFETY: as above.
                unsafe { crate::kernels::blocked::multiply_quantized::<$quantized>(x, w, start, out, stride) }
            }

            $(
                fn halves(&self) -> Option<&dyn crate::kernels::Halves> {
                    <$halves>::detect().map(|halves| halves as &dyn crate::kernels::Halves)
                }
            )?

            fn multiply_transposed(
                &self,
                y: crate::kernels::Rows<'_>,
                w: crate::kernels::Panels<'_>,
                out: &mut [f32],
                stride: usize,
            ) {
                $(#[target_feature(enable = $feature)])*
                unsafe fn transpose(block: &[f32], transposed: &mut [f32]) {
                    crate::kernels::wide::transpose(block, transposed);
                }
                // SAFETY: as above.
                unsafe {
                    crate::kernels::blocked::multiply_transposed::<$floats>(y, w, out, stride, |a, b| transpose(a, b))
                }
            }

            fn widen(&self, halves: &[u16], out: &mut [f32]) {
                // SAFETY: as above.
                unsafe { crate::kernels::blocked::widen::<$floats>(halves, out) }
            }

            compiled_for!([$($feature),*] fn activate(activation: crate::Activation, values: &mut [f32]));
            compiled_for!([$($feature),*] fn activate_backward(
                activation: crate::Activation, values: &[f32], gradients: &mut [f32]
            ));
            compiled_for!([$($feature),*] fn quantize(values: &[f32], quantized: &mut [u8]) -> crate::kernels::Scale);
            compiled_for!([$($feature),*] fn dequantize(panel: &[i8], scales: &[f32], out: &mut [f32]));
            compiled_for!([$($feature),*] fn unpack(panel: &[crate::kernels::Packed], out: &mut [i8]));
            compiled_for!([$($feature),*] fn dot(a: &[f32], b: &[f32]) -> f32);
            compiled_for!([$($feature),*] fn add_scaled(factor: f32, x: &[f32], out: &mut [f32]));
            compiled_for!([$($feature),*] fn exponentials(row: &mut [f32]) -> f32);
            compiled_for!([$($feature),*] fn normalize(
                row: &mut [f32], gain: &[f32], bias: Option<&[f32]>, epsilon: f32
            ) -> f32);
        }
    };
}
