//! AMX: int8 tiles of 16 rows by four panels.
//!
//! A register of AMX, called a tile too, has 16 rows of 64 bytes. One instruction multiplies the activations of 16 rows
//! with 64 inputs of a panel, which lie in the panel as the instruction reads them. The sums are scaled by AVX-512,
//! which also multiplies inputs beyond the last 64. Linux lets a process use the registers once it has asked.

#![allow(unsafe_code)]

use core::{
    arch::{
        asm,
        x86_64::{__cpuid_count, _MM_HINT_T0, _mm_prefetch},
    },
    mem::MaybeUninit,
    ptr,
};

use crate::layout::{PANEL_GROUP, PANEL_WIDTH};

use super::{
    avx512,
    blocked::{QuantizedJob, QuantizedTile, tiles_of},
};

/// Rows of a register.
const ROWS: usize = 16;
/// Bytes of its rows: [`PANEL_GROUP`] inputs of each column of a panel, or 64 inputs of a row of activations.
const LINE: usize = PANEL_GROUP * PANEL_WIDTH;
/// [`PANEL_GROUP`]s of inputs that an instruction multiplies.
const FOURS: usize = LINE / PANEL_GROUP;
/// Panels of a job: as many registers as are left to hold sums.
const PANELS: usize = 4;
/// Fewest rows of a product. A product of registers takes a cycle for each row, but their loads take eight and more;
/// VNNI takes eight for each row.
const LEAST: usize = 4;

/// AMX-INT8, and AVX-512 VNNI.
pub(super) struct Quantized;

impl QuantizedTile for Quantized {
    const ROWS: usize = ROWS;
    const PANELS: usize = PANELS;

    unsafe fn begin(count: usize) {
        if count >= LEAST {
            let shapes = Shapes::of(count.min(ROWS) as u8);
            // SAFETY: the caller vouches for AMX, and the shapes are those of a palette.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, preserves_flags)) }
        }
    }

    unsafe fn end() {
        // SAFETY: the caller vouches for AMX, and nothing else uses its registers.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
    }

    unsafe fn add(rows: usize, panels: usize, job: &QuantizedJob) {
        // A product of at least `LEAST` rows is cut into jobs of no fewer.
        const { assert!(2 * LEAST <= ROWS) };
        let steps = if rows < LEAST { 0 } else { job.fours / FOURS };
        let mut sums = MaybeUninit::<Sums>::uninit();
        let sums = sums.as_mut_ptr().cast::<i32>();
        // SAFETY: the caller vouches for the instructions, for `begin`, and for the job. Rows and panels are cut into
        // those of AVX-512's instances; of each, `multiply` has written the sums.
        unsafe {
            match (steps, panels) {
                (0, _) => {}
                (_, 1) => multiply::<1>(job, steps, sums),
                (_, 2) => multiply::<2>(job, steps, sums),
                (_, 3) => multiply::<3>(job, steps, sums),
                _ => multiply::<4>(job, steps, sums),
            }
            for (panel, panels) in tiles_of(panels, avx512::Quantized::PANELS) {
                for (row, rows) in tiles_of(rows, avx512::Quantized::ROWS) {
                    let sums = match steps {
                        0 => ptr::null(),
                        _ => sums.add((panel * ROWS + job.back + row) * PANEL_WIDTH).cast_const(),
                    };
                    let sums = avx512::Sums { first: sums, panel_stride: ROWS * PANEL_WIDTH, fours: steps * FOURS };
                    avx512::add_to(rows, panels, &job.part(row, panel), &sums);
                }
            }
        }
    }
}

/// Sums of products of bytes, a register for each panel.
#[repr(align(64))]
struct Sums(#[expect(dead_code, reason = "read through a pointer")] [[[i32; PANEL_WIDTH]; ROWS]; PANELS]);

/// The shapes of the registers, as the instruction `ldtilecfg` reads them: Intel's manual, volume 1, chapter 18.
#[repr(C, align(64))]
struct Shapes {
    /// 1: eight registers of at most 16 rows of 64 bytes.
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Of sums, tmm0 to tmm3, and activations, tmm4, for so many rows; and of panels, tmm5 to tmm7.
    fn of(count: u8) -> Self {
        const { assert!(size_of::<Shapes>() == 64) };
        let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        shapes.bytes[..8].fill(LINE as u16);
        shapes.rows[..5].fill(count);
        shapes.rows[5..8].fill(FOURS as u8);
        shapes
    }
}

/// Sums the products of `steps` times 64 inputs, for as many rows as the registers have, of which the first is `back` rows
/// before the job's.
///
/// # Safety
/// As [`QuantizedTile::add`]; `P` is the number of panels, and the job has so many inputs. `sums` is writable for each panel:
/// a [`Sums`].
unsafe fn multiply<const P: usize>(job: &QuantizedJob, steps: usize, sums: *mut i32) {
    /// Bytes of a panel that a register holds.
    const BYTES: usize = FOURS * LINE;
    let QuantizedJob { x_stride, w, panel_stride, fetch, .. } = *job;
    // The compiler knows nothing of what is in these registers, and keeps the order of the instructions.
    //
    // SAFETY: every offset is within the ranges of the job: rows from `back` before it on, panels below `P`, inputs below
    // `steps` times 64; of `sums` too. Fetching an address, wherever it is, changes nothing.
    unsafe {
        let x = job.x.sub(job.back * x_stride);
        macro_rules! each_panel {
            ($do:ident) => {
                $do!(0, "tmm0", "tmm5");
                $do!(1, "tmm1", "tmm6");
                $do!(2, "tmm2", "tmm7");
                $do!(3, "tmm3", "tmm5");
            };
        }
        macro_rules! zero {
            ($panel:literal, $sums:tt, $w:tt) => {
                if $panel < P {
                    asm!(concat!("tilezero ", $sums), out($sums) _, options(nostack, preserves_flags));
                }
            };
        }
        each_panel!(zero);
        let mut fetch_at = fetch.from;
        for step in 0..steps {
            while fetch_at < (step + 1) * FOURS {
                for p in 0..P {
                    _mm_prefetch::<_MM_HINT_T0>(fetch.ahead.wrapping_add(p * panel_stride + fetch_at * LINE));
                }
                fetch_at += fetch.step;
            }
            asm!(
                "tileloadd tmm4, [{x} + {stride}]",
                x = in(reg) x.add(step * LINE),
                stride = in(reg) x_stride,
                out("tmm4") _,
                options(nostack, preserves_flags),
            );
            macro_rules! add {
                ($panel:literal, $sums:tt, $w:tt) => {
                    if $panel < P {
                        asm!(
                            concat!("tileloadd ", $w, ", [{w} + {stride}]"),
                            concat!("tdpbusd ", $sums, ", tmm4, ", $w),
                            w = in(reg) w.add($panel * panel_stride + step * BYTES),
                            stride = in(reg) LINE,
                            out($sums) _,
                            out($w) _,
                            options(nostack, preserves_flags),
                        );
                    }
                };
            }
            each_panel!(add);
        }
        macro_rules! store {
            ($panel:literal, $sums:tt, $w:tt) => {
                if $panel < P {
                    asm!(
                        concat!("tilestored [{to} + {stride}], ", $sums),
                        to = in(reg) sums.add($panel * ROWS * PANEL_WIDTH),
                        stride = in(reg) LINE,
                        options(nostack, preserves_flags),
                    );
                }
            };
        }
        each_panel!(store);
    }
}

/// Whether this process may use the registers: the processor has them, and Linux allows it. Once allowed, they are for all
/// of its threads, and whatever it starts has to ask again.
#[cfg(all(feature = "std", target_os = "linux"))]
pub(super) fn is_allowed() -> bool {
    /// Of CPUID's leaf 7, in EDX: AMX-TILE and AMX-INT8.
    const FEATURES: u32 = 1 << 24 | 1 << 25;
    /// Linux's documentation, `arch/x86/xstate.rst`: the system call, what it does, and the registers' number.
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;

    if __cpuid_count(7, 0).edx & FEATURES != FEATURES {
        // Tests execute the instructions in software.
        #[cfg(all(test, not(miri)))]
        super::tests::tiles::install();
        return cfg!(all(test, not(miri)));
    }
    let answer: isize;
    // SAFETY: the call accesses no memory of the process, and a kernel that does not know it refuses.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

/// Nothing asks without an operating system, or another than Linux.
#[cfg(not(all(feature = "std", target_os = "linux")))]
pub(super) fn is_allowed() -> bool {
    false
}
