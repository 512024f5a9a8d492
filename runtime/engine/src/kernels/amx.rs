//! AMX: int8 jobs of 16 rows by four panels.
//!
//! A register of AMX has 16 rows of 64 bytes. One instruction, TDPBUSD, multiplies the activations of 16 rows with 64
//! inputs of a panel, which lie in the panel as the instruction reads them. AVX-512 multiplies the inputs beyond the last
//! 64, and scales the sums. Linux lets a process use the registers once it has asked.

#![allow(unsafe_code)]

use core::{arch::asm, mem::MaybeUninit};

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
/// Bytes of a panel that a register holds.
const BYTES: usize = FOURS * LINE;
/// Panels of a job: as many registers as are left to hold sums.
const PANELS: usize = 4;
/// Fewest rows of a job for which AMX is used. By Intel's figures, of 64 inputs of a panel TDPBUSD takes a cycle for each row
/// and its load at least eight cycles, however many rows there are; VNNI takes eight for each row.
const LEAST: usize = 4;

/// AMX-INT8, and AVX-512 VNNI.
pub(super) struct Quantized;

impl QuantizedTile for Quantized {
    const ROWS: usize = ROWS;
    const PANELS: usize = PANELS;
    /// A step takes 64 cycles at most, a sixth of what memory does.
    const AHEAD: usize = 8 * FOURS;

    unsafe fn begin(rows: usize) {
        if rows >= LEAST {
            let shapes = Shapes::of(rows as u8);
            // SAFETY: the caller vouches for AMX, and the shapes are those of a palette.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, preserves_flags)) }
        }
    }

    unsafe fn end(rows: usize) {
        if rows >= LEAST {
            // SAFETY: the caller vouches for AMX, and nothing else uses its registers.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
        }
    }

    unsafe fn add(rows: usize, panels: usize, job: &QuantizedJob) {
        // A product of at least `LEAST` rows is cut into jobs of no fewer.
        const { assert!(2 * LEAST <= ROWS) };
        let steps = if rows < LEAST { 0 } else { job.fours / FOURS };
        let mut products = MaybeUninit::<Products>::uninit();
        let products = products.as_mut_ptr().cast::<i32>();
        // SAFETY: the caller vouches for the instructions, for `begin`, and for the job. Rows and panels are cut into
        // those of AVX-512's instances; of each, `multiply` has written the sums.
        unsafe {
            if steps > 0 {
                multiply(panels, job, steps, products);
            }
            for (panel, panels) in tiles_of(panels, avx512::Quantized::PANELS) {
                for (row, rows) in tiles_of(rows, avx512::Quantized::ROWS) {
                    let before = avx512::Before {
                        sums: products.add((panel * ROWS + job.back + row) * PANEL_WIDTH),
                        panel_stride: ROWS * PANEL_WIDTH,
                        fours: steps * FOURS,
                    };
                    let before = if steps > 0 { Some(&before) } else { None };
                    avx512::add_to(rows, panels, &job.part(row, panel), before);
                }
            }
        }
    }
}

/// Sums of products of bytes: a register for each panel.
#[repr(align(64))]
struct Products(#[expect(dead_code, reason = "read through a pointer")] [[[i32; PANEL_WIDTH]; ROWS]; PANELS]);

/// The shapes of the registers, as LDTILECFG reads them: Intel's manual, volume 1, chapter 18.
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
    fn of(rows: u8) -> Self {
        const { assert!(size_of::<Shapes>() == 64) };
        let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        shapes.bytes[..8].fill(LINE as u16);
        shapes.rows[..5].fill(rows);
        shapes.rows[5..8].fill(FOURS as u8);
        shapes
    }
}

/// Sums the products of `steps` times 64 inputs, for as many rows as the registers have, of which the first is `back` rows
/// before the job's.
///
/// # Safety
/// As [`QuantizedTile::add`]; the job has so many inputs, and `steps` is not 0. `products` is writable: [`Products`].
unsafe fn multiply(panels: usize, job: &QuantizedJob, steps: usize, products: *mut i32) {
    let QuantizedJob { x, x_stride, w, panel_stride, fetch, back, .. } = *job;
    // All in one, for the compiler knows nothing of what is in these registers.
    macro_rules! multiply {
        ($([$sums:tt $panel:tt $place:literal])+) => {
            asm!(
                $(concat!("tilezero ", $sums),)+
                "2:",
                // Of the lines that are due during this step those of all panels.
                "cmp {fetch_at}, {BYTES}",
                "jae 3f",
                "lea {next}, [{ahead} + {fetch_at}]",
                $(concat!("prefetcht0 [{next}] /* for ", $panel, " */"), "add {next}, {panel_stride}",)+
                "add {fetch_at}, {fetch_step}",
                "jmp 2b",
                "3:",
                "sub {fetch_at}, {BYTES}",
                "add {ahead}, {BYTES}",
                "tileloadd tmm4, [{x} + {x_stride}]",
                "mov {next}, {w}",
                $(
                    concat!("tileloadd ", $panel, ", [{next} + {line}]"),
                    concat!("tdpbusd ", $sums, ", tmm4, ", $panel),
                    "add {next}, {panel_stride}",
                )+
                "add {x}, {LINE}",
                "add {w}, {BYTES}",
                "dec {steps}",
                "jnz 2b",
                $(concat!("tilestored [{products} + {line} + {BYTES} * ", $place, "], ", $sums),)+
                x = inout(reg) x.sub(back * x_stride) => _,
                x_stride = in(reg) x_stride,
                w = inout(reg) w => _,
                panel_stride = in(reg) panel_stride,
                line = in(reg) LINE,
                steps = inout(reg) steps => _,
                products = in(reg) products,
                ahead = inout(reg) fetch.ahead => _,
                fetch_at = inout(reg) fetch.from.saturating_mul(LINE) => _,
                fetch_step = in(reg) fetch.step * LINE,
                next = out(reg) _,
                LINE = const LINE,
                BYTES = const BYTES,
                $(out($sums) _,)+
                out("tmm4") _,
                out("tmm5") _,
                out("tmm6") _,
                out("tmm7") _,
                options(nostack),
            )
        };
    }
    // SAFETY: every address is within the ranges of the job, and of `products`: rows from `back` before it on, as many
    // as `begin` was told; panels below `panels`; inputs below `steps` times 64. Fetching an address, wherever it is,
    // changes nothing, and no more lines are due in a step than it has.
    unsafe {
        match panels {
            1 => multiply!(["tmm0" "tmm5" 0]),
            2 => multiply!(["tmm0" "tmm5" 0]["tmm1" "tmm6" 1]),
            3 => multiply!(["tmm0" "tmm5" 0]["tmm1" "tmm6" 1]["tmm2" "tmm7" 2]),
            _ => multiply!(["tmm0" "tmm5" 0]["tmm1" "tmm6" 1]["tmm2" "tmm7" 2]["tmm3" "tmm5" 3]),
        }
    }
}

/// Whether this process may use the registers: the processor has them, and Linux allows it, from version 5.16 on. Once
/// allowed, they are for all of its threads; a program that it starts has to ask again. From then on Linux refuses
/// alternate signal stacks that could not hold them, 11 KB.
#[cfg(all(feature = "std", target_os = "linux"))]
pub(super) fn is_allowed() -> bool {
    if has_registers() {
        return ask_linux();
    }
    // Tests execute the instructions in software.
    #[cfg(all(test, not(miri)))]
    super::tests::tiles::install();
    cfg!(all(test, not(miri)))
}

/// Nothing asks without an operating system, or another than Linux.
#[cfg(not(all(feature = "std", target_os = "linux")))]
pub(super) fn is_allowed() -> bool {
    false
}

/// Whether the processor has AMX-TILE and AMX-INT8. It has the leaf, for it has AVX-512.
#[cfg(all(feature = "std", target_os = "linux"))]
fn has_registers() -> bool {
    const FEATURES: u32 = 1 << 24 | 1 << 25;
    #[allow(unused_unsafe, reason = "newer versions of Rust have it safe")]
    // SAFETY: every x86-64 has the instruction.
    let leaf = unsafe { core::arch::x86_64::__cpuid_count(7, 0) };
    leaf.edx & FEATURES == FEATURES
}

/// Asks for the registers, and gives whether they are allowed. A processor without them is told no.
#[cfg(all(feature = "std", target_os = "linux"))]
fn ask_linux() -> bool {
    /// Linux's documentation, `arch/x86/xstate.rst`: the system call, what it does, and the registers' number.
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;

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

#[cfg(all(test, feature = "std", target_os = "linux", not(miri)))]
mod tests {
    #[test]
    fn linux_allows_no_registers_that_the_processor_lacks() {
        assert!(super::has_registers() || !super::ask_linux());
    }
}
