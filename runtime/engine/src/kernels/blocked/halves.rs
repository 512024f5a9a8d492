//! The loops around products with a matrix of halves.
#![allow(unsafe_code)]

use super::{Cut, Fetch, Job, TILE, Tile, each_tile};
use crate::{
    kernels::{HalfPanels, Rows, Start, check_product, float_of},
    layout::PANEL_WIDTH,
};

/// Floats in a block of any unit's panels.
const FLOATS: usize = 6144;

/// A block of panels, which begins on a cache line.
#[repr(align(64))]
struct Widened([f32; FLOATS]);

/// [`crate::kernels::Kernel::multiply_halves`]: a block of panels at a time is widened, and multiplied while it is in the cache.
///
/// # Safety
/// The CPU has the instructions of `T`.
pub(in crate::kernels) unsafe fn multiply_halves<T: Tile>(
    x: Rows<'_>,
    w: HalfPanels<'_>,
    start: Start<'_>,
    out: &mut [f32],
    stride: usize,
) {
    /// In a line of the cache.
    const HALVES_OF_LINE: usize = 32;
    const { assert!(T::ROWS * T::PANELS * PANEL_WIDTH <= TILE && T::PANELS * T::BLOCK * PANEL_WIDTH <= FLOATS) };
    check_product(x, (w.data, w.depth, w.columns), start, out, stride);
    let HalfPanels { data: panels, depth, columns } = w;
    let mut block = Widened([0.0; FLOATS]);
    // Each round would widen all panels anew.
    let cut = Cut { rows: T::ROWS, panels: T::PANELS, block: T::BLOCK, round: usize::MAX };
    each_tile((x.count, depth, columns), cut, start, out, stride, |place| {
        let size = place.depth * PANEL_WIDTH;
        // The other tiles of these panels follow the first.
        if place.tile == 0 {
            for (panel, wide) in block.0.chunks_exact_mut(size.max(1)).take(place.panels).enumerate() {
                let halves = &panels[(place.column + panel * PANEL_WIDTH) * depth + place.k * PANEL_WIDTH..][..size];
                // SAFETY: the caller vouches for the instructions.
                unsafe { T::widen(halves.as_chunks().0, wide.as_chunks_mut().0) }
            }
        }
        // Each tile prefetches its part of the panels that are widened next.
        if let Some((column, k)) = place.next {
            let lines = size / HALVES_OF_LINE;
            for line in place.tile * lines / place.tiles..(place.tile + 1) * lines / place.tiles {
                for panel in 0..place.panels {
                    let first = (column + panel * PANEL_WIDTH) * depth + k * PANEL_WIDTH;
                    T::fetch(panels.as_ptr().wrapping_add(first + line * HALVES_OF_LINE).cast());
                }
            }
        }
        // SAFETY: as in `multiply`, but that `block` holds the panels' part of this depth, side by side.
        unsafe {
            let job = Job {
                x: x.data.as_ptr().add(place.row * x.stride + place.k),
                x_stride: x.stride,
                w: block.0.as_ptr(),
                panel_stride: size,
                depth: place.depth,
                start: place.start,
                start_stride: place.start_stride,
                out: place.out,
                stride: place.stride,
                fetch: Fetch { ahead: block.0.as_ptr(), from: usize::MAX, step: 0 },
            };
            T::add(place.rows, place.panels, &job);
        }
    });
}

/// [`crate::kernels::Kernel::widen`] by rows of a panel.
///
/// # Safety
/// The CPU has the instructions of `T`.
pub(in crate::kernels) unsafe fn widen<T: Tile>(halves: &[u16], out: &mut [f32]) {
    let len = halves.len().min(out.len());
    let ((rows, rest), (wide, last)) = (halves[..len].as_chunks(), out[..len].as_chunks_mut());
    // SAFETY: the caller vouches for the instructions.
    unsafe { T::widen(rows, wide) }
    last.iter_mut().zip(rest).for_each(|(out, half)| *out = float_of(*half));
}
